"""What a sync would tell babeld, put together from the domain's functions as the app does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rait.domain.babel import tracked
from rait.domain.diff import diff
from rait.domain.events import Event
from rait.domain.topology import Topology


def babel_events(
    current: Mapping[str, str],
    wanted: Mapping[str, str],
    *,
    ours: Callable[[str], bool],
    exclusive: bool = False,
) -> tuple[Event, ...]:
    """The events that make babeld's interfaces among ours the wanted ones."""
    touchable = tracked(current, wanted, ours=ours, exclusive=exclusive)
    return diff(Topology(babel=touchable), Topology(babel=wanted))
