"""How a run is to be: what the command line says for every command, and what `rait watch` adds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.adapters.config.source import display_name, fetch, is_path
from rait.domain.config.keytext import is_key
from rait.domain.errors import ConfigError
from rait.terminal import warn

if TYPE_CHECKING:
    from rait.adapters.config.remote import News, Version
    from rait.adapters.config.resolve import LookUp
    from rait.adapters.netns import Netns
    from rait.domain.config.hosts import Host
    from rait.domain.errors import Path

    Fetch = Callable[[str, Version, int, bool], News]
    Resolve = Callable[[Iterable[Host], Netns, float, Mapping[Host, Path], str], LookUp]

LOCK_SECONDS = 60.0


def _silent(_: str) -> None:
    pass


class Options(Struct, frozen=True, kw_only=True):
    """How a run is to be, by the command line or by ``rait watch``.

    ``debug`` gets a line for each step, and ``notice`` a line that the user must see at once. With
    ``assume_gone``, links in a namespace that cannot be found count as removed. With
    ``accept_older``, a signed peers list may be older than the last one. ``cause`` is as in
    RunHeader. What comes over the network is asked for anew, as ``fetch`` and ``resolve`` (None) of
    rait/adapters/config do; ``rait watch`` has others of these, which know the last answers.
    """

    config: str
    notice: Callable[[str], None] = _silent
    debug: Callable[[str], None] = _silent
    lock_seconds: float = LOCK_SECONDS
    assume_gone: bool = False
    accept_older: bool = False
    cause: str = ""
    fetch: Fetch = fetch
    resolve: Resolve | None = None


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
