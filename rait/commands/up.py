"""``rait up``: make the tunnels what configuration and peers say."""

from __future__ import annotations

from argparse import Namespace

from rait.app import desired
from rait.app.options import Options
from rait.app.render import print_plan, print_report
from rait.domain.errors import ConfigError


def run(options: Options, arguments: Namespace) -> int:
    if arguments.dry_run:
        return print_plan(desired.up(options, dry_run=True), arguments)
    if arguments.detailed_exitcode:
        raise ConfigError("--detailed-exitcode works with `rait plan` and `rait up --dry-run` only")
    return print_report(desired.up(options, assume_yes=arguments.yes), arguments)
