"""``rait confirm``: keep a change that was made with ``--confirm``, or take it back at once."""

from __future__ import annotations

from argparse import Namespace

from rait.app import trials
from rait.app.options import Options
from rait.app.render import done_already, print_report
from rait.domain.errors import ConfigError
from rait.terminal import DONE, FAILED, print_either, warn


def run(options: Options, arguments: Namespace) -> int:
    if arguments.wait:
        if arguments.back:
            raise ConfigError("--wait and --back exclude each other")
        trials.wait(options)
        return DONE
    trial, report = trials.confirm(options, back=arguments.back)
    if report is not None:
        status = print_report(report, arguments)
        if arguments.back:
            return status
        warn(f"it came too late: run {trial.run} is taken back, and not confirmed")
        return FAILED
    with done_already():
        line = f"rait confirm: run {trial.run} ({trial.header.command}) is confirmed"
        value = {"command": "confirm", "confirmed": trial.run}
        print_either(value, [line], as_json=arguments.json)
    return DONE
