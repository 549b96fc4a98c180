"""Whoever reads a file again when it is told to, always has what the path leads to.

What a path leads to is its content, mode and owner, or the error of opening it. Random changes are
made to a small tree: by this process one after another, and by another one while this one listens.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rait.adapters.file_changes import FileChanges

NAMES = ("a", "b", "a/x", "a/b", "a/b/x", "b/x", "c")
WATCHED = ("a/x", "a/b/x", "b/x", "c")
TARGETS = (*NAMES, "x", "b/../x", "../c", ".", "ROOT/a/x", "ROOT/b", "c/")
UNSEEN = "other"
"""No path that is watched leads through an entry of this name."""

fewer = settings(max_examples=max(50, settings().max_examples // 4))

Operation = tuple[str, ...]

names = st.sampled_from(NAMES)
operations = st.one_of(
    st.tuples(st.sampled_from(("write", "append", "replace")), names, st.sampled_from("01")),
    st.tuples(st.sampled_from(("unlink", "mkdir", "rmdir", "mmap")), names),
    st.tuples(st.sampled_from(("rename", "exchange", "hardlink")), names, names),
    st.tuples(st.sampled_from(("symlink", "swap")), names, st.sampled_from(TARGETS)),
    st.tuples(st.just("chmod"), names, st.sampled_from(("600", "644", "700"))),
)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def replace(path: Path, text: str) -> None:
    new = path.with_name(UNSEEN)
    new.write_text(text)
    new.rename(path)


def exchange(path: Path, other: Path) -> None:
    aside = path.with_name(UNSEEN)
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def swap(path: Path, target: str) -> None:
    path.with_name(UNSEEN).symlink_to(target)
    path.with_name(UNSEEN).rename(path)


def through_memory(path: Path) -> None:
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:1] = bytes([memory[0] ^ 1])


def carry_out(root: Path, operation: Operation) -> None:
    """Change the tree, if the change is possible."""
    kind, path, *rest = operation[0], root / operation[1], *operation[2:]
    word = rest[0] if rest else ""
    target = word.replace("ROOT", str(root))
    does: Mapping[str, Callable[[], object]] = {
        "write": lambda: write(path, word),
        "append": lambda: append(path, word),
        "replace": lambda: replace(path, word),
        "unlink": lambda: path.unlink(),
        "mkdir": lambda: path.mkdir(),
        "rmdir": lambda: shutil.rmtree(path),
        "mmap": lambda: through_memory(path),
        "rename": lambda: path.rename(root / word),
        "exchange": lambda: exchange(path, root / word),
        "hardlink": lambda: path.hardlink_to(root / word),
        "symlink": lambda: path.symlink_to(target),
        "swap": lambda: swap(path, target),
        "chmod": lambda: path.chmod(int(word, 8)),
    }
    with suppress(OSError, ValueError):
        does[kind]()
    with suppress(OSError):
        path.with_name(UNSEEN).unlink()


def seen(path: Path) -> object:
    """What a path leads to, as rait would find it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return file.read(), status.st_mode, status.st_uid, status.st_gid
    except IsADirectoryError:
        return "a directory"
    except OSError:
        return "nothing"


@contextmanager
def tree() -> Iterator[tuple[Path, FileChanges, dict[str, object]]]:
    """A tree, what tells of its changes, and a view of the files that count."""
    with tempfile.TemporaryDirectory(prefix="rait-test-") as place, FileChanges() as changes:
        root = Path(place).resolve() / "root"
        root.mkdir()
        for directory in ("a", "b", "a/b"):
            (root / directory).mkdir()
        for name in WATCHED:
            (root / name).write_text("0")
        paths = {str(root / name) for name in WATCHED}
        assert changes.watch(paths) == paths
        yield root, changes, {path: seen(Path(path)) for path in paths}


@fewer
@given(st.lists(st.lists(operations, min_size=1, max_size=3), max_size=12))
@example([[("swap", "a", "b")], [("write", "b/x", "1")], [("unlink", "a")], [("rename", "b", "a")]])
@example([[("rmdir", "a")], [("mkdir", "a")], [("write", "a/x", "1")], [("append", "a/x", "1")]])
def test_each_change_is_told_before_the_next_call_returns(batches: list[list[Operation]]) -> None:
    with tree() as (root, changes, view):
        for batch in batches:
            for operation in batch:
                carry_out(root, operation)
            told = changes.take()
            for path, last in view.items():
                now = seen(Path(path))
                assert path in told or now == last, f"{batch} changed {path}: {last} -> {now}"
                view[path] = now


@fewer
@given(st.lists(operations, max_size=12), st.lists(operations, max_size=12))
def test_what_lies_beside_the_files_that_count_is_no_change(
    before: list[Operation], beside: list[Operation]
) -> None:
    with tree() as (root, changes, _):
        for operation in before:
            carry_out(root, operation)
        changes.take()
        inside = root / "beside"
        inside.mkdir()
        for operation in beside:
            if operation[0] not in ("symlink", "swap", "hardlink"):
                carry_out(inside, operation)
        (root / "journal.db").write_text("page")
        assert not changes.take()


@fewer
@given(st.lists(operations, min_size=1, max_size=20))
def test_who_reads_what_is_told_ends_with_what_there_is(some: list[Operation]) -> None:
    """Another process makes changes as fast as it can; the tree is followed all the while."""
    with tree() as (root, changes, view):
        pid = os.fork()
        if not pid:
            try:
                for operation in some * 10:
                    carry_out(root, operation)
            finally:
                os._exit(0)
        ended = False
        while not ended:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
            for path in changes.take():
                view[path] = seen(Path(path))
        assert view == {path: seen(Path(path)) for path in view}
