"""The command line: arguments in, exit status out.

Nothing heavy is imported here, so that ``--help`` and ``--version`` answer at once. The options
of each command are in rait/usage.py; what it does is in rait/commands, imported when it runs.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import SimpleNamespace

if not {"argparse", "gettext"} & sys.modules.keys():
    # argparse loads gettext to translate its words. There are no translations: rait speaks English.
    sys.modules["gettext"] = SimpleNamespace(  # type: ignore[assignment]
        gettext=lambda text: text,  # which may be None
        ngettext=lambda one, many, number: one if number == 1 else many,
    )
    import argparse

    del sys.modules["gettext"]

import argparse

from rait import __version__
from rait.terminal import (
    DONE,
    FAILED,
    WAITING,
    WRONG,
    OutputError,
    clean,
    prepare,
    print_text,
    report_lost,
    warn,
    warn_of,
    warn_text,
)
from rait.usage import COMMANDS, add_commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from _typeshed import SupportsWrite

    from rait.app.options import Options
    from rait.usage import Option

DEFAULT_CONFIG = "/etc/rait/rait.conf"

_DETAILED = "--detailed-exitcode"
_WIDTH = 98

_DESCRIPTION = """\
rait turns WireGuard into a full mesh of point-to-point links for a routing daemon: one interface
for each peer, with allowed IPs 0.0.0.0/0 and ::/0, so that babeld or BIRD may route over them.
"""

_EPILOG = """\
to begin: make a key (`rait genkey`), write /etc/rait/rait.conf, put what `rait pub` prints on each
node together as /etc/rait/peers.conf on all of them, and run `rait up`. README.md shows each step.

exit status: 0 done; 1 failed; 2 wrong usage or configuration, nothing was touched; 3 partly
done, and the links that failed, or that a conflict in the peers list leaves out, are named;
4 stopped, as too many links would have lost their sessions; 5 nothing was touched, as an earlier
change waits for `rait confirm`, or, of `rait fleet plan`, a tunnel would be interrupted.

`rait COMMAND --help` explains each command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Never raises for what a user can do wrong."""
    prepare()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except OutputError as error:
        report_lost(error)
        return FAILED
    except KeyboardInterrupt:
        warn("interrupted; the next `rait up` sets right what is half done")
        return FAILED


def _run(words: Sequence[str]) -> int:
    # Under --detailed-exitcode, 2 means that there are changes.
    wrong = FAILED if any(word.split("=")[0] == _DETAILED for word in words) else WRONG
    parser = _parser()
    try:
        arguments = parser.parse_args(words)
    except SystemExit as stop:
        return stop.code if stop.code in (DONE, FAILED) else wrong
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return WRONG
    run = _imported(arguments.run)
    from rait.app.options import options_of
    from rait.domain.errors import ConfigError, PendingError, RaitError

    try:
        status: int = run(options_of(arguments), arguments)
    except RaitError as error:
        warn_of(error)
        if isinstance(error, PendingError):
            return WAITING
        return wrong if isinstance(error, ConfigError) else FAILED
    return status


def _imported(run: str) -> Callable[[Options, argparse.Namespace], int]:
    """Import the function that runs a command; ``run`` is its name in rait/usage.py."""
    from importlib import import_module

    module, _, function = run.partition(":")
    found: Callable[[Options, argparse.Namespace], int] = getattr(
        import_module(f"rait.commands.{module}"), function
    )
    return found


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keep our line breaks. argparse would import shutil just to learn the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())


@cache
def _width() -> int:
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns - 2, _WIDTH)
    except (OSError, ValueError, AttributeError):  # no terminal, or closed
        return _WIDTH


class _Parser(argparse.ArgumentParser):
    """Explains wrong usage, and leaves out a private key that was given in the place of a word."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **settings)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse is silent where it cannot write its help.
        if file is sys.stdout:
            print_text(message.removesuffix("\n"))
        else:
            warn_text(message)

    def error(self, message: str) -> NoReturn:
        from rait.domain.config.keytext import without_whole_keys

        words = without_whole_keys(message)
        warn_text(f"{self.format_usage()}{clean(f'{self.prog}: error: {words}')}\n")
        sys.exit(WRONG)


class _Command(_Parser):
    """The parser of one command, built when that command is the one to be parsed.

    To build the parsers of all commands takes longer than to import argparse.
    """

    def __init__(self, run: str | None, options: Sequence[Option], **settings: Any) -> None:
        self._run = run
        self._options = options
        self._settings = settings

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        super().__init__(**self._settings)
        # The same options after the command; SUPPRESS keeps them from undoing those before it.
        _add_common(self, argparse.SUPPRESS, argparse.SUPPRESS)
        if self._run is not None:
            self.set_defaults(run=self._run)
        for add in self._options:
            add(self)
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # All that follows a command belongs to it, so its own usage is the one to show.
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rait", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"rait {__version__}")
    _add_common(parser, os.environ.get("RAIT_CONFIG") or DEFAULT_CONFIG, False)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(
        # Without prog, argparse would write a whole usage to find it.
        title="commands",
        metavar="COMMAND",
        prog=parser.prog,
        parser_class=_Command,
    )
    add_commands(commands, *COMMANDS)
    return parser


def _url(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a file, - or a URL")
    return text


def _add_common(parser: argparse.ArgumentParser, config: str, off: bool | str) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="URL",
        type=_url,
        default=config,
        help="rait.conf: a path, - for stdin, or an http(s) URL "
        f"(default: $RAIT_CONFIG, else {DEFAULT_CONFIG})",
    )
    parser.add_argument(
        "-d", "--debug", action="store_true", default=off, help="print each step to stderr"
    )
    parser.add_argument("--json", action="store_true", default=off, help="print the result as JSON")
