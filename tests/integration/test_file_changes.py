"""Mounts make a path lead to another file, and inotify tells nothing of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from rait.adapters.file_changes import FileChanges

pytestmark = pytest.mark.userspace


@contextmanager
def mounted(what: str | Path, place: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", *options, str(what), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    conf = tmp_path / "rait" / "rait.conf"
    conf.parent.mkdir()
    conf.write_text("below")
    return conf


def test_a_mount_over_the_directory_and_its_end(conf: Path) -> None:
    with FileChanges() as files:
        files.watch([str(conf)])
        with mounted("none", conf.parent, "-t", "tmpfs"):
            assert files.take() == {str(conf)}
            conf.write_text("above")
            assert files.take() == {str(conf)}
            # What is watched in a file system does not keep it busy.
            subprocess.run(["umount", str(conf.parent)], check=True)
            assert files.take() == {str(conf)}
        conf.write_text("below again")
        assert files.take() == {str(conf)}


def test_a_file_of_elsewhere_is_bound_over_it(conf: Path, tmp_path: Path) -> None:
    """As container engines do with single files; writes come by the path outside."""
    outside = tmp_path / "outside.conf"
    outside.write_text("outside")
    with FileChanges() as files:
        files.watch([str(conf)])
        with mounted(outside, conf, "--bind"):
            assert files.take() == {str(conf)}
            outside.write_text("written outside")
            assert files.take() == {str(conf)}


def test_mounts_elsewhere_are_no_change_and_others_wake_up_who_waits(
    conf: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def main() -> None:
        with FileChanges() as files, anyio.fail_after(60):
            files.watch([str(conf)])
            conf.write_text("written")
            assert await files.changed() == {str(conf)}
            with mounted("none", elsewhere, "-t", "tmpfs"):
                with anyio.move_on_after(0.2) as scope:
                    await files.changed()
                assert scope.cancelled_caught
                async with anyio.create_task_group() as tasks:
                    command = ["mount", "-t", "tmpfs", "none", str(conf.parent)]
                    tasks.start_soon(anyio.run_process, command)
                    assert await files.changed() == {str(conf)}

    try:
        anyio.run(main)
    finally:
        subprocess.run(["umount", str(conf.parent)], check=False, capture_output=True)
