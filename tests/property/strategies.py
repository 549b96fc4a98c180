"""What the property tests draw from: small pools, so that names, keys and ports collide often."""

from __future__ import annotations

from itertools import permutations

from hypothesis import strategies as st

from rait.domain.config.schema import Peer, PeerEndpoint
from rait.domain.history import LastKnown
from rait.domain.plan import Node
from rait.domain.topology import (
    NO_NOTES,
    Device,
    Endpoint,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
    Rule,
    Topology,
)
from rait.testing.strategies import (  # noqa: F401 - tests find all in one place
    FAMILIES,
    HOSTS,
    LITERALS,
    NETNS,
    OWN_KEY,
    PEER_KEYS,
    PORTS,
    configs,
    edits,
    families,
    isolations,
    peer_endpoints,
    peer_keys,
    peers,
    peers_lists,
    policy_lists,
    ports,
    registries,
    transport_sets,
    transports,
    transports_named,
)

NAMES = ("w1", "w2", "w3", "w4", "w5", "w6")
TRANSITS = ("transit-1", "transit-2")
IFGROUP = 54


@st.composite
def calm_registries(draw: st.DrawFn) -> list[Peer]:
    """Peers of which no two want the same port."""
    shuffled = draw(st.permutations(PORTS))
    found = []
    for key, port in zip(PEER_KEYS, shuffled, strict=True):
        endpoint = draw(peer_endpoints)
        endpoint = PeerEndpoint(
            address_family=endpoint.address_family, send_port=port, address=endpoint.address
        )
        found.append(Peer(public_key=key, endpoints=(endpoint,)))
    return found[: draw(st.integers(1, len(found)))]


addresses = st.fixed_dictionaries(
    {},
    optional={
        (host, family): st.lists(st.sampled_from(LITERALS[family]), unique=True).map(tuple)
        for host in HOSTS
        for family in FAMILIES
    },
)

INSTANCES = ("", "boot/1", "boot/2")
"""Of the target namespace; the first is for what a rait recorded that did not know of these."""
ORIGINS = tuple(Origin(b, NETNS, t) for b in ("kernel", "userspace") for t in TRANSITS)
PLACED = tuple(Origin(o.backend, NETNS, o.transit, i) for o in ORIGINS[::2] for i in INSTANCES)
SETTINGS = tuple(
    LinkSettings(mtu, group, master, up, address, addresses)
    for mtu, addresses in ((1280, ()), (1420, ()), (1420, ("192.0.2.1/24", "2001:db8::1/64")))
    for group in (54, 55)
    for master in (None, "vrf0")
    for up in (True, False)
    for address in (None, "fe80::1/64", "fe80::2/64")
)
ENDPOINTS = (
    None,
    *(Endpoint(address, p) for address in ("192.0.2.1", "2001:db8::1") for p in (1000, 2000)),
)
LINK_PEERS = tuple(
    LinkPeer(key, endpoint, keepalive, allowed_ips, psk_digest)
    for key in PEER_KEYS[:3]
    for endpoint in ENDPOINTS
    for keepalive in (0, 25)
    for allowed_ips, psk_digest in ((("0.0.0.0/0", "::/0"), ""), ((), ""), ((), "a digest"))
)
"""Whole values to choose from: one choice for each costs far less than one for each field."""

origins = st.sampled_from(ORIGINS)
anywhere = st.sampled_from((*ORIGINS, *PLACED))
settings = st.sampled_from(SETTINGS)
endpoints = st.sampled_from(ENDPOINTS)
underlay = st.sampled_from(ENDPOINTS[1:])
node = Node(public_key=OWN_KEY, origin=ORIGINS[0])


PEER_TUPLES = (
    (),
    *((peer,) for peer in LINK_PEERS),
    *((a, b) for a in LINK_PEERS[::3] for b in LINK_PEERS[::5] if a.public_key < b.public_key),
)
DEVICES = {
    port: st.sampled_from(
        (
            Device(OWN_KEY, port, 54),
            Device(OWN_KEY, port),
            Device(OWN_KEY, 0),
            Device("other key", port),
            Device("other key", 0),
        )
    )
    for port in PORTS
}
peer_tuples = st.sampled_from(PEER_TUPLES)
"""The peers of one link, in the order of their keys."""


notes = st.sampled_from((NO_NOTES, LinkNotes(up_command=("up",)), LinkNotes(peer_name="far")))

MOST_LINKS = 4
name_orders = st.sampled_from(tuple(permutations(NAMES, MOST_LINKS)))


@st.composite
def topologies(draw: st.DrawFn, links_only: bool = False, least: int = 0) -> Topology:
    """Any valid topology of ``least`` links or more.

    Names are unique, and so are listen ports that are not 0. Those with links only are of one
    namespace.
    """
    wanted_ports = draw(st.lists(ports, unique=True, min_size=least, max_size=MOST_LINKS))
    names = draw(name_orders)
    links = {}
    for name, port in zip(names, wanted_ports, strict=False):
        device = draw(DEVICES[port])
        origin = draw(origins if links_only else anywhere)
        far = draw(peer_tuples)
        links[name] = Link(name, origin, draw(settings), device, far, draw(notes))
    if links_only:
        return Topology(links)
    return Topology(links, draw(told), draw(vrfs), draw(rules))


told = st.sampled_from(
    ({}, {"w1": "rxcost 32"}, {"w1": "rxcost 96"}, {"w1": "rxcost 32", "w2": "rxcost 96"})
)
"""What babeld may have been told."""

vrfs = st.sampled_from(({}, {"vrf0": 100}, {"vrf0": 200}, {"vrf0": 100, "vrf1": 200}))
rules = st.sets(
    st.sampled_from([Rule(family, 54, table, 100) for family in FAMILIES for table in (100, 200)])
).map(lambda found: {rule.name: rule for rule in found})


mere_links = topologies(links_only=True)


@st.composite
def wanted_topologies(draw: st.DrawFn) -> Topology:
    """What a plan may ask for: one origin, group and key for all, one peer for each link."""
    origin = draw(origins)
    drawn = draw(mere_links)
    links = {}
    for name, link in drawn.links.items():
        links[name] = Link(
            name,
            origin,
            LinkSettings(link.settings.mtu, IFGROUP, None, True, f"fe80::{name[1:]}/64"),
            Device(OWN_KEY, link.device.listen_port, link.device.fwmark),
            (LinkPeer(draw(peer_keys), draw(endpoints)),),
            draw(notes),
        )
    return Topology(links)


@st.composite
def memories(draw: st.DrawFn) -> LastKnown:
    """What a journal may say, whether or not the machine still is like that."""
    pending = draw(mere_links) if draw(st.booleans()) else Topology()
    return LastKnown(topology=draw(mere_links), leftover_links=pending.links)
