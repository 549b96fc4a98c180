"""However a registry goes to pieces, in steps of any size, half of a mesh is left unasked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rait.domain.backend import Outcome
from rait.domain.diff import diff
from rait.domain.guard import MIN_LINKS, recent_losses
from rait.domain.records import RunHeader, RunRecord
from rait.domain.topology import Device, Link, LinkPeer, LinkSettings, Origin, Topology
from tests.removals import excessive_removal

MOST = 10

steps = st.lists(
    st.dictionaries(
        st.integers(0, MOST - 1), st.sampled_from(("remove", "replace", "back")), max_size=MOST
    ),
    max_size=6,
)
"""What each version of the registry changes: entries go, get another key, or come back."""


def mesh(peers: dict[int, str]) -> Topology:
    links = {}
    for number, peer in peers.items():
        name = f"w{number}"
        settings, device = LinkSettings(1420, 54), Device("own", number + 1)
        links[name] = Link(name, Origin("kernel"), settings, device, (LinkPeer(peer),))
    return Topology(links)


def done(before: Topology, after: Topology, number: int, *, accepted: bool = False) -> RunRecord:
    events = diff(before, after)
    return RunRecord(
        id=number,
        last_id=number,
        header=RunHeader(
            scope="",
            command="up",
            version="",
            uid=0,
            started_at=0,
            public_key="own",
            accepted=accepted,
        ),
        intended=events,
        outcomes={index: Outcome(index) for index in range(len(events))},
        status="done",
    )


def changed(peers: dict[int, str], step: dict[int, str], size: int, number: int) -> dict[int, str]:
    after = dict(peers)
    for position, what in step.items():
        if what == "remove":
            after.pop(position, None)
        elif what == "replace" and position in after:
            after[position] = f"another {number} {position}"
        elif what == "back" and position < size:
            after[position] = f"peer {position}"
    return after


@given(st.integers(MIN_LINKS, MOST), steps)
def test_half_of_a_mesh_survives_whatever_a_registry_does(
    size: int, registry: list[dict[int, str]]
) -> None:
    peers = {position: f"peer {position}" for position in range(size)}
    first = frozenset(peers.values())
    runs = [done(Topology(), mesh(peers), 0, accepted=True)]
    for number, step in enumerate(registry, 1):
        wanted = changed(peers, step, size, number)
        before, after = mesh(peers), mesh(wanted)
        stop = excessive_removal(before, after, known=before, earlier=recent_losses(runs))
        if stop is None:
            runs.append(done(before, after, number))
            peers = wanted
        else:
            assert len(stop.links) + len(stop.earlier) > stop.limit
            assert stop.links, "nobody is stopped for what others cost"
        assert len(first - set(peers.values())) <= size // 2
