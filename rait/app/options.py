"""Options that several commands have."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from msgspec import Struct, structs

from rait.terminal import warn

LOCK_SECONDS = 60.0

DETAILED = "--detailed-exitcode"


def _silent(_: str) -> None:
    pass


class Options(Struct, frozen=True, kw_only=True):
    """What the command line says for every command.

    ``debug`` gets a line for each step, and ``notice`` what the user is to know while it lasts.
    With ``assume_gone``, links in a namespace that cannot be found count as removed.
    """

    config: str
    notice: Callable[[str], None] = _silent
    debug: Callable[[str], None] = _silent
    lock_seconds: float = LOCK_SECONDS
    assume_gone: bool = False


def options_of(arguments: Namespace) -> Options:
    """The options of a command whose arguments are parsed."""
    options = Options(
        config=arguments.config,
        notice=warn,
        assume_gone=getattr(arguments, "assume_gone", False),
    )
    if arguments.debug:
        return structs.replace(options, debug=lambda line: warn(f"debug: {line}"))
    return options


def add_yes(parser: ArgumentParser) -> None:
    """Add ``--yes``, which lets a command go on that the guard would stop."""
    parser.add_argument(
        "--yes", action="store_true", help="go on however many links lose their sessions"
    )


def add_dry_run(parser: ArgumentParser) -> None:
    """Add ``--dry-run``."""
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def add_assume_gone(parser: ArgumentParser) -> None:
    """Add ``--assume-gone``."""
    parser.add_argument(
        "--assume-gone",
        action="store_true",
        help="treat links as removed if their network namespace cannot be found",
    )


def add_detailed_exitcode(parser: ArgumentParser, when: str = "") -> None:
    """Add ``--detailed-exitcode``; ``when`` begins its help, and says when it counts."""
    parser.add_argument(
        DETAILED,
        action="store_true",
        help=f"{when}exit status 0: nothing to do, 1: any error (wrong usage and configuration "
        "too), or a link that cannot be made, 2: there are changes",
    )
