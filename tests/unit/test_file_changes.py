"""Changes of files, as an administrator's tools make them. inotify tells before a call returns."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from inotify_simple import INotify

from rait.adapters.file_changes import FileChanges
from rait.domain.errors import MachineError


@pytest.fixture
def files() -> Iterator[FileChanges]:
    with FileChanges() as changes:
        yield changes


@pytest.fixture
def conf(files: FileChanges, tmp_path: Path) -> Path:
    """A file that is watched, in a directory with others."""
    conf = tmp_path / "etc" / "rait" / "rait.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("one")
    assert files.watch([str(conf)]) == {str(conf)}
    assert not files.take()
    return conf


def told(files: FileChanges) -> set[str]:
    """What has changed; told once and not again."""
    found = set(files.take())
    assert not files.take()
    return found


def test_an_editor_that_replaces_the_file(files: FileChanges, conf: Path) -> None:
    for text in ("two", "three"):
        new = conf.with_name(".rait.conf.swp")
        new.write_text(text)
        assert not files.take()
        new.rename(conf)
        assert told(files) == {str(conf)}


def test_an_editor_that_moves_the_file_away_and_writes_a_new_one(
    files: FileChanges, conf: Path
) -> None:
    conf.rename(conf.with_name("rait.conf~"))
    assert told(files) == {str(conf)}
    conf.write_text("two")
    assert told(files) == {str(conf)}
    conf.with_name("rait.conf~").unlink()
    assert not files.take()


def test_an_editor_that_keeps_the_file_open(files: FileChanges, conf: Path) -> None:
    with conf.open("a", buffering=1) as file:
        for line in ("two\n", "three\n"):
            file.write(line)
            assert told(files) == {str(conf)}


def test_a_write_through_memory_is_told_when_the_file_is_closed(
    files: FileChanges, conf: Path
) -> None:
    with conf.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:3] = b"two"
    assert told(files) == {str(conf)}


def test_reading_is_no_change(files: FileChanges, conf: Path) -> None:
    conf.read_text()
    conf.stat()
    assert not files.take()


def test_a_write_by_another_name_of_the_file(files: FileChanges, conf: Path) -> None:
    other = conf.parent.parent / "hard"
    other.hardlink_to(conf)
    files.take()
    other.write_text("two")
    assert told(files) == {str(conf)}


def test_a_mode_and_an_owner(files: FileChanges, conf: Path) -> None:
    conf.chmod(0o644 if conf.stat().st_mode & 0o777 != 0o644 else 0o600)
    assert told(files) == {str(conf)}
    os.chown(conf, os.getuid(), os.getgid())
    assert told(files) == {str(conf)}


def test_a_file_that_is_deleted_and_made_again(files: FileChanges, conf: Path) -> None:
    for _ in range(3):
        conf.unlink()
        assert told(files) == {str(conf)}
        conf.write_text("two")
        assert told(files) == {str(conf)}
        conf.write_text("three")
        assert told(files) == {str(conf)}


def test_a_directory_that_is_removed_and_made_again(files: FileChanges, conf: Path) -> None:
    for _ in range(3):
        conf.unlink()
        conf.parent.rmdir()
        conf.parent.parent.rmdir()
        assert told(files) == {str(conf)}
        conf.parent.mkdir(parents=True)
        conf.write_text("two")
        assert told(files) == {str(conf)}
        conf.write_text("three")
        assert told(files) == {str(conf)}


def test_a_directory_far_above_that_is_exchanged(files: FileChanges, conf: Path) -> None:
    etc = conf.parent.parent
    etc.rename(etc.with_name("old"))
    assert told(files) == {str(conf)}
    (etc.with_name("old") / "rait" / "rait.conf").write_text("nobody's")
    assert not files.take()
    etc.with_name("old").rename(etc)
    assert told(files) == {str(conf)}
    conf.write_text("two")
    assert told(files) == {str(conf)}


def test_a_file_that_does_not_exist_yet_in_a_directory_that_does_not(
    files: FileChanges, tmp_path: Path
) -> None:
    peers = tmp_path / "var" / "lib" / "peers"
    files.watch([str(peers)])
    (tmp_path / "other").mkdir()
    assert not files.take()
    peers.parent.mkdir(parents=True)
    files.take()
    peers.write_text("one")
    assert told(files) == {str(peers)}


def test_kubernetes_swaps_a_link_beside_the_file(files: FileChanges, tmp_path: Path) -> None:
    """A config map: peers -> ..data/peers, ..data -> ..2026_1; the latter is what is replaced."""
    for version in ("..2026_1", "..2026_2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "peers").write_text(version)
    (tmp_path / "..data").symlink_to("..2026_1")
    peers = tmp_path / "peers"
    peers.symlink_to("..data/peers")
    files.watch([str(peers)])
    (tmp_path / "..data_tmp").symlink_to("..2026_2")
    assert not files.take()
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert told(files) == {str(peers)}
    (tmp_path / "..2026_1" / "peers").unlink()
    (tmp_path / "..2026_1").rmdir()
    assert not files.take()
    (tmp_path / "..2026_2" / "peers").write_text("in place")
    assert told(files) == {str(peers)}


def test_a_chain_of_links_as_of_alternatives(files: FileChanges, tmp_path: Path) -> None:
    """conf -> alternatives/conf -> ../../share/one: the last by a relative way, the first not."""
    for name in ("share", "etc", "etc/alternatives"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        (tmp_path / "share" / name).write_text(name)
    middle = tmp_path / "etc" / "alternatives" / "conf"
    middle.symlink_to("../../share/one")
    conf = tmp_path / "etc" / "conf"
    conf.symlink_to(middle)
    files.watch([str(conf)])
    (tmp_path / "share" / "one").write_text("in place")
    assert told(files) == {str(conf)}
    (tmp_path / "share" / "two").write_text("not yet ours")
    assert not files.take()
    new = middle.with_name("new")
    new.symlink_to("../../share/two")
    new.rename(middle)
    assert told(files) == {str(conf)}
    (tmp_path / "share" / "two").write_text("ours now")
    assert told(files) == {str(conf)}


def test_links_that_lead_in_a_circle_until_they_do_not(files: FileChanges, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.symlink_to("there")
    there.symlink_to("here")
    files.watch([str(here)])
    there.unlink()
    there.write_text("a file")
    assert told(files) == {str(here)}


def test_other_files_beside_it_change_nothing(files: FileChanges, conf: Path) -> None:
    """The journal is often there, and is written at each sync."""
    journal = conf.with_name("journal.db")
    for _ in range(100):
        with journal.open("ab") as file:
            file.write(b"page")
        wal = conf.with_name("journal.db-wal")
        wal.write_bytes(b"page")
        wal.unlink()
        journal.chmod(0o600)
    assert not files.take()


def test_another_set_of_files(files: FileChanges, conf: Path) -> None:
    key = conf.with_name("key")
    assert files.watch([str(conf), str(key)]) == {str(key)}
    key.write_text("secret")
    assert told(files) == {str(key)}
    assert files.watch([str(key)]) == set()
    conf.write_text("two")
    assert not files.take()
    key.unlink()
    conf.rename(key)
    assert told(files) == {str(key)}


def test_one_file_by_two_paths(files: FileChanges, conf: Path) -> None:
    alias = conf.with_name("alias")
    alias.symlink_to(conf.name)
    files.watch([str(conf), str(alias)])
    conf.write_text("two")
    assert told(files) == {str(conf), str(alias)}
    alias.unlink()
    assert told(files) == {str(alias)}


def test_a_queue_that_runs_over_means_that_all_may_have_changed(
    files: FileChanges, conf: Path
) -> None:
    """Names that count fill the queue; then the change of a file has no room in it."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    key = conf.with_name("key")
    key.write_text("secret")
    files.watch([str(conf), str(key)])
    other = conf.with_name("other")
    for _ in range(most // 4 + 1):
        other.touch()
        other.rename(conf.with_name("another"))
        conf.with_name("another").unlink()
    key.write_text("another secret")
    assert told(files) == {str(conf), str(key)}
    conf.write_text("two")
    assert told(files) == {str(conf)}


def test_a_burst_is_told_as_one(files: FileChanges, conf: Path) -> None:
    for number in range(1000):
        conf.write_text(str(number))
    assert told(files) == {str(conf)}


def test_a_change_wakes_up_who_waits(files: FileChanges, conf: Path) -> None:
    async def main() -> None:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for text in ("two", "three"):
                    tasks.start_soon(anyio.to_thread.run_sync, conf.write_text, text)
                    assert await files.changed() == {str(conf)}
                    await anyio.sleep(0)

    anyio.run(main)


def test_who_waits_for_nothing_can_be_cancelled(files: FileChanges, conf: Path) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.05) as scope:
            await files.changed()
        assert scope.cancelled_caught
        conf.write_text("two")
        with anyio.fail_after(60):
            assert await files.changed() == {str(conf)}

    anyio.run(main)


def test_no_descriptor_is_left() -> None:
    before = descriptors()
    with FileChanges() as changes:
        changes.watch(["/nowhere/at/all", "/etc/hostname"])
        assert descriptors() - before, "there is something to be left"
    assert not descriptors() - before


def descriptors() -> set[str]:
    """What this process has open of inotify; threads of other tests may open and close the rest."""
    found = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(f"{file} {file.readlink()}")
    return {each for each in found if "inotify" in each}


@pytest.mark.parametrize("code", ["EMFILE", "ENOSPC"])
def test_a_limit_of_the_kernel_names_its_switch(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def refuse(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, code), "no more")

    if code == "EMFILE":
        monkeypatch.setattr(INotify, "__init__", refuse)
        with pytest.raises(MachineError, match="max_user_instances"):
            FileChanges()
    else:
        monkeypatch.setattr(INotify, "add_watch", refuse)
        with FileChanges() as changes, pytest.raises(MachineError, match="max_user_watches"):
            changes.watch([str(tmp_path / "file")])
