"""Laws of what an event writes: with it a device is as after the event, and no more is touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.config.schema import NO_PSK, Secret
from rait.domain.errors import RaitError
from rait.domain.events import (
    DeviceUpdated,
    LinkAdded,
    PeerAdded,
    PeerEvent,
    PeerRemoved,
    PeerUpdated,
    replay,
)
from rait.domain.topology import (
    Device,
    Endpoint,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)
from rait.domain.writes import NOTHING, DeviceWrite, PeerWrite, write_of
from tests.property.strategies import OWN_KEY, PEER_KEYS, PORTS, peer_keys

devices = st.builds(
    Device,
    st.sampled_from((OWN_KEY, PEER_KEYS[0])),
    st.sampled_from((0, *PORTS[:2])),
    st.sampled_from((0, 54)),
)
peers = st.builds(
    LinkPeer,
    peer_keys,
    st.none() | st.builds(Endpoint, st.sampled_from(("192.0.2.1", "fe80::1%3")), st.just(7)),
    st.sampled_from((0, 25)),
    st.sampled_from(((), ("0.0.0.0/0", "::/0"), ("10.0.0.0/8",))),
    st.sampled_from(("", "digest", "another")),
)
PSKS = {
    (key, digest): Secret(f"{digest} of {key}")
    for digest in ("digest", "another")
    for key in PEER_KEYS
}


def links(of: st.SearchStrategy[LinkPeer] = peers) -> st.SearchStrategy[Link]:
    return st.builds(
        lambda device, own: Link(
            "w1",
            Origin("kernel"),
            LinkSettings(1420, 54),
            device,
            tuple(sorted(own, key=lambda peer: peer.public_key)),
        ),
        devices,
        st.lists(of, max_size=3, unique_by=lambda peer: peer.public_key),
    )


def written(link: Link, write: DeviceWrite) -> Link:
    """The link after a write, as WireGuard carries it out (linux/wireguard.h)."""
    fields = {
        name: value
        for name in ("public_key", "listen_port", "fwmark")
        if (value := getattr(write, name)) is not None
    }
    found = {peer.public_key: peer for peer in link.peers}
    for peer in write.peers:
        if peer.remove:
            found.pop(peer.public_key, None)
        elif peer.public_key in found or not peer.update_only:
            there = found.get(peer.public_key, LinkPeer(peer.public_key, allowed_ips=()))
            found[peer.public_key] = peer_after(there, peer)
    return structs.replace(
        link,
        device=structs.replace(link.device, **fields),
        peers=tuple(found[key] for key in sorted(found)),
    )


def peer_after(peer: LinkPeer, write: PeerWrite) -> LinkPeer:
    fields = {
        name: value
        for name in ("endpoint", "keepalive", "allowed_ips")
        if (value := getattr(write, name)) is not None
    }
    if write.psk is not None:
        digests = {psk: digest for (key, digest), psk in PSKS.items() if key == peer.public_key}
        fields["psk_digest"] = "" if write.psk == NO_PSK else digests[write.psk]
    return structs.replace(peer, **fields)


def assert_leads_on(link: Link, event: DeviceUpdated | PeerEvent) -> None:
    after = replay(Topology({"w1": link}), [event]).links["w1"]
    assert written(link, write_of(event, PSKS)) == after


@given(links())
def test_a_new_link_gets_all_that_a_new_device_has_not(link: Link) -> None:
    empty = structs.replace(link, device=Device(""), peers=())
    write = write_of(LinkAdded(link), PSKS)
    assert written(empty, write) == link
    assert 0 not in (write.listen_port, write.fwmark), "that is so already"


@given(links(), devices)
def test_of_a_device_what_differs_is_written_and_no_more(link: Link, after: Device) -> None:
    event = DeviceUpdated("w1", link.device, after)
    assert_leads_on(link, event)
    write = write_of(event, PSKS)
    for name in ("public_key", "listen_port", "fwmark"):
        new = getattr(after, name)
        assert getattr(write, name) == (None if new == getattr(link.device, name) else new)
    assert write.peers == ()


@given(links(), peers)
def test_peers_come_and_go(link: Link, peer: LinkPeer) -> None:
    there = link.peer(peer.public_key)
    if there is not None:
        assert_leads_on(link, PeerRemoved("w1", there))
    else:
        assert_leads_on(link, PeerAdded("w1", peer))


@given(peers, peers, links())
def test_of_a_peer_what_differs_is_written_and_no_more(
    before: LinkPeer, after: LinkPeer, link: Link
) -> None:
    after = structs.replace(after, public_key=before.public_key)
    others = [peer for peer in link.peers if peer.public_key != before.public_key]
    link = structs.replace(link, peers=tuple(sorted([*others, before], key=lambda p: p.public_key)))
    forgets = before.endpoint is not None and after.endpoint is None
    event = PeerUpdated("w1", before, after)
    assert_leads_on(link, event)
    write = write_of(event, PSKS)
    assert (write == NOTHING) == (before == after)
    if before == after or forgets:
        return
    (only,) = write.peers
    assert only.update_only, "a peer that went meanwhile is not made anew"
    for name in ("endpoint", "keepalive", "allowed_ips"):
        new = getattr(after, name)
        assert getattr(only, name) == (None if new == getattr(before, name) else new)
    assert (only.psk is None) == (before.psk_digest == after.psk_digest)


@given(peers, st.sampled_from(("", "another")))
def test_a_preshared_key_that_the_run_has_not_is_refused(peer: LinkPeer, before: str) -> None:
    wanted = structs.replace(peer, psk_digest="digest")
    for event in (
        PeerAdded("w1", wanted),
        PeerUpdated("w1", structs.replace(peer, psk_digest=before), wanted),
        LinkAdded(Link("w1", Origin("kernel"), LinkSettings(1420, 54), Device(""), (wanted,))),
    ):
        with pytest.raises(RaitError, match="does not know"):
            write_of(event, {key: psk for key, psk in PSKS.items() if key[0] != peer.public_key})
