"""The journal's file: opened for writing or for reading, and its troubles explained."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from rait.adapters import journal_schema
from rait.domain.history import HistoryError
from rait.domain.problem import MachineError

BUSY_SECONDS = 10.0
"""How long to wait for another writer; a transaction of rait takes milliseconds."""

Answer = TypeVar("Answer")

_ADVICE = {
    "FULL": "there is no space left on its file system; free some and run rait again",
    "READONLY": "it cannot be written; check its permissions and that its file system is not "
    "mounted read-only",
    "CANTOPEN": "it cannot be opened; check that its directory is accessible and not read-only: "
    "what a crash left behind can only be read where SQLite may write",
    "PERM": "permission is denied",
    "BUSY": "another process holds it; see `fuser` on the file",
    "LOCKED": "another process holds it; see `fuser` on the file",
    "CORRUPT": "it is damaged; move it aside to begin a new one",
    "NOTADB": "it is not an SQLite database, or it is damaged; move it aside to begin a new one",
    "IOERR": "its file system reports an input or output error",
}


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn the troubles of SQLite and the file system into a MachineError that says what to do."""
    try:
        yield
    except HistoryError as error:
        raise HistoryError(f"{path}: {error}") from None
    except sqlite3.Error as error:
        # An extended code as SQLITE_IOERR_WRITE begins with the name of the primary one.
        name = getattr(error, "sqlite_errorname", "").split("_")
        kind = name[1] if len(name) > 1 else ""
        if kind == "IOERR" and _is_full(path):
            kind = "FULL"  # so SQLite calls it where its -shm file finds no space
        advice = _ADVICE.get(kind, "")
        raise MachineError(
            f"cannot {doing} the journal {path}: {advice or 'SQLite refuses'} ({error})"
        ) from None
    except UnicodeDecodeError:
        # SQLite's own message quotes what it could not read, and sqlite3 fails to decode that.
        raise MachineError(f"cannot {doing} the journal {path}: {_ADVICE['CORRUPT']}") from None
    except OSError as error:
        raise MachineError(f"cannot {doing} the journal {path}: {error.strerror}") from None


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the journal, made and migrated if need be; to be called within ``explained``."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its companion files (-wal, -shm) the mode of the database itself.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, *_companions(path)):
        _make_private(file)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        journal_schema.version_of(connection)
        # Where a file system cannot do WAL, SQLite stays with its rollback journal: just slower.
        connection.execute("PRAGMA journal_mode = WAL")
        # The intended events must be on disk before the first effect, power failure or not.
        connection.execute("PRAGMA synchronous = FULL")
        journal_schema.migrate(connection, journal_schema.STEPS)
    except BaseException:
        connection.close()
        raise
    return connection


def ask(path: Path, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
    """Answer from one consistent state of the journal, without writing anything.

    A journal that is not there yet is an empty one. To be called within ``explained``.
    """
    stamp = _stamp(path)
    if stamp is None:
        with closing(journal_schema.scaffold(journal_schema.STEPS)) as connection:
            return question(connection)
    if _at_rest(path):
        # A plain read-only connection would leave -wal and -shm files behind, and fail on a
        # read-only file system. An immutable one does neither, but nobody guards it against
        # writers: so its answer only counts if nothing has changed meanwhile.
        try:
            with closing(_connect_to_read(path, "immutable=1")) as connection:
                answer = question(connection)
        except (sqlite3.Error, UnicodeDecodeError):
            if _unchanged(path, stamp):
                raise
        else:
            if _unchanged(path, stamp):
                return answer
    with closing(_connect_to_read(path, "mode=ro")) as connection:
        connection.execute("BEGIN")
        return question(connection)


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _connect_to_read(path: Path, how: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        if journal_schema.version_of(connection) == len(journal_schema.STEPS):
            return connection
        # An old one is migrated in memory, and on disk when someone next writes to it.
        copy = sqlite3.connect(":memory:", isolation_level=None)
        connection.backup(copy)
        journal_schema.migrate(copy, journal_schema.STEPS)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return copy


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with any write to the database file; None if there is nothing to read."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if status.st_size == 0 and _at_rest(path):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _at_rest(path: Path) -> bool:
    """Whether all that was committed is in the database file itself."""
    for file in _companions(path):
        with suppress(FileNotFoundError):
            if not file.name.endswith("-shm") and file.stat().st_size > 0:
                return False
    return True


def _unchanged(path: Path, stamp: tuple[int, ...]) -> bool:
    return _at_rest(path) and _stamp(path) == stamp


def _companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def _make_private(file: Path) -> None:
    with suppress(FileNotFoundError):
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
