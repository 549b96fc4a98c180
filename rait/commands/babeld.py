"""``rait babeld``: babeld's interfaces, and making those that are ours equal to our links."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

import msgspec

from rait.app.conclude import conclude
from rait.app.desired import open_settled
from rait.app.options import Options
from rait.app.render import print_report
from rait.app.session import Babeld, open_session
from rait.domain.babel import BabelInterface
from rait.domain.change import Goal
from rait.domain.errors import MachineError
from rait.terminal import DONE, print_either, table


def run_list(options: Options, arguments: Namespace) -> int:
    with open_session(options, "babeld list", read_only=True, babeld="explicit") as session:
        routing = session.routing
        assert routing is not None  # noqa: S101 - as it is explicit
        known = session.known.topology
        listing = {each: routing.is_ours(each.name, known) for each in routing.client.interfaces()}
    print_either(_object(listing), _lines(listing), as_json=arguments.json)
    return DONE


def run_sync(options: Options, arguments: Namespace) -> int:
    babeld: Babeld = "exclusive" if arguments.exclusive else "explicit"
    with open_settled(options, "babeld sync", babeld=babeld) as session:
        change = session.compare(Goal(None))
        if change.babeld_problem is not None:
            raise MachineError(change.babeld_problem)
        report = conclude(session, "babeld sync", change, warnings=session.loaded.warnings)
    return print_report(report, arguments)


def _lines(listing: Mapping[BabelInterface, bool]) -> list[str]:
    """A table of babeld's interfaces, and whether each is one of ours."""
    if not listing:
        return ["babeld has no interfaces"]
    rows = [
        (interface.name, "yes" if interface.up else "no", "yes" if ours else "no")
        for interface, ours in listing.items()
    ]
    return table([("INTERFACE", "UP", "OURS"), *rows])


def _object(listing: Mapping[BabelInterface, bool]) -> dict[str, object]:
    """babeld's interfaces as a value for JSON."""
    items = [{**msgspec.to_builtins(each), "ours": ours} for each, ours in listing.items()]
    return {"interfaces": items}
