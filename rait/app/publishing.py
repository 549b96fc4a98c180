"""This node's own entry as text, and how ``rait watch`` keeps it in the registry.

What is wrong is never given. A new private key makes a new entry. The entry of the former key is
kept until the links have the new key, as where the guard stops the sync, and is withdrawn only
after the new one stands. Whatever is wrong with rait.conf leaves the entry as it was put last, and
alive.
"""

from __future__ import annotations

from binascii import a2b_base64

from msgspec import Struct

from rait.adapters.config import formats, source
from rait.adapters.config.writing import WRITERS
from rait.adapters.keys import KeyPair
from rait.app.load import Loaded, configured, load_key
from rait.domain.check import examine
from rait.domain.config.decode_config import decode_config
from rait.domain.config.schema import SECOND, Config
from rait.domain.entry import own_entry
from rait.domain.errors import ConfigError, RaitError, SourceError
from rait.terminal import warn

WRONG = "this node's entry is not published"


class Own(Struct, frozen=True):
    """The public key of a node, its entry, and lines for the user."""

    public_key: str
    text: str
    warnings: tuple[str, ...]


def own(loaded: Loaded, kind: str, to: str = "") -> Own:
    """The entry in a format of WRITERS; messages about its text name where it goes ``to``.

    Raises ConfigError where `rait check` would find an error in it, or the private key is in it.
    """
    key = load_key(loaded)
    entry, left_out = own_entry(with_remarks(loaded), key.public)
    try:
        text = WRITERS[kind](entry)
        text.encode()
    except (RecursionError, UnicodeEncodeError):
        raise ConfigError(f"{loaded.source}: the remarks cannot be written as text") from None
    _refuse_secret(key, text, loaded.source)
    lines = (*left_out, *_read_back(text, kind, to, loaded.source))
    return Own(key.public, text, tuple(f"{loaded.source}: {line}" for line in lines))


def with_remarks(loaded: Loaded) -> Config:
    """The configuration as its text has it: what an earlier run kept of it has no remarks."""
    config, _ = decode_config(loaded.document().data, key_required=False)
    return loaded.config if config is None else config


def _refuse_secret(pair: KeyPair, text: str, name: str) -> None:
    assert pair.secret is not None  # noqa: S101 - as it was loaded
    key = pair.secret.reveal()
    if key.rstrip("=") in text or a2b_base64(key).hex() in text.lower():
        raise ConfigError(f"{name}: the name or the remarks hold the private key; nothing is shown")


def _read_back(text: str, kind: str, to: str, name: str) -> tuple[str, ...]:
    """The warnings of `rait check` about the text. Raises ConfigError if it finds an error."""
    try:
        findings = examine(formats.parse(text, to or f"entry.{kind}").data).findings
    except SourceError as error:
        raise ConfigError(f"{name}: the entry cannot be read as {error}") from None
    errors = [
        f"{name}: {item.message}; {item.advice}" for item in findings if item.severity == "error"
    ]
    if errors:
        raise ConfigError(*errors)
    return tuple(f"{f.message}; {f.advice}" for f in findings if f.severity == "warning")


class Publisher:
    """Publishes the entry that a rait.conf has; for one thread at a time."""

    def __init__(self, conf: str) -> None:
        self._conf = conf
        self._url = ""
        self._lease = 0
        self._own: Own | None = None
        self._stands: dict[str, tuple[str, int]] = {}  # by public key: its text and revision

    def is_outdated(self, key_in_use: str) -> bool:
        """Whether there is an entry of a former key that is not needed any more."""
        is_new = self._own is not None and self._own.public_key == key_in_use
        return is_new and bool(self._stands.keys() - {key_in_use})

    def publish(self, key_in_use: str) -> tuple[bool, str]:
        """Have the entry in the registry, and keep it alive; whether it is new, and a problem.

        ``key_in_use`` is the public key that the links have.
        """
        problem = self._read()
        if self._own is None:
            return False, problem
        new, is_new, stands = self._own.public_key, False, False
        try:
            is_new = self._put(new, self._own.text)
            stands = True
        except SourceError as error:
            problem = f"{WRONG}: {error}"
        for former in self._stands.keys() - {new}:
            try:
                if stands and key_in_use == new:
                    source.publish(self._url, former, None, 0)
                    del self._stands[former]
                else:
                    self._put(former, self._stands[former][0])
            except SourceError as error:
                problem = problem or f"the entry of a former key stays: {error}"
        return is_new, problem

    def _read(self) -> str:
        """Read the entry anew; why that which was read before is to stay, "" if it is not."""
        try:
            loaded = configured(self._conf)
            config = loaded.config
            if not config.watch.publish:
                return ""  # since it was asked for
        except RaitError:
            return ""  # as syncs tell
        try:
            new = own(loaded, "json")
        except RaitError as error:
            return f"{WRONG}: {error}"
        if config.peers != self._url:
            self._stands = {}  # the lease of what stands elsewhere ends
        self._url, self._lease = config.peers, config.watch.lease // SECOND
        if self._own is None or new.warnings != self._own.warnings:
            warn(*(f"warning: {line}" for line in new.warnings))
        self._own = new
        return ""

    def _put(self, key: str, text: str) -> bool:
        put = source.publish(self._url, key, text, self._lease)
        known = self._stands.get(key, ("", put.replaced))[1]
        if put.replaced not in (0, known):
            warn(
                f"somebody else wrote this node's entry (revision {put.replaced}), which is put "
                "right; does another machine have this private key?"
            )
        self._stands[key] = text, put.revision
        return put.is_new
