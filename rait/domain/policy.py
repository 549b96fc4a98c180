"""Which policies of rait.conf are for a link, and what the link gets of them.

The policies are tried in their order, and of those that set a thing the last wins. What a link gets
follows from the policies, the peer and the address family alone: other peers decide nothing.

A peer without a name fits no glob for names, not even ``*``, and one without a remark of some key
fits no glob for that remark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from rait.domain.config.keytext import shown
from rait.domain.config.schema import POLICY_SETTINGS, Config, Match, Peer, PeerEndpoint, Policy
from rait.domain.topology import NO_NOTES, Family, LinkNotes, is_link_local

if TYPE_CHECKING:
    import re


class Resolved(Struct, frozen=True):
    """What a link gets of the policies that are for it.

    ``settings`` has each thing as the last policy has it that sets it, and ``givers`` these
    policies, by the name of the thing.
    """

    settings: Policy = Policy()
    givers: Mapping[str, Policy] = {}


NOTHING = Resolved()
"""What a link gets that no policy is for."""


class Policies:
    """The policies of one configuration, ready to be asked about very many peers."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._policies = tuple(policies)
        self._tests = tuple(_Test(policy.match) for policy in self._policies)
        self._skips = any(policy.skip for policy in self._policies)
        self._known: dict[tuple[bool, ...], Resolved] = {}

    def resolve(self, peer: Peer, family: Family) -> Resolved:
        """What a link to the peer gets over a transport of this family."""
        if not self._tests:
            return NOTHING
        fitting = self.fitting(peer, family)
        known = self._known.get(fitting)
        if known is None:
            chosen = (policy for policy, fits in zip(self._policies, fitting, strict=True) if fits)
            known = self._known[fitting] = _merged(chosen)
        return known

    def fitting(self, peer: Peer, family: Family) -> tuple[bool, ...]:
        """Of each policy, whether it is for such a link."""
        return tuple(test.is_for(peer, family) for test in self._tests)

    def endpoints(self, peer: Peer) -> tuple[PeerEndpoint, ...]:
        """The endpoints of a peer, without those that policies skip."""
        if not self._skips:
            return peer.endpoints
        return tuple(
            endpoint
            for endpoint in peer.endpoints
            if not self.resolve(peer, endpoint.address_family).settings.skip
        )


def key_files(config: Config, peers: Iterable[Peer]) -> Iterator[tuple[str, Peer]]:
    """The files with preshared keys that links to these peers need, each pair once."""
    policies = Policies(config.policies)
    families = {transport.address_family for transport in config.transports}
    for peer in peers:
        files = {
            policies.resolve(peer, endpoint.address_family).settings.preshared_key_file
            for endpoint in policies.endpoints(peer)
            if endpoint.address_family in families
        }
        yield from ((file, peer) for file in files if file)


def addresses_of(templates: Iterable[str], peer: Peer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The addresses of a link to the peer, and what is wrong with those that are left out."""
    # Imported here, as most configurations give no addresses, and rait starts for each sync.
    from rait.domain.config.templates import parse_address

    values = {"name": peer.name, **{f"remarks.{key}": value for key, value in peer.remarks}}
    found: set[str] = set()
    errors: list[str] = []
    for template in templates:
        left_out = f"the address {shown(template)} is left out: "
        try:
            text = parse_address(template).text(values)
        except ValueError as error:
            errors.append(f"{left_out}{error}")
            continue
        chosen = link_local_among(found)
        if chosen not in (None, text) and is_link_local(text):
            errors.append(f"{left_out}a link has one link-local address, and has {chosen}")
        else:
            found.add(text)
    return tuple(sorted(found)), tuple(errors)


def link_local_among(addresses: Iterable[str]) -> str | None:
    """The link-local one of addresses, if there is one."""
    return next(filter(is_link_local, addresses), None)


def is_of_one_host(address: str) -> bool:
    """Whether an address, as LinkSettings has it, brings no route, or one of the link's own."""
    bare = " peer " not in address and address.endswith("/128" if ":" in address else "/32")
    return bare or is_link_local(address)


def notes_of(settings: Policy, peer: Peer, default_param: str) -> LinkNotes:
    """What is to be remembered of a link; ``default_param`` is what babeld gets without policy."""
    notes = NO_NOTES
    if settings.up_command or settings.down_command:
        notes = LinkNotes(
            up_command=settings.up_command or (),
            down_command=settings.down_command or (),
            command_netns=settings.command_netns or NO_NOTES.command_netns,
            peer_name=peer.name or "",
            remarks=peer.remarks,
        )
    if settings.babeld_param is not None or settings.babeld_param_add:
        params = (settings.babeld_param or default_param, settings.babeld_param_add)
        notes = structs.replace(notes, babeld_param=" ".join(filter(None, params)))
    return notes


class _Test:
    """A match with its globs compiled."""

    def __init__(self, match: Match) -> None:
        self._families = match.address_family
        self._keys = frozenset(match.public_key)
        self._name = _compiled(match.name) if match.name else None
        self._remarks = {key: _compiled(globs) for key, globs in match.remarks.items()}

    def is_for(self, peer: Peer, family: Family) -> bool:
        if self._families and family not in self._families:
            return False
        if self._keys and peer.public_key not in self._keys:
            return False
        if self._name is not None and (peer.name is None or not self._name(peer.name)):
            return False
        if not self._remarks:
            return True
        remarks = dict(peer.remarks)
        return all(key in remarks and fits(remarks[key]) for key, fits in self._remarks.items())


def _compiled(globs: Iterable[str]) -> Callable[[str], re.Match[str] | None]:
    # Imported here, as most configurations have no globs.
    import fnmatch
    import re

    return re.compile("|".join(map(fnmatch.translate, globs))).match


def _merged(policies: Iterable[Policy]) -> Resolved:
    values: dict[str, Any] = {}
    givers: dict[str, Policy] = {}
    for policy in policies:
        for name in POLICY_SETTINGS:
            value = getattr(policy, name)
            if value is not None:
                values[name], givers[name] = value, policy
    return Resolved(Policy(**values), givers) if givers else NOTHING
