"""This node's own entry as text, for files and registries alike; what is wrong is never given."""

from __future__ import annotations

from binascii import a2b_base64

from msgspec import Struct

from rait.adapters.config import formats
from rait.adapters.config.writing import WRITERS
from rait.app.load import Loaded, load_secret
from rait.domain.check import examine
from rait.domain.config.decode_config import decode_config
from rait.domain.config.schema import Config, Secret
from rait.domain.entry import own_entry
from rait.domain.errors import ConfigError, SourceError


class Own(Struct, frozen=True):
    """The public key of a node, its entry, and lines for the user."""

    public_key: str
    text: str
    warnings: tuple[str, ...]


def own(loaded: Loaded, kind: str, to: str = "") -> Own:
    """The entry in a format of WRITERS; messages about its text name where it goes ``to``.

    Raises ConfigError where `rait check` would find an error in it, or the private key is in it.
    """
    secret, public_key = load_secret(loaded)
    entry, left_out = own_entry(with_remarks(loaded), public_key)
    try:
        text = WRITERS[kind](entry)
        text.encode()
    except (RecursionError, UnicodeEncodeError):
        raise ConfigError(f"{loaded.source}: the remarks cannot be written as text") from None
    _refuse_secret(secret, text, loaded.source)
    lines = (*left_out, *_read_back(text, kind, to, loaded.source))
    return Own(public_key, text, tuple(f"{loaded.source}: {line}" for line in lines))


def with_remarks(loaded: Loaded) -> Config:
    """The configuration as its text has it: what an earlier run kept of it has no remarks."""
    config, _ = decode_config(loaded.document().data, key_required=False)
    return loaded.config if config is None else config


def _refuse_secret(secret: Secret, text: str, name: str) -> None:
    key = secret.reveal()
    if key.rstrip("=") in text or a2b_base64(key).hex() in text.lower():
        raise ConfigError(f"{name}: the name or the remarks hold the private key; nothing is shown")


def _read_back(text: str, kind: str, to: str, name: str) -> tuple[str, ...]:
    """The warnings of `rait check` about the text. Raises ConfigError if it finds an error."""
    try:
        findings = examine(formats.parse(text, to or f"entry.{kind}").data).findings
    except SourceError as error:
        raise ConfigError(f"{name}: the entry cannot be read as {error}") from None
    errors = [f"{name}: {item.message}; {item.advice}" for item in findings if item.is_error]
    if errors:
        raise ConfigError(*errors)
    return tuple(f"{f.message}; {f.advice}" for f in findings if f.severity == "warning")
