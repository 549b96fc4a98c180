"""``rait pub``: this node's own entry for the registry; and ``rait remarks``: a part of it."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping

from rait.adapters.config import formats, source
from rait.adapters.config.remote import Put
from rait.adapters.config.writing import WRITERS
from rait.adapters.output import may_replace, write_file
from rait.app.load import configured, load_key
from rait.app.options import Options, require_path
from rait.app.publishing import own, with_remarks
from rait.app.watched import require_unwatched
from rait.domain.config.decode_peers import read_entries
from rait.domain.config.decoding import key_id, nearest
from rait.domain.config.keytext import shown
from rait.domain.config.schema import DAY, MIN_LEASE, SECOND, Config, parse_span
from rait.domain.entry import plain
from rait.domain.errors import ConfigError, SourceError
from rait.terminal import DONE, print_json, print_text, warn


def run(options: Options, arguments: Namespace) -> int:
    if arguments.to is not None:
        return _to_registry(options, arguments)
    if arguments.lease is not None or arguments.withdraw:
        raise ConfigError("--lease and --withdraw are for a registry: add --to, or --to URL")
    to = arguments.dest
    loaded = configured(options.config)
    suffix = to.lower().rpartition(".")[2]
    kind = (
        "json" if arguments.json else arguments.format or (suffix if suffix in WRITERS else "hcl")
    )
    entry = own(loaded, kind, "" if to == source.STDIN else to)
    warn(*(f"warning: {line}" for line in (*loaded.warnings, *entry.warnings)))
    if to == source.STDIN:
        print_text(entry.text.removesuffix("\n"))
    else:
        _write(to, entry.text, entry.public_key)
    return DONE


def _to_registry(options: Options, arguments: Namespace) -> int:
    if arguments.dest != source.STDIN or arguments.format:
        raise ConfigError("with --to, the entry goes to the registry, as JSON: leave the rest out")
    loaded = configured(options.config)
    url = arguments.to or loaded.config.peers
    if not arguments.to and not source.is_live(url):
        raise ConfigError(
            f"{loaded.place_of('peers')}: {source.display_name(url)} is no registry in etcd that "
            "takes entries: name one with --to etcd://HOST:2379/PREFIX"
        )
    key, lease, text = load_key(loaded).public, _lease(arguments, loaded.config), None
    if arguments.withdraw:
        if loaded.config.watch.publish:
            require_unwatched(options.config, loaded.config.journal, "rait pub --withdraw")
    else:
        entry = own(loaded, "json")
        text = entry.text
        warn(*(f"warning: {line}" for line in (*loaded.warnings, *entry.warnings)))
    put = source.publish(url, key, text, lease)
    name = f"{source.display_name(url).partition('?')[0].rstrip('/')}/{key}"
    result, told = _told(put, lease, withdraw=arguments.withdraw)
    if arguments.json:
        shown_lease = lease if lease and text is not None else None
        about = {"revision": put.revision or None, "lease": shown_lease}
        print_json({"entry": name, "result": result} | about)
    else:
        print_text(f"{name}: {told}")
    return DONE


def _told(put: Put, lease: int, *, withdraw: bool) -> tuple[str, str]:
    """What became of the entry, in one word and in more."""
    if withdraw:
        if put.is_new:
            return "withdrawn", f"withdrawn at revision {put.revision}"
        return "absent", "there is no such entry"
    if put.is_new:
        instead = f" in place of that of revision {put.replaced}" if put.replaced else ""
        term = f"lease {lease} s" if lease else "without a lease, so it stays"
        return "put", f"put at revision {put.revision}{instead}, {term}"
    kept = f", lease of {lease} s kept alive" if lease else ""
    return "unchanged", f"unchanged since revision {put.revision}{kept}"


def _lease(arguments: Namespace, config: Config) -> int:
    """The seconds of --lease, else of what `rait watch` publishes, else 0. Raises ConfigError."""
    if arguments.lease is None:
        return config.watch.lease // SECOND if config.watch.publish else 0
    span = parse_span(arguments.lease) or 0
    if not MIN_LEASE <= span <= DAY:
        raise ConfigError(f"--lease: {shown(arguments.lease)} is no span from 5s to 1d, as 60s")
    return span // SECOND


def _write(path: str, text: str, public_key: str) -> None:
    """Write the entry to a file of its own. Raises ConfigError for one that holds anything else."""
    name = require_path("DEST", "a file", path)
    if not may_replace(path) or not _is_own(path, public_key):
        raise ConfigError(
            f"{name}: it is there, and is no file with this node's entry alone, so it stays as it "
            "is: name another file, or append what `rait pub` prints"
        )
    write_file(path, name, text.encode())


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
    remarks = with_remarks(loaded).remarks
    for value in map(plain, _found(remarks, arguments.key)):
        if isinstance(value, str) and not arguments.json:
            print_text(value)
        else:
            print_json(value)
        return DONE
    near = nearest(arguments.key, {key_id(key): key for key in remarks})
    hint = f"; did you mean {shown(near)}?" if near else ""
    raise SourceError(f"{loaded.source}: there is no remark {shown(arguments.key)}{hint}")


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
