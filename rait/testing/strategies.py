"""What to draw: configurations, lists of peers, whole registries, and changes of them.

The pools are small, so that keys, ports and addresses collide often.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence

from hypothesis import strategies as st
from msgspec import structs

from rait.domain.config.schema import (
    Config,
    Isolation,
    Match,
    Peer,
    PeerEndpoint,
    Policy,
    Transport,
)
from rait.domain.topology import Family


def key_of(number: int) -> str:
    """A public key for each number from 0 to 65535."""
    return b64encode(number.to_bytes(2, "big") * 16).decode()


OWN_KEY = key_of(0)
PEER_KEYS = tuple(map(key_of, range(1, 7)))
PORTS = (50001, 50002, 50003, 50004, 50005, 50006)
FREE_PORTS = range(20001, 30000)
"""Those that edits and registries without clashes take, one after the other."""
FAMILIES: tuple[Family, Family] = ("ip4", "ip6")
PREFIXES = ("r4x", "r6x", "w", "much-too-long", "näme")
HOSTS = ("a.example.org", "b.example.org")
LITERALS = {"ip4": ("192.0.2.1", "192.0.2.2"), "ip6": ("2001:db8::1", "2001:db8::2")}
NETNS = "raitns"

families = st.sampled_from(FAMILIES)
ports = st.sampled_from(PORTS)
peer_keys = st.sampled_from(PEER_KEYS)
peer_endpoints = st.sampled_from(
    [
        PeerEndpoint(address_family=family, send_port=port, address=address)
        for family in FAMILIES
        for port in PORTS
        for address in (None, *HOSTS, *LITERALS[family])
    ]
)


def transports_named(prefixes: Iterable[str]) -> st.SearchStrategy[Transport]:
    """Transports of either family whose links have names with one of these prefixes."""
    return st.sampled_from(
        [
            Transport(
                address_family=family,
                send_port=port,
                mtu=mtu,
                ifprefix=prefix,
                fwmark=fwmark,
                dynamic_port=dynamic,
            )
            for family in FAMILIES
            for port in PORTS
            for mtu, fwmark in ((1280, 0), (1420, 54))
            for prefix in prefixes
            for dynamic in (False, True)
        ]
    )


transports = transports_named(PREFIXES)
transport_sets = st.lists(
    transports,
    max_size=3,
    unique_by=(lambda t: t.ifprefix, lambda t: (t.address_family, t.send_port)),
).map(tuple)
"""As a checked configuration has them: no two share a prefix, or a port in one family."""
isolations = st.builds(
    Isolation,
    type=st.sampled_from(("netns", "vrf")),
    ifgroup=st.sampled_from((54, 55)),
    target=st.just(NETNS),
)


def _some(values: tuple[object, ...]) -> st.SearchStrategy[object]:
    """One of the values, or None for what a policy leaves to others."""
    return st.none() | st.sampled_from(values)


matches = st.builds(
    Match,
    name=st.sampled_from(((), ("*",), ("core-*", "x"), ("gate",))),
    public_key=st.sets(peer_keys, max_size=2).map(tuple),
    address_family=st.sampled_from(((), ("ip4",), ("ip6",), FAMILIES)),
    remarks=st.sampled_from(({}, {"place": ("ams*", "f*")}, {"place": ("f*",), "ip": ("*",)})),
)
policies = st.builds(
    Policy,
    match=matches,
    keepalive=_some((0, 25)),
    mtu=_some((1280, 1400, "auto")),
    fwmark=_some((0, 54, 55)),
    addresses=_some((("10.9.0.1/24",), ("10.9.0.1 peer {remarks.ip}", "fe80::9"), ("{name}",))),
    preshared_key_file=_some(("/psk",)),
    babeld_param=_some(("type wired",)),
    babeld_param_add=_some(("", "rxcost 96")),
    skip=st.sampled_from((None, None, True, False)),
    up_command=_some((("hook",),)),
    command_netns=_some(("current",)),
)
policy_lists = st.lists(policies, max_size=4).map(tuple)
"""Policies that fit some of the peers, one another's fields, and only one of two ends."""


def configs(
    policies: st.SearchStrategy[tuple[Policy, ...]] = st.just(()),  # noqa: B008 - immutable
) -> st.SearchStrategy[Config]:
    """Configurations as they are once checked; see ``transport_sets``.

    Of policies there are none, unless they are asked for (``policy_lists``).
    """
    return st.builds(Config, transports=transport_sets, isolation=isolations, policies=policies)


def peers(keys: st.SearchStrategy[str] = peer_keys) -> st.SearchStrategy[Peer]:
    """One entry, with up to three endpoints of any family and port."""
    return st.builds(
        Peer,
        public_key=keys,
        endpoints=st.lists(peer_endpoints, max_size=3).map(tuple),
        name=st.none() | st.just("gate"),
    )


def peers_lists(
    keys: st.SearchStrategy[str] = st.sampled_from((OWN_KEY, *PEER_KEYS)),  # noqa: B008 - immutable
) -> st.SearchStrategy[list[Peer]]:
    """Whatever a node may read, as it is once decoded: one entry for each key, ports may collide.

    The entry with ``OWN_KEY`` is the node's own.
    """
    return st.lists(peers(keys), max_size=6, unique_by=lambda peer: peer.public_key)


@st.composite
def registries(draw: st.DrawFn, nodes: int | None = None, clashes: bool = False) -> list[Peer]:
    """All nodes of a mesh, each with an endpoint in one family or in both.

    There are so many ``nodes``; up to six if none is said. No two endpoints have one SendPort, and
    no two nodes one address or name. With ``clashes``, SendPorts and addresses are often those of
    others, and an entry may have two endpoints in one family.
    """
    count = draw(st.integers(0, 6)) if nodes is None else nodes
    found = []
    for number in range(1, count + 1):
        endpoints = _endpoints(draw, number, FREE_PORTS[2 * number :])
        if clashes and draw(st.integers(0, 3)):
            endpoints = draw(st.lists(peer_endpoints, min_size=1, max_size=2))
        name = draw(st.sampled_from((None, f"n{number}")))
        found.append(Peer(public_key=key_of(number), name=name, endpoints=tuple(endpoints)))
    return draw(st.permutations(found))


def _endpoints(draw: st.DrawFn, number: int, free: Sequence[int]) -> list[PeerEndpoint]:
    chosen: tuple[Family, ...] = draw(st.sampled_from((("ip4",), ("ip6",), FAMILIES)))
    return [
        PeerEndpoint(
            address_family=family,
            send_port=free[place],
            address=draw(st.sampled_from(_addresses(number, family))),
        )
        for place, family in enumerate(chosen)
    ]


def _addresses(number: int, family: Family) -> tuple[str | None, ...]:
    """None for a node behind NAT, and addresses that are a node's own (RFC 2544, RFC 3849)."""
    low = f"{number >> 8}.{number & 255}" if family == "ip4" else f"{number:x}"
    start = "198.18." if family == "ip4" else "2001:db8::"
    return (None, f"{start}{low}", f"n{number}.example.org")


_Edit = Callable[[st.DrawFn, list[Peer], int], list[Peer]]
"""Draws a registry from another one, in which the entry of this index changes."""


def add(draw: st.DrawFn, registry: list[Peer], index: int) -> list[Peer]:
    number = _free_number(registry)
    endpoints = _endpoints(draw, number, _free_ports(registry))
    name = draw(st.sampled_from((None, f"n{number}")))
    entry = Peer(public_key=key_of(number), name=name, endpoints=tuple(endpoints))
    return [*registry[: index + 1], entry, *registry[index + 1 :]]


def remove(_: st.DrawFn, registry: list[Peer], index: int) -> list[Peer]:
    return [*registry[:index], *registry[index + 1 :]]


def renumber(draw: st.DrawFn, registry: list[Peer], index: int) -> list[Peer]:
    port = draw(st.sampled_from(_free_ports(registry)[:4]))
    return _with_endpoint(draw, registry, index, lambda e: structs.replace(e, send_port=port))


def readdress(draw: st.DrawFn, registry: list[Peer], index: int) -> list[Peer]:
    number = _free_number(registry)

    def moved(endpoint: PeerEndpoint) -> PeerEndpoint:
        others = {*_addresses(number, endpoint.address_family)} - {endpoint.address}
        return structs.replace(endpoint, address=draw(st.sampled_from(sorted(others, key=str))))

    return _with_endpoint(draw, registry, index, moved)


def rekey(_: st.DrawFn, registry: list[Peer], index: int) -> list[Peer]:
    entry = structs.replace(registry[index], public_key=key_of(_free_number(registry)))
    return [*registry[:index], entry, *registry[index + 1 :]]


EDITS: Mapping[str, _Edit] = {
    edit.__name__: edit for edit in (add, remove, renumber, readdress, rekey)
}


@st.composite
def edits(
    draw: st.DrawFn,
    registry: Sequence[Peer],
    kinds: Iterable[str] = tuple(EDITS),
    most: int = 3,
) -> list[Peer]:
    """The registry after one to ``most`` changes of single entries, each of one of the kinds.

    ``add`` a node, ``remove`` one, ``renumber``: give an endpoint another SendPort, ``readdress``:
    give one another address or none, ``rekey``: give a node another public key. No change makes a
    clash: a SendPort, an address and a key are nobody else's. A registry without nodes gets one.
    """
    now = list(registry)
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(tuple(kinds))) if now else "add"
        now = EDITS[kind](draw, now, draw(st.integers(0, max(0, len(now) - 1))))
    return now


def _free_number(registry: Iterable[Peer]) -> int:
    """A number after those of all keys and addresses that came from one."""
    known = {peer.public_key for peer in registry}
    taken = {e.address for peer in registry for e in peer.endpoints}
    return next(
        n
        for n in range(1, 1 << 16)
        if key_of(n) not in known
        and taken.isdisjoint((*_addresses(n, "ip4")[1:], *_addresses(n, "ip6")[1:]))
    )


def _free_ports(registry: Iterable[Peer]) -> list[int]:
    taken = {endpoint.send_port for peer in registry for endpoint in peer.endpoints}
    return [port for port in FREE_PORTS if port not in taken]


def _with_endpoint(
    draw: st.DrawFn,
    registry: list[Peer],
    index: int,
    change: Callable[[PeerEndpoint], PeerEndpoint],
) -> list[Peer]:
    """With a change of one endpoint of an entry."""
    endpoints = list(registry[index].endpoints)
    if not endpoints:
        return registry
    which = draw(st.integers(0, len(endpoints) - 1))
    endpoints[which] = change(endpoints[which])
    entry = structs.replace(registry[index], endpoints=tuple(endpoints))
    return [*registry[:index], entry, *registry[index + 1 :]]
