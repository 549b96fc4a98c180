"""Preshared keys of which a run has only the digest: one that is there may stay, none can be set.

The journal holds no keys, so a key of the past comes back only if a file of rait.conf holds it.
"""

from __future__ import annotations

from msgspec import structs

from rait.domain.change import Change
from rait.domain.errors import Problem
from rait.domain.topology import Link


def with_known(change: Change) -> Change:
    """The change with the preshared keys that are there, or that the goal says can be set.

    Each other key is a problem, and not desired: the link keeps the one that it has.
    """
    observed, desired, can_be_set = change.observed, change.desired, change.goal.psks
    links: dict[str, Link] = {}
    problems: list[Problem] = []
    for name, link in desired.links.items():
        old = observed.links.get(name)
        if old is link:
            continue
        there = old.peers if old is not None and old.origin == link.origin else ()
        kept = {peer.public_key: peer.psk_digest for peer in there}
        pairs = ((p.public_key, p.psk_digest) for p in link.peers if p.psk_digest)
        lost = {key for key, d in pairs if kept.get(key) != d and (key, d) not in can_be_set}
        if lost:
            peers = (
                structs.replace(p, psk_digest=kept.get(p.public_key, ""))
                if p.public_key in lost
                else p
                for p in link.peers
            )
            links[name] = structs.replace(link, peers=tuple(peers))
            problems += (_unknown(name, key) for key in sorted(lost))
    desired = structs.replace(desired, links={**desired.links, **links})
    return structs.replace(change, desired=desired, problems=(*change.problems, *problems))


def _unknown(name: str, public_key: str) -> Problem:
    text = (
        f"the preshared key that peer {public_key} had cannot be brought back: no "
        "preshared_key_file in rait.conf holds it, and the journal holds no keys"
    )
    return Problem(text, "error", (), name)
