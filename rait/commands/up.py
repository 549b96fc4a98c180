"""``rait up``: make the tunnels what configuration and peers say."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rait.app import desired
from rait.app.options import Options, add_flags
from rait.app.render import print_plan, print_report
from rait.domain.errors import ConfigError

HELP = """\
Create, change and remove links until they are as rait.conf and the peers list say. Only what
differs is written: links that are right already are left alone, with their sessions. A second
`rait up` writes nothing.

A link whose entry in the peers list cannot be read is left as it is, with exit status 3. A list
that asks for more links than max_links in rait.conf changes nothing.

A run that would end the sessions of more than half of the links, where there are at least four,
stops with exit status 4: a peers list that is empty, cut short or exchanged, or a wrong namespace,
must not take the node off the mesh. A link loses its session if it is removed or made again, or
gets another peer, and every link does with a new private key, which no peer knows until the
registry has it. Sessions that runs of the last 24 hours ended count too. --yes lets the run go on;
max_removals in rait.conf sets another limit.
"""


def declare(parser: ArgumentParser) -> None:
    parser.description = HELP
    parser.set_defaults(run=run)
    add_flags(parser, "--dry-run", "--yes", "--assume-gone", "--detailed-exitcode")


def run(options: Options, arguments: Namespace) -> int:
    if arguments.dry_run:
        return print_plan(desired.up(options, dry_run=True), arguments)
    if arguments.detailed_exitcode:
        raise ConfigError("--detailed-exitcode works with `rait plan` and `rait up --dry-run` only")
    return print_report(desired.up(options, assume_yes=arguments.yes), arguments)
