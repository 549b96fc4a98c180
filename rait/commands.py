"""What each command does with its arguments: a use case, its result printed, an exit status."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msgspec import structs

from rait.app import render
from rait.app.report import Report
from rait.app.turn import Options
from rait.domain.errors import ConfigError
from rait.terminal import (
    CHANGES,
    DONE,
    FAILED,
    PARTIAL,
    STOPPED,
    OutputError,
    complain,
    report_lost,
    tell,
    tell_text,
)


def up(arguments: argparse.Namespace) -> int:
    """``rait up``, and with ``--dry-run`` the same as ``rait plan``."""
    from rait.app import up as use_case

    if arguments.dry_run:
        return _plan(arguments, against=None)
    if arguments.detailed_exitcode:
        raise ConfigError("--detailed-exitcode is of `rait plan` and `rait up --dry-run` only")
    return _told(use_case.up(_options(arguments), assume_yes=arguments.yes), arguments)


def down(arguments: argparse.Namespace) -> int:
    """``rait down``."""
    from rait.app import down as use_case

    return _told(use_case.down(_options(arguments)), arguments)


def list_links(arguments: argparse.Namespace) -> int:
    """``rait list``."""
    from rait.app import listing as use_case

    listing = use_case.list_links(_options(arguments))
    for failure in listing.unread:
        complain(f"{failure.link}: {failure.error}")
    if arguments.json:
        tell_text(render.listing_json(listing))
    else:
        tell(*render.listing_lines(listing))
    if listing.unread:
        return PARTIAL if listing.links else FAILED
    return DONE


def plan(arguments: argparse.Namespace) -> int:
    """``rait plan``."""
    return _plan(arguments, arguments.against)


def _plan(arguments: argparse.Namespace, against: str | None) -> int:
    from rait.app.planning import plan_against, plan_up

    options = _options(arguments)
    report = plan_up(options) if against is None else plan_against(options, against)
    status = _planned(report, arguments)
    if not arguments.detailed_exitcode:
        return status
    if report.failures:
        return FAILED
    return CHANGES if report.events else DONE


def export_state(arguments: argparse.Namespace) -> int:
    """``rait export-state``."""
    from rait.app import planning

    tell_text(planning.export_state(_options(arguments)))
    return DONE


def log(arguments: argparse.Namespace) -> int:
    """``rait log``."""
    from rait import render_log
    from rait.app import history
    from rait.app.moments import moment

    since = moment(arguments.since, time.time_ns()) if arguments.since else None
    peer = history.peer_key(arguments.peer) if arguments.peer is not None else None
    query = history.Query(since=since, link=arguments.link, peer=peer, run=arguments.number)

    def show(run: RunRecord) -> None:
        if arguments.json:
            tell_text(render_log.run_json(run, query))
        else:
            tell(*render_log.run_lines(run, query, brief=arguments.oneline))

    if arguments.follow:
        with suppress(KeyboardInterrupt):  # that is how one ends it
            for run in history.follow(_place(arguments), query):
                show(run)
        return DONE
    where = _place(arguments)
    runs = history.runs(where, query)
    for run in runs:
        show(run)
    if not runs and not arguments.json:
        tell(*_no_runs(where))
    return DONE


def _no_runs(where: history.Place) -> list[str]:
    from rait.app import history

    if history.has_runs(where):
        return ["no runs"]
    others = history.others(where)
    return [f"no runs of this configuration ({where.name}); {others}" if others else "no runs"]


def log_show(arguments: argparse.Namespace) -> int:
    """``rait log show``."""
    from rait import render_log
    from rait.app import history

    for run in history.runs(_place(arguments), history.Query(run=arguments.number)):
        if arguments.json:
            tell_text(render_log.run_json(run))
        else:
            tell(*render_log.run_whole(run))
    return DONE


def log_verify(arguments: argparse.Namespace) -> int:
    """``rait log verify``."""
    from rait import render_log
    from rait.app import history

    where = _place(arguments)
    report = history.verify(where, arguments.expect_head)
    if arguments.json:
        tell_text(render_log.verification_json(report))
    elif report.ok and not report.entries and history.is_absent(where):
        tell(*render_log.nothing_to_verify(where.path))
    else:
        tell(*render_log.verification_lines(report))
    return DONE if report.ok else FAILED


def log_prune(arguments: argparse.Namespace) -> int:
    """``rait log prune``."""
    from rait import render_log
    from rait.app import history
    from rait.app.moments import span

    pruning = history.prune(_options(arguments), _place(arguments), span(arguments.keep))
    with _done_already():
        if arguments.json:
            tell_text(render.to_json({"runs": pruning.runs, "entries": pruning.entries}))
        else:
            tell(render_log.pruning_text(pruning))
    return DONE


def replay(arguments: argparse.Namespace) -> int:
    """``rait replay``."""
    from rait.app import restore

    options = _options(arguments)
    if arguments.apply:
        return _told(restore.restore(options, arguments.at, assume_yes=arguments.yes), arguments)
    if arguments.diff:
        return _planned(restore.compare_past(options, arguments.at), arguments)
    past = restore.past(options, arguments.at)
    if past.unknown and arguments.at is not None:
        complain(f"warning: {past.unknown}")
    if arguments.json:
        tell_text(render.past_json(past))
    else:
        tell(*render.past_lines(past))
    return DONE


def rollback(arguments: argparse.Namespace) -> int:
    """``rait rollback``."""
    from rait.app import restore

    options = _options(arguments)
    if arguments.dry_run:
        report = restore.plan_rollback(options, arguments.number, force=arguments.force)
        return _planned(report, arguments)
    report = restore.rollback(
        options, arguments.number, force=arguments.force, assume_yes=arguments.yes
    )
    return _told(report, arguments)


def babeld_list(arguments: argparse.Namespace) -> int:
    """``rait babeld list``."""
    from rait.app.babeld import list_interfaces

    listing = list_interfaces(_options(arguments))
    if arguments.json:
        tell_text(render.babel_json(listing))
    else:
        tell(*render.babel_lines(listing))
    return DONE


def babeld_sync(arguments: argparse.Namespace) -> int:
    """``rait babeld sync``."""
    from rait.app.babeld import sync

    return _told(sync(_options(arguments), exclusive=arguments.exclusive), arguments)


def _told(report: Report, arguments: argparse.Namespace) -> int:
    with _done_already():
        _report(report, arguments.json)
    statuses = {"partial": PARTIAL, "failed": FAILED, "stopped": STOPPED}
    return statuses.get(report.status, DONE)


@contextmanager
def _done_already() -> Iterator[None]:
    """Telling of what was done: if that fails, it is done all the same, and so is the status."""
    try:
        yield
    except OutputError as error:
        report_lost(error)


def _planned(report: Report, arguments: argparse.Namespace) -> int:
    """The status says whether all of it can be done, as that of the run itself would."""
    _report(report, arguments.json)
    return PARTIAL if report.failures or report.losses else DONE


def _report(report: Report, as_json: bool) -> None:
    for warning in report.warnings:
        complain(f"warning: {warning}")
    for failure in report.failures:
        complain(f"{failure.link}: {failure.error}")
    for loss in report.losses:
        complain(loss)
    if report.removal is not None:
        complain(render.removal_text(report, report.removal))
    if as_json:
        tell_text(render.report_json(report))
    else:
        tell(*render.report_lines(report))


def _options(arguments: argparse.Namespace) -> Options:
    options = Options(
        config=arguments.config,
        notice=complain,
        assume_gone=getattr(arguments, "assume_gone", False),
    )
    if arguments.debug:
        return structs.replace(options, debug=lambda line: complain(f"debug: {line}"))
    return options


def _place(arguments: argparse.Namespace) -> history.Place:
    from rait.app import history

    return history.place(_options(arguments), arguments.journal, arguments.all)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from rait.app import history
    from rait.domain.history import RunRecord
