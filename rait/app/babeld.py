"""``rait babeld``: babeld's interfaces, and making those that are ours equal to our links."""

from __future__ import annotations

from msgspec import Struct

from rait.adapters.journal.reader import JournalReader
from rait.app.report import Report
from rait.app.session import read_only, read_write, routing_of
from rait.app.turn import Options
from rait.domain.babel import BabelInterface
from rait.domain.errors import MachineError


class BabelListing(Struct, frozen=True):
    """An interface that babeld has, and whether it is one of ours."""

    interface: BabelInterface
    ours: bool


def list_interfaces(options: Options) -> tuple[BabelListing, ...]:
    """The interfaces that babeld has. Raises RaitError."""
    with read_only(options) as session, routing_of(session) as routing:
        memory = JournalReader(session.journal_path).last_known(session.name).topology
        return tuple(
            BabelListing(interface, routing.is_ours(interface.name, memory))
            for interface in routing.interfaces()
        )


def sync(options: Options, *, exclusive: bool = False) -> Report:
    """Have babeld speak on just our live links, among the interfaces that are ours.

    With ``exclusive``, other interfaces are flushed as well. Raises RaitError.
    """
    with (
        read_write(options, "babeld sync") as (session, journal),
        routing_of(session, exclusive=exclusive) as routing,
    ):
        change = session.compare(None, journal.last_known(session.name), routing)
        if change.routing_problem is not None:
            raise MachineError(change.routing_problem)
        return session.carry_out(
            "babeld sync", change, journal, routing=routing, warnings=session.loaded.warnings
        )
