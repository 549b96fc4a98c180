"""The journal's file: its tables and their versions, how it is opened, and what its errors mean.

The table ``entries`` is append-only and holds all that happened. ``head`` has one row, with the
bounds of the entries: where their hash chain begins and ends. ``repeats`` counts runs that only
repeat the last one (see Appender in store.py). The indexes hold nothing that is not in a table; the
verification compares them with it.

How the journal grows: a new version of the schema is one more function in ``STEPS``. Whoever opens
an old journal to write migrates it, in one transaction; whoever opens one to read migrates a copy
in memory, as a reader writes nothing.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TypeVar

from msgspec import structs

from rait.adapters.closing import closed, on_error
from rait.adapters.lock import kind_of_file
from rait.domain import records
from rait.domain.config.keytext import without_whole_keys
from rait.domain.errors import HistoryError, MachineError
from rait.domain.records import Head, seal

_PLAIN = frozenset(b"/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""The bytes that a URI needs no escape for (RFC 3986, section 2.3), and the slash."""

BUSY_SECONDS = 10.0
"""The time to wait for another writer. A transaction of rait takes milliseconds."""

Answer = TypeVar("Answer")

_ADVICE = {
    "FULL": "there is no space left on its file system; free some and run rait again",
    "READONLY": "it cannot be written; check its permissions and that its file system is not "
    "mounted read-only",
    "CANTOPEN": "it cannot be opened; check that its directory is accessible and not read-only: "
    "after a crash, SQLite can only read it where it may write",
    "PERM": "permission is denied; run rait as root",
    "BUSY": "another process has it locked; `fuser` on the file shows which",
    "LOCKED": "another process has it locked; `fuser` on the file shows which",
    "CORRUPT": "it is damaged; move it aside to begin a new one",
    "NOTADB": "it is not an SQLite database: it is no journal of rait, or its beginning is "
    "damaged; rait left it as it is. If it is not rait's, set `journal` to another file",
    "IOERR": "its file system reports an input or output error",
}


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        """CREATE TABLE entries (
            id INTEGER PRIMARY KEY,
            run INTEGER NOT NULL,
            kind TEXT NOT NULL,
            scope TEXT NOT NULL,
            at INTEGER NOT NULL,
            payload BLOB NOT NULL,
            hash BLOB NOT NULL
        )"""
    )
    connection.execute("CREATE INDEX entries_by_run ON entries (run)")
    connection.execute("CREATE INDEX entries_by_kind ON entries (kind, scope)")
    # Every later version keeps this table's name and its column ``version``: by them, an older
    # rait knows that it is too old.
    connection.execute(
        """CREATE TABLE head (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            version INTEGER NOT NULL,
            dropped INTEGER NOT NULL,
            anchor BLOB NOT NULL,
            count INTEGER NOT NULL,
            hash BLOB NOT NULL,
            seal BLOB NOT NULL
        )"""
    )
    head = Head(version=1)
    connection.execute(
        "INSERT INTO head VALUES (1, ?, ?, ?, ?, ?, ?)",
        (head.version, head.dropped, head.anchor, head.count, head.hash, seal(head)),
    )


def _add_repeats(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE repeats (scope TEXT PRIMARY KEY, payload BLOB NOT NULL)")
    connection.execute("ALTER TABLE head ADD COLUMN repeats BLOB NOT NULL DEFAULT X''")


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create, _add_repeats)
"""Step n brings a journal of version n to version n + 1; version 0 is an empty file."""


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the schema, 0 for an empty file.

    Raises HistoryError for a version that this rait does not know, and for a file that is no
    journal.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return 0
    if "head" not in tables:
        raise HistoryError("it is an SQLite database, but not a journal of rait")
    row = connection.execute("SELECT version FROM head").fetchone()
    if row is None:
        raise HistoryError("the journal's head is gone")
    version = row[0]
    if not isinstance(version, int) or version < 1:
        raise HistoryError(f"the journal's version, {version!r}, is not one that rait ever wrote")
    if version > len(STEPS):
        raise HistoryError(
            f"the journal has version {version}, and this rait knows versions up to {len(STEPS)}: "
            "upgrade rait"
        )
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the journal to the newest version, in one transaction. Raises HistoryError."""
    if version_of(connection) == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for step in STEPS[version_of(connection) :]:
            step(connection)
        write_head(connection, structs.replace(read_head(connection), version=len(STEPS)))


def empty_journal() -> sqlite3.Connection:
    """An empty journal in memory, to read where there is no file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


def read_head(connection: sqlite3.Connection) -> Head:
    """The head. Raises HistoryError if it is missing, or its seal does not fit."""
    row = connection.execute(
        "SELECT version, dropped, anchor, count, hash, repeats, seal FROM head"
    ).fetchone()
    if row is None:
        raise HistoryError("the journal's head is gone; move the journal aside to begin a new one")
    head = Head(*row[:-1])
    if row[-1] != seal(head):
        # To append entries would hide that somebody changed the head.
        raise HistoryError("the journal's head was changed; move it aside to begin a new one")
    return head


def write_head(connection: sqlite3.Connection, head: Head) -> None:
    """Store the head and its seal, within the caller's transaction."""
    connection.execute(
        "UPDATE head SET version = ?, dropped = ?, anchor = ?, count = ?, hash = ?, repeats = ?, "
        "seal = ?",
        (*structs.astuple(head), seal(head)),
    )


def repeats_hash(connection: sqlite3.Connection) -> bytes:
    """The hash of the whole table ``repeats``, which the head holds."""
    rows = connection.execute("SELECT scope, payload FROM repeats ORDER BY scope").fetchall()
    return records.repeats_hash(rows)


@contextmanager
def explained(path: str, doing: str) -> Iterator[None]:
    """Turn errors of SQLite and the file system into a MachineError that says what to do.

    ``doing`` is the verb of "cannot ... the journal". A HistoryError gets the path before its text.
    """
    name = without_whole_keys(path)
    try:
        yield
    except HistoryError as error:
        raise HistoryError(f"{name}: {error}") from None
    except sqlite3.Error as error:
        kind = _kind(error)
        if kind == "IOERR" and _is_full(path):
            kind = "FULL"  # SQLite reports IOERR if there is no space for its -shm file
        advice = _ADVICE.get(kind, "")
        raise MachineError(
            f"cannot {doing} the journal {name}: {advice or 'SQLite refuses'} ({error})"
        ) from None
    except UnicodeDecodeError:
        # The message of SQLite quotes bytes of the file, and sqlite3 fails to decode them.
        raise MachineError(f"cannot {doing} the journal {name}: {_ADVICE['CORRUPT']}") from None
    except OSError as error:
        why = _ADVICE["PERM"] if error.errno == errno.EACCES else error.strerror
        reason = _obstacle(path) or why
        raise MachineError(f"cannot {doing} the journal {name}: {reason}") from None


def check_is_journal(path: str) -> None:
    """Raise MachineError or HistoryError for a file that is no journal. Writes nothing.

    A file that is missing or empty may become a journal. Call this before anything is made beside
    the file, or its mode is changed.
    """
    with explained(path, "open"):
        _check(path)


def open_to_write(path: str) -> sqlite3.Connection:
    """Open the journal for writing, after making it (0600, in a directory of 0700) or migrating it.

    Raises MachineError where the file cannot be written, and HistoryError if a newer rait wrote it.
    """
    with explained(path, "open"):
        _check(path)
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        # SQLite gives its companion files (-wal, -shm) the mode of the database itself.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for file in (os.path.realpath(path), *_companions(path)):
            _make_private(file)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        with on_error(connection.close):
            version = version_of(connection)
            # Where a file system cannot do WAL, SQLite keeps its rollback journal, which is slower.
            connection.execute("PRAGMA journal_mode = WAL")
            # Intended events must be on disk before their first effect, even if the power fails.
            connection.execute("PRAGMA synchronous = FULL")
            if version < len(STEPS):
                migrate(connection)
        return connection


def ask(path: str, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
    """Answer a question from one consistent state of the journal, without writing anything.

    A file that does not exist is an empty journal. Raises MachineError where the file cannot be
    read, and HistoryError if it is no journal, or where the question raises that.
    """
    with explained(path, "read"):
        return _answer(path, question)


def absence(path: str) -> str:
    """Why there is no journal to read: no file, or an empty one; "" if there is one."""
    with explained(path, "read"):
        if _stamp(path) is not None:
            return ""
        return "the file is empty" if os.path.exists(path) else "there is no such file"


def _check(path: str) -> None:
    try:
        _answer(path, lambda _: None)
    except sqlite3.Error as error:
        # With a rollback journal, a file that a crash left half written can only be read after it
        # was opened to write.
        if _kind(error) not in ("READONLY", "CANTOPEN"):
            raise


def _answer(path: str, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
    stamp = _stamp(path)
    if stamp is None:
        with closing(empty_journal()) as connection:
            return question(connection)
    if _at_rest(path):
        # A plain read-only connection leaves -wal and -shm files behind, and fails on a read-only
        # file system. An immutable one does neither, but takes no lock against writers: so its
        # answer only counts if the file has not changed meanwhile.
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


def _kind(error: sqlite3.Error) -> str:
    """The primary code without SQLITE_: "IOERR" for SQLITE_IOERR_WRITE too; "" if unknown."""
    name = getattr(error, "sqlite_errorname", "").split("_")
    return name[1] if len(name) > 1 else ""


def _obstacle(path: str) -> str:
    """What stands in the way of a path, other than permissions; "" if nothing does."""
    with suppress(OSError):
        each = path
        while each and not os.path.isdir(each):
            if os.path.islink(each) and not os.path.exists(each):
                return f"{each} is a link to {os.readlink(each)}, which is not there"
            if each != path and os.path.exists(each):
                return f"{each} is not a directory"
            each = os.path.dirname(each)
    return ""


def _is_full(path: str) -> bool:
    try:
        return os.statvfs(os.path.dirname(path) or ".").f_bavail == 0
    except OSError:
        return False


def _connect_to_read(path: str, how: str) -> sqlite3.Connection:
    # Only a relative path needs the current directory, which may be gone.
    raw = os.fsencode(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
    quoted = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)
    uri = f"file:{quoted}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    with on_error(connection.close):
        if version_of(connection) == len(STEPS):
            return connection
        # An old journal is migrated in memory here, and on disk when it is next opened to write.
        copy = sqlite3.connect(":memory:", isolation_level=None)
        connection.backup(copy)
        migrate(copy)
    connection.close()
    return copy


def _stamp(path: str) -> tuple[int, ...] | None:
    """Changes with any write to the database file; None if there is nothing to read."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except ValueError:
        raise OSError(errno.EINVAL, "a path must not hold a NUL byte") from None
    if kind := kind_of_file(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind}; `journal` is to name a file of its own")
    if status.st_size == 0 and _at_rest(path):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _at_rest(path: str) -> bool:
    """Whether the database file itself has all that was committed, and no companion has any."""
    for file in _companions(path):
        with suppress(FileNotFoundError):
            if not file.endswith("-shm") and os.stat(file).st_size > 0:
                return False
    return True


def _unchanged(path: str, stamp: tuple[int, ...]) -> bool:
    return _at_rest(path) and _stamp(path) == stamp


def _companions(path: str) -> list[str]:
    real = os.path.realpath(path)  # SQLite follows links before it names its companion files
    return [real + suffix for suffix in ("-wal", "-shm", "-journal")]


def _make_private(file: str) -> None:
    """Let nobody else read the file, if it exists. Raises OSError for a link or no regular file."""
    try:
        mode = os.lstat(file).st_mode
    except FileNotFoundError:
        return
    if kind := kind_of_file(mode):
        raise OSError(errno.EINVAL, f"{file} is {kind}; move it away")
    if mode & 0o077:
        # Not by path: a link may have taken the file's place since.
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with closed(os.open(file, how)) as fd:
            os.fchmod(fd, 0o600)
