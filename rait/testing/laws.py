"""What is true of every fleet, or has to be before a change of its registry is taken.

Each law is a function that returns nothing where it holds, and else raises LawError, whose text
says which nodes break it, and how. A fleet is what ``rait.domain.fleet.fleet_of`` makes of the
peers in a registry. The work grows with the square of the number of nodes: two hundred nodes take
a second or two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from rait.domain.change import Change, Goal
from rait.domain.config.decode_peers import decode_peers
from rait.domain.config.schema import Config, Peer, Transport
from rait.domain.diff import diff
from rait.domain.events import Event, inverted, replay
from rait.domain.fleet import fleet_change
from rait.domain.fleet_nodes import Member, own_addresses, planned_by
from rait.domain.fleet_pairs import PairChange
from rait.domain.history import LastKnown
from rait.domain.ownership import scope_of
from rait.domain.plan import Plan
from rait.domain.policy import Policies
from rait.domain.reconcile import reconcile
from rait.domain.topology import EMPTY, Link, Topology
from rait.testing.machine import Machine

Fleet = Sequence[Member]


class LawError(AssertionError):
    """A law that does not hold; each line of the text is one counterexample."""


def _refuse(law: str, lines: Iterable[str]) -> None:
    """Raise the counterexamples, if there are any."""
    found = tuple(dict.fromkeys(lines))
    if found:
        raise LawError("\n  ".join((f"{law}:", *found)))


def peers_of(document: Mapping[str, object]) -> tuple[Peer, ...]:
    """The peers of a list, as ``tomllib`` or ``json`` read it.

    Raises LawError if `rait up` would skip anything of it. `rait check` tells the lines as well.
    """
    peers, problems = decode_peers(document)
    _refuse("an entry cannot be used", (problem.message for problem in problems))
    return peers


def plan_of(member: Member, fleet: Fleet, applied: Topology = EMPTY) -> Plan:
    """What a node of a fleet plans by itself. A host name stands for its own address.

    ``applied`` are the links that it has: who has a port keeps it.
    """
    peers = [other.peer for other in fleet]
    return planned_by(member, peers, own_addresses(peers), applied)


def every_pair_agrees(fleet: Fleet) -> None:
    """Of any two nodes, each listens for the other on the port that the other sends to.

    A node may leave a link out if it says so: by a policy, or by a problem of its plan. Of a peer
    with several endpoints of one family, it may skip the one that the peer itself goes by.
    """
    plans = {member.peer.public_key: plan_of(member, fleet) for member in fleet}
    members = {member.peer.public_key: member for member in fleet}
    _refuse(
        "two nodes do not agree on the tunnel between them",
        (
            f"{_title(one)} and {_title(members[far.public_key])}: {why}"
            for one in fleet
            for link in plans[one.peer.public_key].topology.links.values()
            for far in link.peers
            for why in _disagreements(one, link, members[far.public_key], plans)
        ),
    )


def _disagreements(
    one: Member, link: Link, other: Member, plans: Mapping[str, Plan]
) -> Iterator[str]:
    """What is wrong with a link of a node to another one, seen beside the other's link back."""
    transport = _transport_of(one.config, link, other.peer)
    family, theirs = transport.address_family, plans[other.peer.public_key]
    wanted = {e.send_port for e in other.peer.endpoints if e.address_family == family}
    listens = link.device.listen_port
    if listens not in ({0} if transport.dynamic_port else wanted):
        yield f"{_title(one)} listens on {listens}, and {_title(other)} has SendPort {wanted}"
    back = [
        there
        for there in theirs.topology.links.values()
        if there.peer(one.peer.public_key)
        and _transport_of(other.config, there, one.peer).address_family == family
    ]
    if not back:
        skip = Policies(other.config.policies).resolve(one.peer, family).settings.skip
        if not (skip or theirs.problems or theirs.flaws):
            yield f"{_title(other)} has no link back ({family})"
    elif not any(_fit(link, there) for there in back) and not (
        _skips(plans[one.peer.public_key], other.peer) or _skips(theirs, one.peer)
    ):
        ends = ((one, link), (other, back[0]))
        yield "; ".join(f"{_title(member)} {_spelt(end)}" for member, end in ends)


def _skips(planned: Plan, peer: Peer) -> bool:
    """Whether a plan says that it skips an endpoint of the peer."""
    return any(e.public_key == peer.public_key for p in planned.problems for e in p.skipped)


def _transport_of(config: Config, link: Link, far: Peer) -> Transport:
    """The transport of which a link to a peer is."""
    return next(
        transport
        for transport in config.transports
        for endpoint in far.endpoints
        if endpoint.address_family == transport.address_family
        and link.name == transport.link_name(endpoint.send_port)
    )


def _fit(one: Link, other: Link) -> bool:
    """Whether two links are the ends of one tunnel."""
    differ = one.settings.address != other.settings.address or bool(one.settings.addresses)
    return differ and _sends_to(one, other) and _sends_to(other, one)


def _sends_to(one: Link, other: Link) -> bool:
    """Whether a link sends to where the other listens, as far as either is known."""
    sends_to, listens = one.peers[0].endpoint, other.device.listen_port
    return sends_to is None or not listens or sends_to.port == listens


def _spelt(link: Link) -> str:
    endpoint = link.peers[0].endpoint
    sends = f"sends to port {endpoint.port}" if endpoint is not None else "does not send first"
    return f"listens on {link.device.listen_port}, and {sends}"


def ports_are_free(fleet: Fleet) -> None:
    """No two endpoints of a registry have one SendPort, in whatever families.

    Each node listens there, and can have but one of the two links.
    """
    holders: dict[int, Member] = {}
    _refuse(
        "a SendPort is given twice",
        (
            f"{endpoint.send_port}: {_title(holder)} and "
            f"{_title(member) if holder is not member else 'the same node'}"
            for member in fleet
            for endpoint in member.peer.endpoints
            if (holder := holders.setdefault(endpoint.send_port, member)) is not member
            or sum(e.send_port == endpoint.send_port for e in member.peer.endpoints) > 1
        ),
    )


def a_change_touches_only_its_own(old: Fleet, new: Fleet) -> None:
    """The next sync of a node that did not change leaves links to others that did not as they are.

    Links that entries want from one another are apart: the plan names them.
    """
    entries = {member.peer.public_key: member.peer for member in old}
    after = {member.peer.public_key: member.peer for member in new}
    changed = {k for k in entries.keys() | after.keys() if entries.get(k) != after.get(k)}
    for before, now, then, planned in _planned(old, new):
        if before == now:
            only_its_own(_title(now), changed, then, planned)


def only_its_own(title: str, changed: Collection[str], old: Plan, new: Plan) -> None:
    """The same law for two plans of one node, between which entries of these keys changed."""
    may_change = {
        name
        for found in (old, new)
        for name, link in found.topology.links.items()
        if any(peer.public_key in changed for peer in link.peers)
    } | {problem.link for found in (old, new) for problem in found.problems}
    _refuse(
        "a change touches links of others",
        (
            f"{title}: {_shown(event)}"
            for event in diff(old.topology, new.topology)
            if event.name not in may_change
        ),
    )


def _planned(old: Fleet, new: Fleet) -> Iterator[tuple[Member, Member, Plan, Plan]]:
    """Each node of both versions, with its plan for each."""
    before = {member.peer.public_key: member for member in old}
    for member in new:
        was = before.get(member.peer.public_key)
        if was is not None:
            then = plan_of(was, old)
            yield was, member, then, plan_of(member, new, then.topology)


def sync_is_idempotent(old: Fleet, new: Fleet) -> None:
    """A node that has synced the new version finds nothing to do in its next sync."""
    for _, member, then, now in _planned(old, new):
        machine, known = Machine(seed=0), LastKnown()
        for planned in (then, now):
            known = carry_out(machine, member, decide(machine, member, planned, known))
        change = decide(machine, member, plan_of(member, new, known.topology), known)
        _refuse(
            "a second sync has something to do",
            (f"{_title(member)}: {_shown(event)}" for event in (*change.drift, *change.events)),
        )


def decide(machine: Machine, member: Member, planned: Plan, known: LastKnown) -> Change:
    """What a sync of a node does that has this machine, and this journal."""
    scope = scope_of(member.config, member.peer.public_key)
    goal = Goal(planned.topology, planned.names)
    return reconcile(machine.observe(), goal, known, scope)


def carry_out(machine: Machine, member: Member, change: Change) -> LastKnown:
    """Carry a change out, and give what the journal knows then. Raises LawError if it fails."""
    outcomes = machine.apply(change.events)
    _refuse(
        "an event fails",
        (
            f"{_title(member)}: {_shown(change.events[outcome.index])}: {outcome.error}"
            for outcome in outcomes
            if outcome.error is not None
        ),
    )
    return LastKnown(topology=change.desired)


def rollback_restores(old: Fleet, new: Fleet) -> None:
    """A node that takes back its sync of the new version has the links that it had."""
    for _, member, then, now in _planned(old, new):
        can_be_taken_back(_title(member), then.topology, now.topology)


def can_be_taken_back(title: str, before: Topology, after: Topology) -> None:
    """The same law for two topologies of one node."""
    events = diff(before, after)
    restored = replay(replay(before, events), inverted(events))
    lines = (f"{title}: {_shown(event)}" for event in diff(before, restored))
    _refuse("a rollback does not bring back what there was", lines)


def rollout_interrupts_none_but(old: Fleet, new: Fleet, *names: str) -> None:
    """Every tunnel that carries traffic goes on doing so, whichever nodes sync first.

    Tunnels of the nodes with these names (or public keys, for nodes without a name) may be
    interrupted. That of a node which is not in the new version ends, and is not interrupted.
    """
    change = fleet_change(old, new)
    lines = [
        line
        for pair in change.interrupted
        if not set(names).intersection(pair.nodes)
        for line in _interruptions(pair)
    ]
    if lines and change.order:
        groups = ", then ".join(" and ".join(group) for group in change.order)
        lines.append(f"nothing is interrupted if nodes sync in this order: {groups}")
    _refuse("a tunnel is interrupted", lines)


def _interruptions(pair: PairChange) -> Iterator[str]:
    one, other = pair.nodes
    for versions, why in pair.reasons.items():
        mine, theirs = versions.split("/")
        yield f"{one} ({mine} registry) and {other} ({theirs} registry): {why}"


def no_guard_stops(old: Fleet, new: Fleet, *names: str) -> None:
    """No node refuses its next sync because it would cost too many links their sessions.

    A registry that was cut short breaks this law. Nodes with these names (or public keys) may
    refuse it, as those may that are not in the new version.
    """
    there = {member.peer.public_key for member in new}
    _refuse(
        "a node refuses the change without --yes",
        (
            f"{node.name}: {node.lost} of its {node.links} links lose their sessions"
            for node in fleet_change(old, new).node_changes
            if node.stops and node.public_key in there and node.name not in names
        ),
    )


def _title(member: Member) -> str:
    return member.peer.name or member.peer.public_key


def _shown(event: Event) -> str:
    return f"{type(event).__name__} {event.name}"
