"""The command line: arguments in, exit status out.

Nothing heavy is imported here, so that ``--help`` and ``--version`` answer at once; the commands
themselves are in commands.py.
"""

from __future__ import annotations

import argparse
import os
import sys

from rait import __version__
from rait.terminal import (
    DONE,
    FAILED,
    WRONG,
    OutputError,
    clean,
    complain,
    complain_of,
    complain_text,
    prepare,
    report_lost,
    tell_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from _typeshed import SupportsWrite

    Commands = argparse._SubParsersAction["_Command"]
    Options = Callable[["_Command"], None]

DEFAULT_CONFIG = "/etc/rait/rait.conf"

_DETAILED = "--detailed-exitcode"
_WIDTH = 98
_YES = "go on however many links lose their sessions"

_ASSUME_GONE = "treat links as removed if their network namespace cannot be found"

_DESCRIPTION = """\
rait turns WireGuard into a full mesh of point-to-point links for a routing daemon: one interface
for each peer, with allowed IPs 0.0.0.0/0 and ::/0, so that babeld or BIRD may route over them.
"""

_EPILOG = """\
exit status: 0 done; 1 failed; 2 wrong usage or configuration, nothing was touched; 3 partly
done, and the links that failed are named; 4 stopped, as too many links would have lost their
sessions.

`rait COMMAND --help` explains each command.
"""

_UP = """\
Create, change and remove links until they are as rait.conf and the peers list say. Only what
differs is written: links that are right already are left alone, with their sessions. A second
`rait up` writes nothing.

A link whose entry in the peers list cannot be read is left as it is, with exit status 3. A list
that asks for more links than max_links in rait.conf changes nothing.

A run that would cost more than half of at least four links their sessions, with what runs of the
last 24 hours cost, stops with exit status 4: a peers list that is empty, cut short or exchanged, or
the wrong namespace, must not take the node off the mesh. Links count that are removed or made
again, or get another peer. A new private key counts too, as no peer knows it until the registry
has it. --yes lets the run go on; max_removals in rait.conf sets another limit.
"""

_DOWN = """\
Remove our links: the WireGuard interfaces of our ifgroup in the target namespace. Nothing else is
touched; where there are none, nothing is done.
"""

_LIST = """\
Show our links as they are now: this node's link-local address on each, and the peer's endpoint,
last handshake and traffic.
"""

_PLAN = """\
Show what `rait up` would do, and write nothing anywhere. With --against, plan for the node that
`rait export-state` was run on, without root and without WireGuard: so the CI of a registry can
show what a change does to each node.
"""

_EXPORT = """\
Print this node's state as JSON for `rait plan --against`. It holds no private key.
"""

_LOG = """\
Show the runs that changed something, and what each did, newest last. `rait log show RUN` shows one
run whole, `rait log verify` examines the hash chain, `rait log prune` drops what is old.
"""

_VERIFY = """\
Examine every row of the journal: each entry's hash covers the one before it. Exit status 1 where
anything was changed, removed, reordered or cut off. Whoever may write the file can also compute all
hashes anew: keep the head that this prints on another machine, and check it with --expect-head.

  rait log verify --expect-head ba82272382473d0d9605cf976c4f25f019be5bbac6b72c4d64fd02ecdbf6c6d9
"""

_SHOW = """\
Show one run whole, of whichever configuration it is, with the number of each event.
"""

_PRUNE = """\
Drop the runs that ended longer ago, and keep a snapshot from which replay starts. A journal that
`rait log verify` finds fault with is left as it is.

  rait log prune --keep 90d
"""

_REPLAY = """\
Fold the journal into the topology as of a run, an event or a time, and print it; compare it with
the live system (--diff), or restore it (--apply). Private keys come from today's rait.conf.

--apply stops with exit status 4 where it would cost more than half of at least four links their
sessions, as `rait up` does, unless --yes is given; for a time before the journal began it is
refused.

  rait replay --at 10                            the topology after run 10
  rait replay --at event:11 --diff               after event 11, which `rait log show` numbers
  rait replay --at 2h                            two hours ago
  rait replay --at "2026-01-31 17:05" --apply    at a time, local unless it ends in Z or +01:00
"""

_ROLLBACK = """\
Take one run back, by default the last that changed something. Where later runs touched the same
links, nothing is done unless --force is given. The peers list is not changed: the next `rait up`
brings the tunnels to what it says.

A rollback that would cost more than half of at least four links their sessions stops with exit
status 4, as `rait up` does, unless --yes is given.
"""


_BABELD = "Talk to babeld over its control socket, which rait.conf names in its babeld block."

_BABELD_LIST = "Show the interfaces that babeld has, and which of them are ours."

_BABELD_SYNC = """\
Make babeld's interfaces among ours equal to our live links: what is missing is added, what is gone
is flushed, and after a change extra_cmd is sent. Interfaces that are not ours are left alone. With
sync = true in the babeld block, `rait up` and `rait down` do this by themselves.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Never raises for what a user can do wrong."""
    prepare()
    try:
        return _run(argv)
    except OutputError as error:
        report_lost(error)
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; the next `rait up` sets right what is half done")
        return FAILED


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        wrong = _wrong_usage(sys.argv[1:] if argv is None else argv)
        return stop.code if stop.code in (DONE, FAILED) else wrong
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return WRONG
    return _guarded(arguments)


def _wrong_usage(argv: Sequence[str]) -> int:
    """The status of wrong usage or configuration; under --detailed-exitcode, 2 means changes."""
    asked = any(word.split("=")[0] == _DETAILED for word in argv)
    return FAILED if asked else WRONG


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps our line breaks. argparse would import shutil just to learn the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())


def _width() -> int:
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns - 2, _WIDTH)
    except (OSError, ValueError, AttributeError):  # no terminal, or closed
        return _WIDTH


class _Parser(argparse.ArgumentParser):
    """Tells of wrong usage without showing a private key that was given in the place of a word."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse is silent where it cannot write its help.
        if file is sys.stdout:
            tell_text(message.removesuffix("\n"))
        else:
            complain_text(message)

    def error(self, message: str) -> NoReturn:
        from rait.domain.config.keytext import without_whole_keys

        words = without_whole_keys(message)
        complain_text(f"{self.format_usage()}{clean(f'{self.prog}: error: {words}')}\n")
        sys.exit(WRONG)


class _Command(_Parser):
    """The parser of one command, built when that command is the one to be parsed.

    To build those of all commands takes longer than to import argparse.
    """

    def __init__(self, options: Options, **settings: Any) -> None:
        self._options = options
        self._settings = settings

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        super().__init__(**self._settings)
        self._options(self)
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # All that follows a command is for it, so its own usage is the one to show.
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def _guarded(arguments: argparse.Namespace) -> int:
    from rait import commands
    from rait.domain.errors import ConfigError, RaitError

    try:
        run: Callable[[argparse.Namespace], int] = getattr(commands, arguments.run)
        return run(arguments)
    except ConfigError as error:
        complain_of(error)
        return FAILED if getattr(arguments, "detailed_exitcode", False) else WRONG
    except RaitError as error:
        complain_of(error)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rait",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rait {__version__}")
    _add_common(parser, os.environ.get("RAIT_CONFIG") or DEFAULT_CONFIG, False)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Command)
    _add(commands, "up", "up", "create or sync the tunnels", _UP, ["u", "sync"], _up)
    _add(commands, "down", "down", "remove the tunnels", _DOWN, ["d"], _add_assume_gone)
    _add(commands, "list", "list_links", "show the tunnels", _LIST, ["l"])
    _add(commands, "plan", "plan", "show what `rait up` would do", _PLAN, (), _plan)
    _add(commands, "export-state", "export_state", "print the state for `plan --against`", _EXPORT)
    _add(commands, "log", "log", "show, verify and prune the journal", _LOG, (), _log)
    summary = "show or restore the topology of an earlier time"
    _add(commands, "replay", "replay", summary, _REPLAY, (), _replay)
    _add(commands, "rollback", "rollback", "take one run back", _ROLLBACK, (), _rollback)
    summary = "show and sync babeld's interfaces"
    _add(commands, "babeld", "babeld_list", summary, _BABELD, (), _babeld)
    return parser


def _up(up: argparse.ArgumentParser) -> None:
    up.add_argument("--dry-run", action="store_true", help="only show what would be done")
    up.add_argument("--yes", action="store_true", help=_YES)
    _add_assume_gone(up)
    _add_detailed_exitcode(up, "with --dry-run, ")


def _plan(plan: argparse.ArgumentParser) -> None:
    _add_detailed_exitcode(plan, "")
    plan.add_argument("--against", metavar="STATE.json", help="plan for the node of this state")
    _add_assume_gone(plan)


def _add_assume_gone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--assume-gone", action="store_true", help=_ASSUME_GONE)


def _add_detailed_exitcode(parser: argparse.ArgumentParser, when: str) -> None:
    parser.add_argument(
        _DETAILED,
        action="store_true",
        help=f"{when}exit status 0: nothing to do, 1: any error (wrong usage and configuration "
        "too), or a link that cannot be made, 2: there are changes",
    )


def _log(log: _Command) -> None:
    _add_journal(log, None)
    log.add_argument(
        "--all",
        action="store_true",
        help="the runs of all configurations that share the journal",
    )
    log.add_argument("--since", metavar="WHEN", help="from then on: 2h (ago), 2026-01-31T17:05")
    log.add_argument("--link", metavar="NAME", help="runs and events of this link")
    log.add_argument("--peer", metavar="KEY", help="runs and events of this public key")
    log.add_argument("--run", metavar="RUN", type=int, dest="number", help="this run")
    log.add_argument("-f", "--follow", action="store_true", help="go on with each new run")
    log.add_argument("--oneline", action="store_true", help="a line for each run")
    more = log.add_subparsers(title="of the journal", metavar="")
    _add(more, "show", "log_show", "show one run whole", _SHOW, (), _log_show)
    _add(
        more,
        "verify",
        "log_verify",
        "examine the hash chain",
        _VERIFY,
        (),
        _log_verify,
    )
    _add(
        more,
        "prune",
        "log_prune",
        "drop old runs",
        _PRUNE,
        (),
        _log_prune,
    )


def _log_show(show: argparse.ArgumentParser) -> None:
    show.add_argument("number", metavar="RUN", type=int, help="the run's number")
    _add_journal(show, argparse.SUPPRESS)


def _log_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("--expect-head", metavar="HASH", help="a head that was kept: 64 hex digits")
    _add_journal(verify, argparse.SUPPRESS)


def _log_prune(prune: argparse.ArgumentParser) -> None:
    prune.add_argument(
        "--keep", metavar="SPAN", required=True, help="what to keep: 30m, 12h, 90d, 2w"
    )
    _add_journal(prune, argparse.SUPPRESS)


def _add_journal(parser: argparse.ArgumentParser, path: str | None) -> None:
    parser.add_argument(
        "--journal", metavar="PATH", default=path, help="this journal, and no configuration"
    )


def _replay(replay: argparse.ArgumentParser) -> None:
    replay.add_argument(
        "--at", metavar="WHEN", help="a run's number, event:NUMBER, or a time (default: now)"
    )
    what = replay.add_mutually_exclusive_group()
    what.add_argument("--diff", action="store_true", help="show how the live system differs")
    what.add_argument("--apply", action="store_true", help="make the tunnels what they were")
    replay.add_argument("--yes", action="store_true", help=_YES)


def _rollback(rollback: argparse.ArgumentParser) -> None:
    rollback.add_argument("number", metavar="RUN", type=int, nargs="?", help="default: the last")
    rollback.add_argument("--force", action="store_true", help="even if later runs touched them")
    rollback.add_argument("--dry-run", action="store_true", help="only show what would be done")
    rollback.add_argument("--yes", action="store_true", help=_YES)


def _babeld(babeld: _Command) -> None:
    more = babeld.add_subparsers(title="of babeld", metavar="COMMAND", required=True)
    _add(more, "list", "babeld_list", "the interfaces that babeld has", _BABELD_LIST, ["l"])
    summary = "make ours equal to our links"
    _add(more, "sync", "babeld_sync", summary, _BABELD_SYNC, ["s"], _babeld_sync)


def _babeld_sync(sync: argparse.ArgumentParser) -> None:
    sync.add_argument("--exclusive", action="store_true", help="flush what is not ours as well")


def _add(
    commands: Commands,
    name: str,
    run: str,
    summary: str,
    description: str,
    aliases: Sequence[str] = (),
    own: Options | None = None,
) -> None:
    """Add a command; ``own`` adds its options to those that all commands have."""

    def options(parser: _Command) -> None:
        # The same options after the command; SUPPRESS keeps them from undoing those before it.
        _add_common(parser, argparse.SUPPRESS, argparse.SUPPRESS)
        parser.set_defaults(run=run)
        if own is not None:
            own(parser)

    commands.add_parser(
        name,
        aliases=aliases,
        options=options,
        help=summary,
        description=description,
        formatter_class=_Help,
        allow_abbrev=False,
    )


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
        "-d", "--debug", action="store_true", default=off, help="tell each step on stderr"
    )
    parser.add_argument("--json", action="store_true", default=off, help="print the result as JSON")
