"""The scope of a configuration: the name under which a journal files its runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from rait.adapters.config.source import STDIN, display_name, is_path
from rait.adapters.journal.reader import JournalReader
from rait.app.load import Loaded, load_key
from rait.app.options import Options
from rait.domain.digests import blake2b
from rait.domain.errors import counted
from rait.domain.signed import Signed

KEY_SCOPE = "key:"
"""The beginning of the scope of a configuration without a path; a public key follows."""


def claimed_by_others(
    url: str, journal: JournalReader, scope: str, seen: Mapping[str, str]
) -> dict[str, str]:
    """The links that another configuration made according to the journal, each with that one.

    ``url`` is our configuration and ``scope`` its scope. ``seen`` are the links to ask about, as
    ``doubtful`` gives them. Raises RaitError.
    """
    claims = journal.claims(scope, seen)
    return {name: _described(other) for name, other in claims.items() if _is_another(other, url)}


def _described(scope: str) -> str:
    """A scope, in words for a message."""
    if not scope.startswith(KEY_SCOPE):
        return scope
    return (
        f"which has no path and is filed under public key {scope.removeprefix(KEY_SCOPE)} (if that "
        "is this node's former key, run `rait down` with its private key)"
    )


def _is_another(name: str, url: str) -> bool:
    """Whether a scope is another configuration's, and not this one's under a former path.

    A configuration that is not at its path any more counts as moved: the key of a link decides
    then whose link it is.
    """
    if name.startswith(KEY_SCOPE):
        return True
    try:
        os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True  # it may be there, out of our sight
    try:
        return not os.path.samefile(name, url)
    except (OSError, ValueError):
        return True  # our configuration has no path


def goes_by_key(url: str) -> bool:
    """Whether runs are filed under the public key, as the configuration is stdin or a URL.

    Journals of earlier versions do so also for a path with :// inside, as "/etc/conf://rait.conf".
    """
    return url == STDIN or "://" in url


def scope_name(url: str, public_key: str) -> str:
    """The scope of this node's runs in a new journal: the configuration's absolute path.

    A configuration from stdin or a URL has no path, and its scope has the public key instead.
    Bytes of a path that are no text are spelt out, as SQLite and JSON cannot hold them.
    """
    if goes_by_key(url):
        return f"{KEY_SCOPE}{public_key}"
    return normal(url).encode("utf-8", "backslashreplace").decode()


def filed_under(journal: JournalReader, name: str) -> str:
    """The scope under which this journal files the runs of the configuration of this name.

    That is the name itself, or another spelling of the path that the journal has runs of; among
    several, the one with the latest run, which knows best what there is. Raises RaitError.
    """
    known = journal.scopes()
    return max(spellings(journal, known, name), key=lambda scope: known[scope], default=name)


def journal_of(options: Options, loaded: Loaded) -> tuple[JournalReader, str]:
    """The journal, and the scope under which it files our runs. Raises RaitError."""
    reader = JournalReader(loaded.config.journal)
    return reader, filed_under(reader, scope_name(options.config, key_of_scope(options, loaded)))


def key_of_scope(options: Options, loaded: Loaded) -> str:
    """Our public key if it is in our scope; else "", as the key need not be there then."""
    return load_key(loaded).public if goes_by_key(options.config) else ""


def last_signed(url: str, journal: str, public_key: str = "") -> Signed | None:
    """The signed peers list that a configuration accepted last, by its journal. Raises RaitError.

    The public key is needed only for a configuration without a path.
    """
    reader = JournalReader(journal)
    return reader.last_known(filed_under(reader, scope_name(url, public_key))).signed


def spellings(journal: JournalReader, known: Collection[str], name: str) -> tuple[str, ...]:
    """Those of the ``known`` scopes that are of the configuration of this name. Raises RaitError.

    A symbolic link under whose path runs are filed may lead to a different file by now, and is
    still the same configuration. A regular file in the link's place is another configuration.
    """
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


def beside(journal: str, kind: str, conf: str, public_key: str) -> str:
    """The path of a file of this kind beside the journal, which is one configuration's own.

    The name shows no URL. A configuration that has no path goes by its public key.
    """
    whose = os.path.abspath(conf) if is_path(conf) else public_key
    digest = blake2b(os.fsencode(whose), digest_size=8).hexdigest()
    return f"{os.path.realpath(journal)}.{kind}-{digest}"


def confirm_line(url: str) -> str:
    """What to type to confirm a change of this configuration, from any directory."""
    import shlex

    path = normal(url) if is_path(url) else display_name(url)
    return f"rait -c {shlex.quote(path)} confirm"


def others_text(journal: JournalReader, own: Collection[str]) -> str:
    """A text that says how many runs of other scopes there are; "" for none. Raises RaitError."""
    counts = {scope: n for scope, n in journal.run_counts().items() if scope not in own}
    runs = sum(counts.values())
    if not runs:
        return ""
    whose = "another configuration" if len(counts) == 1 else f"{len(counts)} other configurations"
    shows = "shows it" if runs == 1 else "shows them"
    return f"the journal has {counted(runs, 'run')} of {whose}: `rait log --all` {shows}"


def normal(path: str) -> str:
    """The path made absolute, without ``.`` and ``..``.

    Symbolic links stay as they are spelt: a configuration manager may lead one to another file at
    each change, and it names one configuration all the time. Only a link before ``..`` is followed,
    as the system itself follows it.
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
    """Whether an absolute path leads through a symbolic link, which may lead elsewhere later."""
    try:
        return os.path.realpath(path) != path
    except (OSError, ValueError):
        return False


def _resolved(parts: list[str]) -> list[str]:
    path = "/" + "/".join(parts)
    if not os.path.islink(path):
        return parts
    return os.path.realpath(path).strip("/").split("/")
