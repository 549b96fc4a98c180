"""``rait list``: our tunnels as they are now."""

from __future__ import annotations

from argparse import Namespace

from msgspec import Struct

from rait.app.load import configured
from rait.app.options import Options
from rait.app.sight import kept_peers, look, names_of_peers, remembered, waiting
from rait.app.status_words import ago, amount
from rait.domain.backend import REJECT_AFTER_SECONDS, ObservedLink
from rait.domain.change import Failure
from rait.domain.ownership import is_ours, unread_of_ours
from rait.terminal import DONE, FAILED, PARTIAL, print_json, print_result, table, warn


def run(options: Options, arguments: Namespace) -> int:
    listing = list_links(options)
    warn(*(f"{failure.link}: {failure.error}" for failure in listing.unread))
    warn(*(f"warning: {line}" for line in listing.waiting))
    if arguments.json:
        print_json(listing_object(listing))
    else:
        print_result(*listing_lines(listing))
    if listing.unread:
        return PARTIAL if listing.links else FAILED
    return DONE


class Listing(Struct, frozen=True):
    """Our links in the order of their names, and the names that the registry gives to peers, or "".

    ``unread`` are links of ours that could not be read, and ``waiting`` are lines about a change
    that waits, as in Status.
    """

    links: tuple[ObservedLink, ...]
    names: dict[str, str]
    now: int
    unread: tuple[Failure, ...] = ()
    waiting: tuple[str, ...] = ()


def list_links(options: Options) -> Listing:
    """Observe our links; changes nothing and waits for nobody. Raises RaitError."""
    loaded = configured(options.config)
    memory = remembered(options, loaded)
    known = memory.known
    observation, scope = look(options, loaded, known)
    unread = unread_of_ours(observation, known, scope)
    ours = (link for link in observation.all_links() if is_ours(link, known, scope))
    links = tuple(sorted(ours, key=lambda observed: observed.link.name))
    failures = tuple(
        Failure(name, f"it cannot be read: {why}") for name, why in sorted(unread.items())
    )
    kept = kept_peers(options, loaded, memory.public_key)
    names = names_of_peers(options, loaded, kept)
    return Listing(links, names or {}, observation.now, failures, waiting(options, loaded, memory))


def listing_lines(listing: Listing) -> list[str]:
    """A table of our links, a row for each peer of each."""
    if not listing.links:
        return ["no links that can be read" if listing.unread else "no links"]
    head = ("LINK", "ADDRESS", "PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT")
    return table([head, *(row for link in listing.links for row in _rows(link, listing))])


def listing_object(listing: Listing) -> dict[str, object]:
    """The links as a value for JSON; times are unix seconds, counters bytes."""
    return {
        "links": [_link_object(link, listing) for link in listing.links],
        "failed": [{"link": f.link, "error": f.error} for f in listing.unread],
    }


def _rows(observed: ObservedLink, listing: Listing) -> list[tuple[str, ...]]:
    name = observed.link.name
    settings = observed.link.settings
    link_local = (settings.address or "").partition("/")[0]
    address = ", ".join(filter(None, (link_local, *settings.addresses))) or "-"
    if not observed.link.peers:
        return [(name, address, "-", "-", "-", "-", "-")]
    return [
        (
            name,
            address,
            listing.names.get(peer.public_key) or peer.public_key,
            str(peer.endpoint) if peer.endpoint else "-",
            _ago(listing.now, observed.handshakes.get(peer.public_key, 0)),
            amount(observed.received.get(peer.public_key, 0)),
            amount(observed.sent.get(peer.public_key, 0)),
        )
        for peer in observed.link.peers
    ]


def _link_object(observed: ObservedLink, listing: Listing) -> dict[str, object]:
    link = observed.link
    return {
        "name": link.name,
        "backend": link.origin.backend,
        "netns": link.origin.netns,
        "group": link.settings.group,
        "mtu": link.settings.mtu,
        "up": link.settings.up,
        "master": link.settings.master,
        "address": link.settings.address,
        "addresses": list(link.settings.addresses),
        "public_key": link.device.public_key,
        "listen_port": link.device.listen_port,
        "fwmark": link.device.fwmark,
        "peers": [
            {
                "public_key": peer.public_key,
                "name": listing.names.get(peer.public_key) or None,
                "endpoint": str(peer.endpoint) if peer.endpoint else None,
                "keepalive": peer.keepalive,
                "preshared_key": bool(peer.psk_digest),
                "latest_handshake": observed.handshakes.get(peer.public_key, 0),
                "received": observed.received.get(peer.public_key, 0),
                "sent": observed.sent.get(peer.public_key, 0),
            }
            for peer in link.peers
        ],
    }


def _ago(now: int, then: int) -> str:
    if not then:
        return "never"
    if then - now > REJECT_AFTER_SECONDS:
        return "in the future"  # the clock was set back since, so its age is unknown
    return ago(max(now - then, 0))
