"""Both backends as one machine: observe its links, and apply events in batches.

Only this module cuts a run's events into batches, remembers which links failed, and gives each
reason of a backend the event that it belongs to.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from rait.adapters import netns
from rait.adapters.closing import Closing
from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netns import Namespaces, Netns
from rait.adapters.wireguard.sockets import TUN, Sockets, kernel_has_wireguard
from rait.domain.backend import (
    Backend,
    Interface,
    Observation,
    ObservedLink,
    ObservedVrf,
    Outcome,
    UnreadLink,
)
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import (
    Event,
    IsolationEvent,
    LinkAdded,
    LinkRemoved,
    NotesUpdated,
    PeerEvent,
    ToBabeld,
)
from rait.domain.records import BABELD
from rait.domain.topology import BackendKind, Link, Origin
from rait.domain.vrf import vrfs_among

if TYPE_CHECKING:
    from rait.adapters.wireguard.kernel import KernelBackend
    from rait.adapters.wireguard.userspace import UserspaceBackend
    from rait.app.routing import Routing
    from rait.domain.plan import Way

ISOLATION: Literal["isolation"] = "isolation"
JOURNAL: Literal["journal"] = "journal"
"""The doer of events that are done once they are journaled."""

LEFT_ALONE = "left alone, as an earlier change of this link failed"


class _Step(Struct, frozen=True):
    """An event to carry out.

    ``doer`` is a backend, babeld, the isolation or the journal, and ``way`` groups events that the
    doer carries out together. ``netns`` is the spelling and the instance of the namespace of the
    event's link.
    """

    index: int
    event: Event
    doer: str
    way: str = ""
    netns: tuple[str, str] = ("", "")


class Machine(Closing):
    """This machine's WireGuard, seen from one transit namespace, ``namespace``.

    If the namespace is gone, links can be observed and removed, and no more. Without a private key
    in ``key``, no links can be made or changed; it has the preshared keys that can be set, too.
    """

    def __init__(self, transit: Netns, key: KeyPair) -> None:
        self.namespaces = Namespaces()
        self.namespace = transit
        self._sockets: dict[Netns, Sockets] = {}
        self.key = key
        self._origins: dict[str, Origin] = {}

    def close(self) -> None:
        for sockets in self._sockets.values():
            sockets.close()
        self.namespace.close()
        self.namespaces.close()

    @property
    def transit(self) -> str:
        """The identity of the namespace in which new links' UDP sockets are."""
        return self.namespace.identity

    def instance_of(self, spec: str) -> str:
        """The instance of the namespace spelt so, "" if there is none. Raises MachineError."""
        found = self.namespaces.find(spec)
        return "" if found is None else found.instance

    def choose(self, wanted: str) -> BackendKind:
        """The backend to make links with: ``kernel``, ``userspace``, or for ``auto`` what there is.

        Raises MachineError with what to install where there is none.
        """
        if wanted in ("auto", "kernel") and kernel_has_wireguard():
            return "kernel"
        if wanted == "kernel":
            raise MachineError(f'backend = "kernel": {_NO_KERNEL}')
        from rait.adapters.wireguard import process

        why = process.why_not()
        if not why:
            return "userspace"
        if wanted == "userspace":
            raise MachineError(f'backend = "userspace": {why}')
        raise MachineError(f"there is no WireGuard on this machine. {_NO_KERNEL} Or: {why}")

    def link_mtus(self, ways: Iterable[Way], vrf: str) -> dict[Way, int]:
        """See ``link_mtus`` in adapters/netlink/underlay.py. Raises MachineError."""
        from rait.adapters.netlink import underlay

        return underlay.link_mtus(self._in(self.namespace).rtnl, ways, vrf)

    def observe(
        self, target: Netns | None, elsewhere: Iterable[Netns] = (), *, rules: bool = False
    ) -> Observation:
        """All WireGuard links in these namespaces, and the other interfaces in the target.

        A target that is None counts as empty. VRFs are observed if the current namespace is among
        these, and policy routing rules, always of the current one, with ``rules``.
        """
        links: dict[str, ObservedLink] = {}
        doubles: list[ObservedLink] = []
        unread: dict[str, UnreadLink] = {}
        others: dict[str, str] = {}
        vrfs: dict[str, ObservedVrf] = {}
        # The target comes last: of two links with one name, the one in the target is to be changed.
        for ns in (*elsewhere, target) if target is not None else elsewhere:
            interfaces = rtnl.read_interfaces(self._in(ns).rtnl)
            found, puzzling = self._observe_one(ns, interfaces)
            doubles += _replaced(links, found)
            links |= found
            unread |= puzzling
            if ns is target:
                others = {n: i.kind for n, i in interfaces.items() if n not in found}
            if ns.spec == "":
                vrfs = vrfs_among(interfaces.values())
        observation = Observation(
            now=int(time.time()),
            links=links,
            doubles=tuple(doubles),
            unread=unread,
            others=others,
            vrfs=vrfs,
        )
        if not rules:
            return observation
        from rait.adapters import vrf

        of_all, of_others = vrf.rules()
        return structs.replace(observation, rules=of_all, rules_of_others=of_others)

    def trace(
        self, missing: Sequence[Link], looked_at: Container[str]
    ) -> tuple[list[ObservedLink], dict[str, UnreadLink]]:
        """Find links that somebody moved or renamed, wherever they are now.

        ``looked_at`` are the instances of the namespaces that were observed already. The second
        part of the answer has the links that could not be looked for. A link that was moved bears
        the spelling of its former namespace with the instance of its new one. Raises MachineError.
        """
        found: list[ObservedLink] = []
        unread: dict[str, UnreadLink] = {}
        for link in missing:
            if link.origin.backend == "userspace":
                try:
                    seen = self._userspace.trace(link, self.namespaces)
                except (OSError, RaitError) as error:
                    origin, group = link.origin, link.settings.group
                    unread[link.name] = UnreadLink(origin.netns, group, str(error))
                    continue
                found += [seen] if seen is not None else []
        in_kernel = [link for link in missing if link.origin.backend == "kernel"]
        found += self._moved_in_kernel(in_kernel, looked_at) if in_kernel else []
        self._origins.update((seen.link.name, seen.link.origin) for seen in found)
        return found, unread

    def home_of(self, link: Link) -> Netns | None:
        """The namespace that the program of a link leads to, opened; None if there is no way."""
        return self._userspace.home_of(link) if link.origin.backend == "userspace" else None

    def sign_of_life(self, link: Link) -> str:
        """Why a link whose namespace cannot be found must still exist; "" for no such reason."""
        return self._backend(link.origin.backend).sign_of_life(link)

    def _moved_in_kernel(
        self, missing: Sequence[Link], looked_at: Container[str]
    ) -> Iterator[ObservedLink]:
        from rait.adapters import netns_search

        for ns in netns_search.in_use().namespaces.values():
            if ns.instance in looked_at:
                ns.close()
                continue
            for spec in {link.origin.netns for link in missing}:
                wanted = {link.name: link for link in missing if link.origin.netns == spec}
                here = self.namespaces.keep(netns.copied(ns, spec))
                with Sockets(here) as sockets:
                    yield from self._kernel.trace(sockets, wanted).values()
            ns.close()

    def apply(self, events: Sequence[Event], routing: Routing | None = None) -> Iterator[Outcome]:
        """Carry out events in order, each by the backend of its link, or by babeld.

        The outcomes of a batch come when it is done. Once an event of a link has failed, the later
        events of that link fail too, unless only babeld refused something.
        """
        broken: set[str] = set()
        for batch in _batches(map(self._step, count(), events)):
            doer = batch[0].doer
            group = [step.event for step in batch]
            outcomes: Iterable[Outcome]
            if doer == BABELD:
                outcomes = routing.apply(group, broken) if routing is not None else ()
            elif doer == ISOLATION:
                from rait.adapters import vrf

                outcomes = vrf.apply(group)
            elif doer == JOURNAL:
                left = (LEFT_ALONE if step.event.name in broken else None for step in batch)
                outcomes = map(Outcome, count(), left)
            else:
                outcomes = self._change(self._backend(doer), batch, broken)
            for outcome in outcomes:
                step = batch[outcome.index]
                if outcome.error is not None and doer != BABELD:
                    broken.add(step.event.name)
                yield Outcome(step.index, outcome.error)

    def _step(self, index: int, event: Event) -> _Step:
        if isinstance(event, ToBabeld):
            return _Step(index, event, BABELD)
        if isinstance(event, IsolationEvent):
            return _Step(index, event, ISOLATION)
        if isinstance(event, NotesUpdated):
            return _Step(index, event, JOURNAL)
        if isinstance(event, LinkAdded | LinkRemoved):
            self._origins[event.name] = event.link.origin
        origin = self._origins[event.name]
        way = "peers" if isinstance(event, PeerEvent) else type(event).__name__
        return _Step(index, event, origin.backend, way, (origin.netns, origin.instance))

    def _change(
        self, backend: Backend[Sockets], batch: Sequence[_Step], broken: Container[str]
    ) -> Iterator[Outcome]:
        """Have a backend carry out one batch, namespace by namespace."""
        by_netns: dict[tuple[str, str], dict[int, Event]] = {}
        for index, step in enumerate(batch):
            if step.event.name in broken:
                yield Outcome(index, LEFT_ALONE)
            else:
                by_netns.setdefault(step.netns, {})[index] = step.event
        for where, events in by_netns.items():
            group, left = list(events.values()), iter(events)
            try:
                for reason in backend.apply(self._sockets_for(where, group[0]), group):
                    yield Outcome(next(left), reason)
            except MachineError as error:
                yield from (Outcome(index, str(error)) for index in left)

    def _sockets_for(self, where: tuple[str, str], event: Event) -> Sockets | None:
        """The sockets for the namespace ``where``; None if it is gone, with the links to remove.

        Raises MachineError.
        """
        if isinstance(event, LinkRemoved) and self.namespaces.is_gone(*where):
            return None
        return self._in(self.namespaces.open(*where))

    def _in(self, ns: Netns) -> Sockets:
        if ns not in self._sockets:
            self._sockets[ns] = Sockets(ns)
        return self._sockets[ns]

    def leftovers(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names among these under which a killed run left, or may have left, a half-made link.

        A half-made link is a program in the transit namespace, which ``observe`` does not see.
        """
        if not self.namespace.is_open:
            return ()
        return tuple(name for name in names if self._userspace.may_be_leftover(name))

    def end_leftovers(self, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """End the half-made links that a killed run left under these names.

        Returns the names of the links that were ended, and why others could not be.
        """
        ended: list[str] = []
        failed: dict[str, str] = {}
        for name in names if self.namespace.is_open else ():
            try:
                if self._userspace.end_leftover(name):
                    ended.append(name)
            except RaitError as error:
                failed[name] = f"a half-made link of this name could not be ended: {error}"
        return tuple(ended), failed

    def _observe_one(
        self, ns: Netns, interfaces: dict[str, Interface]
    ) -> tuple[dict[str, ObservedLink], dict[str, UnreadLink]]:
        kinds = {interface.kind for interface in interfaces.values()}
        found: dict[str, ObservedLink] = {}
        unread: dict[str, UnreadLink] = {}
        for backend, kind in (("kernel", rtnl.WIREGUARD), ("userspace", TUN)):
            if kind in kinds:
                links, puzzling = self._backend(backend).observe(self._in(ns), interfaces)
                found |= links
                unread |= puzzling
        self._origins.update((name, seen.link.origin) for name, seen in found.items())
        return found, unread

    def _backend(self, kind: str) -> Backend[Sockets]:
        return self._kernel if kind == "kernel" else self._userspace

    @cached_property
    def _kernel(self) -> KernelBackend:
        from rait.adapters.wireguard.kernel import KernelBackend

        return KernelBackend(self._in(self.namespace), self.key)

    @cached_property
    def _userspace(self) -> UserspaceBackend:
        from rait.adapters.wireguard.userspace import UserspaceBackend

        return UserspaceBackend(self._in(self.namespace), self.key)


def _batches(steps: Iterable[_Step]) -> Iterator[list[_Step]]:
    """Cut steps, in their order, into batches.

    A batch has the steps of one doer in one way. No two events of a batch are of one link: so a
    link's later events come after the outcome of its earlier ones.
    """
    batch: list[_Step] = []
    names: set[str] = set()
    for step in steps:
        is_of_links = step.doer not in (BABELD, ISOLATION, JOURNAL)
        if batch and (
            (step.doer, step.way) != (batch[0].doer, batch[0].way)
            or (is_of_links and step.event.name in names)
        ):
            yield batch
            batch, names = [], set()
        batch.append(step)
        names.add(step.event.name)
    if batch:
        yield batch


_NO_KERNEL = (
    "This kernel has no WireGuard: it is in Linux 5.6 and later; try `modprobe wireguard`, and on "
    "Debian install a linux-image package that has the module."
)


def _replaced(
    links: Mapping[str, ObservedLink], found: Mapping[str, ObservedLink]
) -> Iterator[ObservedLink]:
    """The links whose place in the observation another link of their name takes."""
    for name in links.keys() & found.keys():
        if links[name].link.origin.instance != found[name].link.origin.instance:
            yield links[name]
