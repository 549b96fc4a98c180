"""``rait up``: make the tunnels what configuration and peers say."""

from __future__ import annotations

from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext

from rait.app import desired
from rait.app.conclude import Confirm
from rait.app.options import Options
from rait.app.render import print_plan, print_report
from rait.domain.errors import ConfigError


def run(options: Options, arguments: Namespace) -> int:
    if arguments.detailed_exitcode and not arguments.dry_run:
        raise ConfigError("--detailed-exitcode works with `rait plan` and `rait up --dry-run` only")
    confirmed: AbstractContextManager[Confirm | None] = nullcontext()
    if arguments.confirm is not None:
        from rait.app.trials import confirmation  # here, as few changes are to be confirmed

        confirmed = confirmation(options, arguments.confirm, dry_run=arguments.dry_run)
    with confirmed as confirm:
        if arguments.dry_run:
            return print_plan(desired.up(options, dry_run=True), arguments)
        report = desired.up(options, assume_yes=arguments.yes, confirm=confirm)
    return print_report(report, arguments)
