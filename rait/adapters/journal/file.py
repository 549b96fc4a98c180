"""The journal's file: its tables and how they grow, opened to write or to read, troubles explained.

``entries`` is append-only and holds all that happened; ``head`` is its one row of bounds, and
``repeats`` counts runs that did nothing new (see Appender in store.py). The indexes hold nothing of
their own, and the verification compares them with their table.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TypeVar

from msgspec import structs

from rait.adapters.lock import kind_of_file
from rait.domain import records
from rait.domain.config.keytext import without_whole_keys
from rait.domain.errors import HistoryError, MachineError
from rait.domain.records import Head, seal

_PLAIN = frozenset(b"/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""What stands for itself in a URI (RFC 3986, section 2.3), and the slash."""

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
    "NOTADB": "it is not an SQLite database: it is no journal of rait, or its beginning is "
    "damaged; it was left as it is. If it is not rait's, set `journal` to another file",
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
    # Every later version keeps this table's name and its version column: an older rait reads
    # them to know that it is older.
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
"""Step n takes a journal of version n to version n + 1; version 0 is an empty file."""


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version, 0 if there is no schema yet.

    Raises HistoryError for a newer one than this rait knows, and for what is no journal.
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
        raise HistoryError(f"the journal's version, {version!r}, is none that ever was")
    if version > len(STEPS):
        raise HistoryError(
            f"the journal has version {version}, and this rait knows versions up to {len(STEPS)}: "
            "upgrade rait"
        )
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the journal to the newest version, all or nothing; raises what ``version_of`` does."""
    if version_of(connection) == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for step in STEPS[version_of(connection) :]:
            step(connection)
        write_head(connection, structs.replace(read_head(connection), version=len(STEPS)))


def empty_journal() -> sqlite3.Connection:
    """A journal in memory: what there is to read where there is no file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


def read_head(connection: sqlite3.Connection) -> Head:
    """The head. Raises HistoryError if it is not what was written."""
    row = connection.execute(
        "SELECT version, dropped, anchor, count, hash, repeats, seal FROM head"
    ).fetchone()
    if row is None:
        raise HistoryError("the journal's head is gone; move the journal aside to begin a new one")
    head = Head(*row[:-1])
    if row[-1] != seal(head):
        # To append to it would bury the evidence.
        raise HistoryError("the journal's head was changed; move the journal aside to begin anew")
    return head


def write_head(connection: sqlite3.Connection, head: Head) -> None:
    """Store the head with its seal, within the caller's transaction."""
    connection.execute(
        "UPDATE head SET version = ?, dropped = ?, anchor = ?, count = ?, hash = ?, repeats = ?, "
        "seal = ?",
        (*structs.astuple(head), seal(head)),
    )


def repeats_hash(connection: sqlite3.Connection) -> bytes:
    """The hash of the whole table of repeats, for the head."""
    rows = connection.execute("SELECT scope, payload FROM repeats ORDER BY scope").fetchall()
    return records.repeats_hash(rows)


@contextmanager
def explained(path: str, doing: str) -> Iterator[None]:
    """Turn the troubles of SQLite and the file system into a MachineError that says what to do."""
    name = without_whole_keys(path)
    try:
        yield
    except HistoryError as error:
        raise HistoryError(f"{name}: {error}") from None
    except sqlite3.Error as error:
        kind = _kind(error)
        if kind == "IOERR" and _is_full(path):
            kind = "FULL"  # so SQLite calls it where its -shm file finds no space
        advice = _ADVICE.get(kind, "")
        raise MachineError(
            f"cannot {doing} the journal {name}: {advice or 'SQLite refuses'} ({error})"
        ) from None
    except UnicodeDecodeError:
        # SQLite's own message quotes what it could not read, and sqlite3 fails to decode that.
        raise MachineError(f"cannot {doing} the journal {name}: {_ADVICE['CORRUPT']}") from None
    except OSError as error:
        reason = _obstacle(path) or error.strerror
        raise MachineError(f"cannot {doing} the journal {name}: {reason}") from None


def check_is_journal(path: str) -> None:
    """Raise MachineError or HistoryError for a file that is no journal. Writes nothing.

    What is not there, or empty, may become a journal. So neither a lock nor a mode is put where
    they do not belong.
    """
    with explained(path, "open"):
        _check(path)


def open_to_write(path: str) -> sqlite3.Connection:
    """Open the journal; made (0600, in a directory of 0700) and migrated if need be.

    Raises MachineError where it cannot be written, and HistoryError if a newer rait wrote it.
    """
    with explained(path, "open"):
        _check(path)
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        # SQLite gives its companion files (-wal, -shm) the mode of the database itself.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for file in (os.path.realpath(path), *_companions(path)):
            _make_private(file)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            version_of(connection)
            # Where a file system cannot do WAL, SQLite stays with its rollback journal: just slower
            connection.execute("PRAGMA journal_mode = WAL")
            # The intended events must be on disk before the first effect, power failure or not.
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def ask(path: str, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
    """Answer from one consistent state of the journal, without writing anything.

    A journal that is not there yet is an empty one. Raises MachineError where it cannot be read,
    and HistoryError for what is no journal, or what the question does not find in it.
    """
    with explained(path, "read"):
        return _answer(path, question)


def absence(path: str) -> str:
    """Why there is nothing to read: no file, or an empty one. "" where there is a journal."""
    with explained(path, "read"):
        if _stamp(path) is not None:
            return ""
        return "the file is empty" if os.path.exists(path) else "there is no such file"


def _check(path: str) -> None:
    try:
        _answer(path, lambda _: None)
    except sqlite3.Error as error:
        # Without a write-ahead log, what a crash left half done is put right by who may write.
        if _kind(error) not in ("READONLY", "CANTOPEN"):
            raise


def _answer(path: str, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
    stamp = _stamp(path)
    if stamp is None:
        with closing(empty_journal()) as connection:
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


def _kind(error: sqlite3.Error) -> str:
    """The name of the primary code: an extended one as SQLITE_IOERR_WRITE begins with it."""
    name = getattr(error, "sqlite_errorname", "").split("_")
    return name[1] if len(name) > 1 else ""


def _obstacle(path: str) -> str:
    """What is in the way of the path, where that is not a matter of permissions."""
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
    raw = os.fsencode(os.path.join(os.getcwd(), path))
    quoted = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)
    uri = f"file:{quoted}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        if version_of(connection) == len(STEPS):
            return connection
        # An old one is migrated in memory, and on disk when someone next writes to it.
        copy = sqlite3.connect(":memory:", isolation_level=None)
        connection.backup(copy)
        migrate(copy)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return copy


def _stamp(path: str) -> tuple[int, ...] | None:
    """What changes with any write to the database file; None if there is nothing to read."""
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
    """Whether all that was committed is in the database file itself."""
    for file in _companions(path):
        with suppress(FileNotFoundError):
            if not file.endswith("-shm") and os.stat(file).st_size > 0:
                return False
    return True


def _unchanged(path: str, stamp: tuple[int, ...]) -> bool:
    return _at_rest(path) and _stamp(path) == stamp


def _companions(path: str) -> list[str]:
    real = os.path.realpath(path)  # SQLite has them beside the file itself, not beside a link to it
    return [real + suffix for suffix in ("-wal", "-shm", "-journal")]


def _make_private(file: str) -> None:
    """Let nobody else read the file. What is a link, or no file, is not ours: that is an error."""
    try:
        mode = os.lstat(file).st_mode
    except FileNotFoundError:
        return
    if kind := kind_of_file(mode):
        raise OSError(errno.EINVAL, f"{file} is {kind}; move it away")
    if mode & 0o077:
        # Never through a link, as one may come in between.
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
