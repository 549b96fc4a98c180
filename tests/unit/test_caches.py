"""Caches are where nobody else can write, and only a command that may write makes them."""

from __future__ import annotations

from pathlib import Path

from rait.adapters.config import caches
from rait.adapters.config.caches import keeping


def test_a_cache_directory_is_made_for_us_alone(tmp_path):
    tmp_path.chmod(0o755)
    made = tmp_path / "cache"
    assert not caches.is_safe_directory(made), "a command that only looks makes none"
    with keeping():
        assert caches.is_safe_directory(made)
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_cache_directory_that_others_could_write_to_is_not_used(tmp_path):
    tmp_path.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    assert not caches.is_safe_directory(shared)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert not caches.is_safe_directory(link)
    (tmp_path / "file").touch()
    assert not caches.is_safe_directory(tmp_path / "file")
    assert not caches.is_safe_directory(Path("relative"))
    tmp_path.chmod(0o777)
    with keeping():
        assert not caches.is_safe_directory(tmp_path / "replaceable")
