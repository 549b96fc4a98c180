"""``rait pub``: this node's own entry for the registry; and ``rait remarks``: a part of it."""

from __future__ import annotations

import os
from argparse import Namespace
from binascii import a2b_base64
from collections.abc import Iterator, Mapping

from rait.adapters.config import formats, source
from rait.adapters.config.writing import WRITERS
from rait.adapters.output import may_replace, replace_file
from rait.app.inputs import configured
from rait.app.load import Loaded, load_secret
from rait.app.options import Options, require_path
from rait.domain.check import examine
from rait.domain.config.decode_config import decode_config
from rait.domain.config.decode_peers import read_entries
from rait.domain.config.decoding import key_id, nearest
from rait.domain.config.keytext import shown
from rait.domain.config.schema import Config, Secret
from rait.domain.entry import own_entry, plain
from rait.domain.errors import ConfigError, SourceError
from rait.terminal import DONE, print_json, print_text, warn


def run(options: Options, arguments: Namespace) -> int:
    to = arguments.dest
    loaded = configured(options.config)
    secret, public_key = load_secret(loaded)
    suffix = to.lower().rpartition(".")[2]
    kind = (
        "json" if arguments.json else arguments.format or (suffix if suffix in WRITERS else "hcl")
    )
    entry, left_out = own_entry(_with_remarks(loaded), public_key)
    try:
        text = WRITERS[kind](entry)
        text.encode()
    except (RecursionError, UnicodeEncodeError):
        raise ConfigError(f"{loaded.source}: the remarks cannot be written as text") from None
    _refuse_secret(secret, text, loaded.source)
    _read_back(text, f"entry.{kind}" if to == source.STDIN else to, loaded.source)
    for line in (*loaded.warnings, *(f"{loaded.source}: {line}" for line in left_out)):
        warn(line)
    if to == source.STDIN:
        print_text(text.removesuffix("\n"))
    else:
        _write(to, text, public_key)
    return DONE


def _refuse_secret(secret: Secret, text: str, name: str) -> None:
    key = secret.reveal()
    if key.rstrip("=") in text or a2b_base64(key).hex() in text.lower():
        raise ConfigError(f"{name}: the name or the remarks hold the private key; nothing is shown")


def _read_back(text: str, to: str, name: str) -> None:
    """Raise ConfigError if `rait check` finds an error in the text, and warn of its warnings.

    ``to`` is where the text goes, and ``name`` is the configuration's.
    """
    try:
        findings = examine(formats.parse(text, to).data).findings
    except SourceError as error:
        raise ConfigError(f"{name}: the entry cannot be read as {error}") from None
    errors = [f"{name}: {item.message}; {item.advice}" for item in findings if item.is_error]
    if errors:
        raise ConfigError(*errors)
    for item in findings:
        if item.severity == "warning":
            warn(f"{name}: {item.message}; {item.advice}")


def _write(path: str, text: str, public_key: str) -> None:
    """Write the entry to a file of its own. Raises ConfigError for one that holds anything else."""
    name = require_path("DEST", "a file", path)
    if not may_replace(path) or not _is_own(path, public_key):
        raise ConfigError(
            f"{name}: it is there, and is no file with this node's entry alone, so it stays as it "
            "is: name another file, or append what `rait pub` prints"
        )
    try:
        replace_file(path, text.encode())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"{name}: cannot be written: {why}") from None


def _is_own(path: str, public_key: str) -> bool:
    """Whether a file has no entry but those of the node with this key; or is empty, or missing."""
    try:
        text = source.read(path) if os.path.exists(path) else ""
        peers, problems = read_entries(formats.parse(text, path).data) if text else ((), ())
    except SourceError:
        return False
    return not problems and all(peer.public_key == public_key for peer in peers)


def run_remarks(options: Options, arguments: Namespace) -> int:
    loaded = configured(options.config, key_required=False)
    remarks = _with_remarks(loaded).remarks
    for value in map(plain, _found(remarks, arguments.key)):
        if isinstance(value, str) and not arguments.json:
            print_text(value)
        else:
            print_json(value)
        return DONE
    near = nearest(arguments.key, {key_id(key): key for key in remarks})
    hint = f"; did you mean {shown(near)}?" if near else ""
    raise SourceError(f"{loaded.source}: there is no remark {shown(arguments.key)}{hint}")


def _with_remarks(loaded: Loaded) -> Config:
    """The configuration as its text has it: what an earlier run kept of it has no remarks."""
    config, _ = decode_config(loaded.document().data, key_required=False)
    return loaded.config if config is None else config


def _found(value: object, key: str) -> Iterator[object]:
    """The values at a key or, part by part, at a path with dots; a list takes numbers from 0.

    A block that stands alone, which HCL makes a list of one, needs no number.
    """
    if isinstance(value, list) and len(value) == 1 and not key.partition(".")[0].isdecimal():
        value = value[0]
    if isinstance(value, list):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, Mapping):
        return
    if key in value:
        yield value[key]
    for place in (place for place, sign in enumerate(key) if sign == "."):
        if key[:place] in value:
            yield from _found(value[key[:place]], key[place + 1 :])
