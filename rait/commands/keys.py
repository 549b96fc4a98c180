"""``rait genkey`` and ``rait pubkey``, as wg(8) has them."""

from __future__ import annotations

from argparse import Namespace

from rait.adapters import keys
from rait.adapters.config import source
from rait.adapters.config.bounds import MAX_KEY_BYTES
from rait.adapters.output import others_may_read
from rait.app.options import Options
from rait.domain.config.keytext import canonical_key
from rait.domain.config.schema import Secret
from rait.domain.errors import SourceError
from rait.terminal import DONE, print_either, warn

_STDOUT = 1


def run_genkey(_: Options, arguments: Namespace) -> int:
    if others_may_read(_STDOUT):
        warn("others may read the file that the private key goes to: set `umask 077` before")
    return _print(keys.new_private_key().reveal(), arguments)


def run_pubkey(_: Options, arguments: Namespace) -> int:
    try:
        secret = Secret(canonical_key(source.read(source.STDIN, limit=MAX_KEY_BYTES)))
    except ValueError as error:
        raise SourceError(f"standard input {error}") from None
    return _print(keys.public_key(secret), arguments)


def _print(key: str, arguments: Namespace) -> int:
    print_either(key, [key], as_json=arguments.json)
    return DONE
