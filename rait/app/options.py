"""How a run is to be: what the command line says for every command, and what `rait watch` adds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from msgspec import Struct, structs

from rait.adapters.config.source import display_name, is_path
from rait.app.network import NETWORK, Network
from rait.domain.config.keytext import is_key
from rait.domain.errors import ConfigError
from rait.terminal import warn

LOCK_SECONDS = 60.0


def _silent(_: str) -> None:
    pass


class Options(Struct, frozen=True, kw_only=True):
    """How a run is to be, by the command line or by ``rait watch``.

    ``debug`` gets a line for each step, and ``notice`` a line that the user must see at once. With
    ``assume_gone``, links in a namespace that cannot be found count as removed. With
    ``accept_older``, a signed peers list may be older than the last one. ``cause`` is as in
    RunHeader. ``network`` gives what comes over the network.
    """

    config: str
    notice: Callable[[str], None] = _silent
    debug: Callable[[str], None] = _silent
    lock_seconds: float = LOCK_SECONDS
    assume_gone: bool = False
    accept_older: bool = False
    cause: str = ""
    network: Network = NETWORK


def options_of(arguments: Namespace) -> Options:
    """The options of a command whose arguments are parsed."""
    options = Options(
        config=arguments.config,
        notice=warn,
        assume_gone=getattr(arguments, "assume_gone", False),
        accept_older=getattr(arguments, "accept_older", False),
    )
    if arguments.debug:
        return structs.replace(options, debug=lambda line: warn(f"debug: {line}"))
    return options


def require_path(option: str, what: str, given: str) -> str:
    """The path given to an option, as messages show it. Raises ConfigError if it is no path."""
    if is_key(given):
        raise ConfigError(f"{option} takes the path of {what}, but this is a key (not shown)")
    name = display_name(given)
    if not is_path(given):
        raise ConfigError(f"{option} takes the path of {what}, but {name} is not a path")
    return name
