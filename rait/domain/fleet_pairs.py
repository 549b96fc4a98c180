"""What becomes of the tunnel between two nodes of a fleet.

Nodes sync at different times. So for a pair of nodes there are four combinations of versions, and
for each the two ends of the tunnel say how it carries traffic (pairs.py). It is judged for the two
nodes that stand for the pair (alike.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Literal, get_args

from msgspec import Struct, structs

from rait.domain.alike import like_pair
from rait.domain.fleet_nodes import VERSIONS, FleetNode, Version
from rait.domain.pairs import End, Grade, grade

_Value = int | str | None

Outcome = Literal["kept", "made", "removed", "changed", "remade", "interrupted"]

GRADES: tuple[Grade, ...] = get_args(Grade)
"""From best to worst."""

COMBINATIONS = tuple(product(VERSIONS, VERSIONS))


class PairChange(Struct, frozen=True, gc=False):
    """What becomes of the tunnel between two nodes.

    ``grades`` are in the order of COMBINATIONS, of which the first version is that of the first
    node. ``like`` are the nodes that stand for these.
    """

    one: FleetNode
    other: FleetNode
    outcome: Outcome
    grades: tuple[Grade, ...]
    like: tuple[FleetNode, FleetNode]

    @property
    def nodes(self) -> tuple[str, str]:
        """What messages call the nodes."""
        return self.one.name, self.other.name

    @property
    def reasons(self) -> Mapping[str, str]:
        """For each combination that breaks the pair, the reason."""
        if self.outcome != "interrupted":
            return {}
        return {
            f"{mine}/{theirs}": self._why_broken(mine, theirs)
            for (mine, theirs), how in zip(COMBINATIONS, self.grades, strict=True)
            if how == "never"
        }

    def _why_broken(self, mine: Version, theirs: Version) -> str:
        """Why neither of two nodes that run these versions reaches the other."""
        one, other = (_Seen(*each) for each in zip((self.one, self.other), self.like, strict=True))
        both = (
            _why_not_reached(one, other, mine, theirs),
            _why_not_reached(other, one, theirs, mine),
        )
        return "; ".join(dict.fromkeys(both))


def judged(nodes: Iterable[FleetNode]) -> Iterator[PairChange]:
    """Each pair with a node near a change, once, if it has a tunnel in either version."""
    near: list[FleetNode] = []
    far: list[FleetNode] = []
    for node in nodes:
        (near if node.group.is_near else far).append(node)
    known: dict[tuple[FleetNode, FleetNode], PairChange | None] = {}
    for place, node in enumerate(near, start=1):
        for other in chain(near[place:], far):
            pair = like_pair(node, other)
            if pair not in known:
                known[pair] = _judge(*pair)
            if (found := known[pair]) is not None:
                yield structs.replace(found, one=node, other=other)


def _judge(one: FleetNode, other: FleetNode) -> PairChange | None:
    grades = tuple(_grade(one, other, mine, theirs) for mine, theirs in COMBINATIONS)
    outcome = _outcome(one, other, grades)
    return None if outcome is None else PairChange(one, other, outcome, grades, (one, other))


def _outcome(one: FleetNode, other: FleetNode, grades: Sequence[Grade]) -> Outcome | None:
    """What becomes of a pair; None where it has no tunnel in either version."""
    first, *between, last = (how != "never" for how in grades)
    if not first:
        return "made" if last else None
    if not (_ends(one, other, "new") or _ends(other, one, "new")):
        return "removed"
    if not last or not all(between):
        return "interrupted"
    if one.keys & other.planned.remade or other.keys & one.planned.remade:
        return "remade"
    if one.keys & other.planned.touched or other.keys & one.planned.touched:
        return "changed"
    return "kept"


def _ends(one: FleetNode, other: FleetNode, version: Version) -> Sequence[End]:
    """The ends of a node's tunnels to another one, in one version."""
    return one.planned.ends[version].get(other.key(version), ())


def _grade(one: FleetNode, other: FleetNode, mine: Version, theirs: Version) -> Grade:
    """The best grade of the tunnels of two nodes that run these versions."""
    grades = [
        grade(end, far)
        for end in _ends(one, other, mine)
        for far in _ends(other, one, theirs)
        if end.family == far.family
    ]
    return min(grades, key=GRADES.index, default="never")


class _Seen:
    """A node, and the ``like`` one whose links are known, by which its own are found."""

    def __init__(self, node: FleetNode, like: FleetNode) -> None:
        self.like, self.name = like, node.name
        self._values: dict[int | str | None, int | str | None] = dict(
            zip(_values(like), _values(node), strict=True)
        )

    def own(self, value: int | str) -> int | str | None:
        """A port or address of the node, for that of the like one."""
        return self._values.get(value, value)


def _values(node: FleetNode) -> Iterator[_Value]:
    """The ports and addresses of a node."""
    for member in node.members.values():
        for place in member.places if member is not None else ():
            yield from (place.send_port, place.address)


def _why_not_reached(node: _Seen, far: _Seen, mine: Version, theirs: Version) -> str:
    """Why what a node sends does not arrive at another one."""
    ends, others = _ends(node.like, far.like, mine), _ends(far.like, node.like, theirs)
    if not ends:
        return f"{node.name} has no link to {far.name}"
    end = ends[0]
    theirs_of = [other for other in others if other.family == end.family]
    if end.peer != far.like.key(theirs):
        return f"{node.name} has another key of {far.name}"
    if end.sends_to is None:
        return f"{node.name} has no address of {far.name}"
    if not theirs_of:
        return f"{far.name} has no link to {node.name}"
    other = theirs_of[0]
    if other.peer != end.key:
        return f"{far.name} has another key of {node.name}"
    if end.sends_to.address not in other.addresses:
        return f"{node.name} sends to {far.own(end.sends_to.address)}, where {far.name} is not"
    listens = (
        f"port {node.own(other.listens)}" if other.listens else "a port of the kernel's choice"
    )
    return (
        f"{node.name} sends to port {node.own(end.sends_to.port)} of {far.name}, which listens for "
        f"it on {listens}"
    )
