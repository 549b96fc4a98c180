"""The scope of a configuration: the name under which a journal files its runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from msgspec import Struct

from rait.adapters.config.source import STDIN
from rait.adapters.journal.reader import JournalReader
from rait.app.inputs import configured
from rait.app.load import load_secret
from rait.app.options import Options
from rait.domain.errors import counted

KEY_SCOPE = "key:"
"""What the scope of a configuration begins with that has no path."""


def claimed_by_others(
    url: str, journal: str, scope: str, seen: Mapping[str, str]
) -> dict[str, str]:
    """The links that the journal has as made by another configuration, each with that one.

    ``url`` is our configuration and ``scope`` its name, and ``seen`` is what ``doubtful`` found.
    Raises RaitError.
    """
    claims = JournalReader(journal).claims(scope, seen)
    return {name: _described(other) for name, other in claims.items() if _is_another(other, url)}


def _described(scope: str) -> str:
    """A configuration as messages speak of it."""
    if not scope.startswith(KEY_SCOPE):
        return scope
    return (
        f"which has no path and is filed under public key {scope.removeprefix(KEY_SCOPE)} (if that "
        "is this node's former key, run `rait down` with its private key)"
    )


def _is_another(name: str, url: str) -> bool:
    """Whether a scope is another configuration's, and not this one's under a former name.

    A configuration that is gone from where it was has been moved: its links are left to who has
    their key.
    """
    if name.startswith(KEY_SCOPE):
        return True
    try:
        os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True  # it may well be there, where we may not look
    try:
        return not os.path.samefile(name, url)
    except (OSError, ValueError):
        return True  # ours has no path


def goes_by_key(url: str) -> bool:
    """Whether a configuration's runs are filed under its key, as it is from stdin or a URL.

    Journals have it so also of a path that has :// inside, as in "conf://rait.conf".
    """
    return url == STDIN or "://" in url


def scope_name(url: str, public_key: str) -> str:
    """What a new journal files this node's runs under: the configuration's absolute path.

    A configuration from stdin or a URL has no path of its own, and goes by its key. Bytes of a
    path that are no text are spelt out, as SQLite and JSON take none.
    """
    if goes_by_key(url):
        return f"{KEY_SCOPE}{public_key}"
    return normal(url).encode("utf-8", "backslashreplace").decode()


def filed_under(journal: JournalReader, name: str) -> str:
    """What this journal files the runs of the configuration of this name under.

    That is the name itself, or another spelling of it by which the journal knows it already; of
    several the one that ran last, as that knows best what there is. Raises RaitError.
    """
    known = journal.scopes()
    return max(spellings(journal, name), key=lambda scope: known[scope], default=name)


def spellings(journal: JournalReader, name: str) -> tuple[str, ...]:
    """The scopes of the journal that are of the configuration of this name. Raises RaitError.

    A symbolic link under whose name a run is filed may lead to a different file by now, and is
    still the same configuration. A regular file in its place is another configuration.
    """
    known = journal.scopes()
    if name in known and len(known) == 1:
        return (name,)
    if name.startswith(KEY_SCOPE):
        return tuple(scope for scope in known if scope == name)
    aliases = journal.aliases().items()
    by_link = {scope for path, scope in aliases if is_same(path, name) and is_link(path)}
    return tuple(
        scope
        for scope in known
        if scope == name or scope in by_link or (scope.startswith("/") and is_same(scope, name))
    )


class JournalRef(Struct, frozen=True):
    """A journal, and which node's runs in it: ``name`` is what it files them under.

    ``scopes`` are that name and other spellings of it under which there are runs, or None if
    everyone's runs are asked for.
    """

    path: str
    name: str
    scopes: tuple[str, ...] | None


def journal_of(options: Options, *, everyone: bool = False) -> JournalRef:
    """The journal that the configuration names. Raises RaitError."""
    loaded = configured(options.config)
    key = load_secret(loaded)[1] if goes_by_key(options.config) and not everyone else ""
    path = loaded.config.journal
    spelt = scope_name(options.config, key)
    if everyone:
        return JournalRef(path, spelt, None)
    reader = JournalReader(path)
    known = spellings(reader, spelt)
    # With the name itself, as `log -f` may begin before its first run.
    return JournalRef(path, filed_under(reader, spelt), tuple(dict.fromkeys((spelt, *known))))


def others_text(journal: JournalReader, own: Collection[str]) -> str:
    """How many runs there are of other scopes than our own; "" for none. Raises RaitError."""
    counts = {scope: n for scope, n in journal.run_counts().items() if scope not in own}
    runs = sum(counts.values())
    if not runs:
        return ""
    whose = "another configuration" if len(counts) == 1 else f"{len(counts)} other configurations"
    shows = "shows it" if runs == 1 else "shows them"
    return f"the journal has {counted(runs, 'run')} of {whose}: `rait log --all` {shows}"


def normal(path: str) -> str:
    """The path made absolute, without ``.`` and ``..``.

    Links stay as they are spelt: a configuration manager may let one lead to another file at each
    change, and it names the same configuration all the time. Only what ``..`` leaves is followed,
    as the system itself would follow it.
    """
    parts: list[str] = []
    whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"
    for part in whole.split("/"):
        if part == "..":
            parts = _resolved(parts)[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def is_same(one: str, other: str) -> bool:
    """Whether two absolute paths are spellings of each other, or lead to one file now."""
    try:
        return normal(one) == normal(other) or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def is_link(path: str) -> bool:
    """Whether an absolute path leads through a symbolic link, so that it may lead elsewhere."""
    try:
        return os.path.realpath(path) != path
    except (OSError, ValueError):
        return False


def _resolved(parts: list[str]) -> list[str]:
    path = "/" + "/".join(parts)
    if not os.path.islink(path):
        return parts
    return os.path.realpath(path).strip("/").split("/")
