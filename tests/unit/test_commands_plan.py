"""What leaves this node for a plan elsewhere; the plans themselves are in test_cli.py."""

from __future__ import annotations

from rait.commands.plan import without_strangers
from rait.domain.backend import Observation, ObservedLink
from rait.domain.history import LastKnown
from rait.domain.reconcile import Scope
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin

SCOPE = Scope(public_key="ours", netns="mesh", ifgroup=54)


def seen(name: str, *, group: int, key: str, netns: str = "mesh") -> ObservedLink:
    link = Link(
        name,
        Origin("kernel", netns),
        LinkSettings(1420, group),
        Device(key, 50001),
        (LinkPeer(f"the peer of {name} in {netns}", Endpoint("192.0.2.7", 50001)),),
    )
    return ObservedLink(link=link)


def test_an_exported_state_says_no_more_of_others_links_than_their_names() -> None:
    ours = seen("w50001", group=54, key="ours")
    foreign = seen("wg0", group=0, key="theirs")
    double = seen("w50001", group=0, key="theirs", netns="elsewhere")
    observation = Observation(
        now=0, links={"w50001": ours, "wg0": foreign}, doubles=(double,), others={"lo": ""}
    )
    exported = without_strangers(observation, LastKnown(), SCOPE)
    assert exported.links == {"w50001": ours}
    assert exported.doubles == ()
    assert exported.others == {"lo": "", "wg0": "wireguard"}


def test_an_exported_state_has_our_links_in_other_namespaces_too() -> None:
    ours = seen("w50001", group=54, key="ours")
    double = seen("w50001", group=54, key="ours", netns="former")
    memory = LastKnown()
    scope = Scope(public_key="ours", netns="former", ifgroup=54)
    observation = Observation(now=0, links={"w50001": ours}, doubles=(double,))
    assert without_strangers(observation, memory, scope).doubles == (double,)
