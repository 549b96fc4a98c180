"""What is drawn for tests of a registry is as it says, and the laws refuse what breaks them."""

from __future__ import annotations

import pytest
from hypothesis import find, given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.check import examine
from rait.domain.config.schema import Peer, PeerEndpoint
from rait.domain.fleet_nodes import Member, fleet_of
from rait.testing import (
    LawError,
    a_change_touches_only_its_own,
    edits,
    every_pair_agrees,
    no_guard_stops,
    ports_are_free,
    registries,
    rollback_restores,
    rollout_interrupts_none_but,
    sync_is_idempotent,
)
from rait.testing.laws import only_its_own, plan_of
from rait.testing.strategies import EDITS, FREE_PORTS, key_of


def mesh(nodes: int) -> list[Peer]:
    """A registry in which every two nodes have a tunnel."""

    def endpoint(number: int) -> PeerEndpoint:
        address = f"198.18.0.{number}"
        return PeerEndpoint(address_family="ip4", send_port=FREE_PORTS[number], address=address)

    return [
        Peer(public_key=key_of(number), endpoints=(endpoint(number),))
        for number in range(1, nodes + 1)
    ]


def document(peers: list[Peer]) -> dict[str, object]:
    """The registry as a file has it."""
    return {
        "Peers": [
            {
                "PublicKey": peer.public_key,
                "SendPort": endpoint.send_port,
                "AddressFamily": endpoint.address_family,
            }
            | ({} if endpoint.address is None else {"Address": endpoint.address})
            | ({} if peer.name is None else {"Name": peer.name})
            for peer in peers
            for endpoint in peer.endpoints
        ]
    }


def is_broken(law: object, *fleets: list[Member]) -> bool:
    try:
        law(*fleets)
    except LawError:
        return True
    return False


@given(registries())
def test_registries_and_their_edits_are_without_errors(peers: list[Peer]) -> None:
    found = examine(document(peers)).findings if peers else ()
    assert [each.message for each in found if each.severity == "error"] == []


@given(st.data())
def test_edits_make_no_clash_and_keep_the_laws(data: st.DataObject) -> None:
    before = data.draw(registries())
    after = data.draw(edits(before))
    old, new = fleet_of(before), fleet_of(after)
    ports_are_free(new)
    every_pair_agrees(new)
    a_change_touches_only_its_own(old, new)
    sync_is_idempotent(old, new)
    rollback_restores(old, new)


@given(registries(clashes=True), st.data())
def test_the_laws_of_rait_hold_for_lists_with_clashes_too(
    before: list[Peer], data: st.DataObject
) -> None:
    after = data.draw(registries(clashes=True) | edits(before))
    old, new = fleet_of(before), fleet_of(after)
    every_pair_agrees(new)
    a_change_touches_only_its_own(old, new)
    sync_is_idempotent(old, new)
    rollback_restores(old, new)


@given(registries(clashes=True))
def test_free_ports_are_what_rait_check_asks_for(peers: list[Peer]) -> None:
    """Where a node has two endpoints in one family, the check names that first."""
    findings = [f for f in examine(document(peers)).findings if f.rule == "port-taken"]
    fleet = fleet_of(peers)
    families = [[e.address_family for e in p.endpoints] for p in peers]
    if all(len(set(found)) == len(found) for found in families):
        assert is_broken(ports_are_free, fleet) == bool(findings)
    if not is_broken(ports_are_free, fleet):
        skipped = [p for m in fleet for p in plan_of(m, fleet).problems if p.severity == "error"]
        assert skipped == []


@given(st.data())
def test_who_may_be_interrupted_by_an_edit(data: st.DataObject) -> None:
    """At most the tunnels of the nodes that change are; and to add or remove a node costs none."""
    before = data.draw(registries())
    after = data.draw(edits(before))
    old, new = fleet_of(before), fleet_of(after)
    members = [*old, *new]
    changed = {m.peer.name or m.peer.public_key for m in members if members.count(m) == 1}
    rollout_interrupts_none_but(old, new, *changed)
    rollout_interrupts_none_but(old, fleet_of(data.draw(edits(before, kinds=("add",)))))
    rollout_interrupts_none_but(old, fleet_of(data.draw(edits(before, kinds=("remove",)))))


@pytest.mark.parametrize("kind", EDITS)
def test_each_kind_of_edit_is_one_change(kind: str) -> None:
    before = mesh(3)
    after = find(edits(before, kinds=(kind,), most=1), lambda peers: peers != before)
    gone = [peer for peer in before if peer not in after]
    come = [peer for peer in after if peer not in before]
    assert (len(gone), len(come)) == {"add": (0, 1), "remove": (1, 0)}.get(kind, (1, 1))
    if kind == "rekey":
        assert gone[0].endpoints == come[0].endpoints
        assert gone[0].public_key != come[0].public_key
    if kind in ("renumber", "readdress"):
        (was,), (now,) = gone[0].endpoints, come[0].endpoints
        assert (was.send_port == now.send_port) == (kind == "readdress")
        assert (was.address == now.address) == (kind == "renumber")


def test_some_edits_interrupt_a_tunnel_and_some_stop_a_guard() -> None:
    before = mesh(5)
    old = fleet_of(before)
    find(
        edits(before, kinds=("rekey",), most=1),
        lambda after: is_broken(rollout_interrupts_none_but, old, fleet_of(after)),
    )
    find(
        edits(before, kinds=("remove",), most=4),
        lambda after: is_broken(no_guard_stops, old, fleet_of(after)),
    )


def test_a_rait_conf_that_is_not_as_its_entry_is_refused() -> None:
    before = mesh(2)
    one, other = fleet_of(before)
    wrong = tuple(structs.replace(t, send_port=999) for t in one.config.transports)
    config = structs.replace(one.config, transports=wrong)
    with pytest.raises(LawError, match=r"sends to port 999"):
        every_pair_agrees([structs.replace(one, config=config), other])


def test_a_link_to_a_peer_that_did_not_change_is_not_to_be_touched() -> None:
    one, other = fleet_of(mesh(2))
    with pytest.raises(LawError, match="LinkRemoved"):
        only_its_own("a node", (), plan_of(other, [one, other]), plan_of(other, [other]))
