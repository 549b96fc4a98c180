"""Both backends as one machine: observes all that is there, and hands each event to its backend."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from rait.adapters import netns
from rait.adapters.namespaces import Namespaces
from rait.adapters.netlink import rtnl
from rait.adapters.netns import Netns
from rait.adapters.wireguard.kernel import KernelBackend
from rait.adapters.wireguard.kernel import available as kernel_available
from rait.domain.backend import (
    Backend,
    Interface,
    Observation,
    ObservedLink,
    ObservedVrf,
    Outcome,
    UnreadLink,
)
from rait.domain.config.schema import Secret
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    Event,
    IsolationEvent,
    LinkAdded,
    LinkRemoved,
)
from rait.domain.records import BABELD
from rait.domain.topology import BackendKind, Link, Rule
from rait.domain.vrf import vrfs_among

if TYPE_CHECKING:
    from rait.adapters.wireguard.userspace import UserspaceBackend
    from rait.app.routing import Routing

ISOLATION: Literal["isolation"] = "isolation"
LEFT_ALONE = "left alone, as an earlier change of it failed"
TUN = "tun"
WIREGUARD = "wireguard"


class Machine:
    """This machine's WireGuard, seen from one transit namespace.

    Where that is gone, links can be looked at and removed, and no more. ``secret`` is only needed
    where links are to be made or changed.
    """

    def __init__(self, transit: Netns, secret: Secret | None, public_key: str) -> None:
        self.namespaces = Namespaces()
        self._transit = transit
        self._secret = secret
        self._public_key = public_key
        self._backends: dict[BackendKind, Backend[Netns]] = {}
        self._kernel: KernelBackend | None = None
        self._userspace: UserspaceBackend | None = None
        self._kinds: dict[str, BackendKind] = {}

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._transit.close()
        self.namespaces.close()

    @property
    def transit(self) -> str:
        """The identity of the namespace in which sockets are born."""
        return self._transit.identity

    def instance_of(self, spec: str) -> str:
        """Which instance a namespace is of, "" where there is none. Raises MachineError."""
        found = self.namespaces.find(spec)
        return "" if found is None else found.instance

    @property
    def namespace(self) -> Netns:
        """The transit namespace itself, open for as long as the machine is."""
        return self._transit

    def choose(self, wanted: str) -> BackendKind:
        """The backend to make links with: ``kernel``, ``userspace``, or for ``auto`` what there is.

        Raises MachineError with what to install where there is none.
        """
        if wanted in ("auto", "kernel") and kernel_available():
            return "kernel"
        if wanted == "kernel":
            raise MachineError(f'backend = "kernel": {_NO_KERNEL}')
        from rait.adapters.wireguard import userspace

        if userspace.available():
            return "userspace"
        why = userspace.why_not()
        if wanted == "userspace":
            raise MachineError(f'backend = "userspace": {why}')
        raise MachineError(f"there is no WireGuard on this machine. {_NO_KERNEL} Or: {why}")

    def observe(
        self, target: Netns | None, elsewhere: Iterable[Netns] = (), *, rules: bool = False
    ) -> Observation:
        """All WireGuard links in these namespaces, and the other interfaces in the target.

        A target that is not there is empty. With the current namespace among them come its VRFs,
        and policy routing rules where they are asked for.
        """
        links: dict[str, ObservedLink] = {}
        doubles: list[ObservedLink] = []
        unread: dict[str, UnreadLink] = {}
        others: dict[str, str] = {}
        vrfs: dict[str, ObservedVrf] = {}
        # The target comes last: of two links with one name, the one in there is the one to change.
        for ns in (*elsewhere, target) if target is not None else elsewhere:
            interfaces = rtnl.interfaces(ns)
            found, puzzling = self._observe_one(ns, interfaces)
            doubles += _replaced(links, found)
            links |= found
            unread |= puzzling
            if ns is target:
                others = {n: i.kind for n, i in interfaces.items() if n not in found}
            if ns.spec == "":
                vrfs = vrfs_among(interfaces.values())
        of_all: dict[str, Rule] = {}
        of_others: frozenset[str] = frozenset()
        if rules:
            from rait.adapters import vrf

            of_all, of_others = vrf.rules()
        return Observation(
            now=int(time.time()),
            links=links,
            doubles=tuple(doubles),
            unread=unread,
            others=others,
            vrfs=vrfs,
            rules=of_all,
            rules_of_others=of_others,
        )

    def trace(
        self, missing: Sequence[Link], looked_at: Container[str]
    ) -> tuple[list[ObservedLink], dict[str, UnreadLink]]:
        """Those of the links that somebody moved or renamed, wherever they are now.

        ``looked_at`` are the instances of the namespaces in which they are not. With them come
        those of which one cannot tell. A link that was moved is spelt to be in another instance
        of its namespace. Raises MachineError.
        """
        found: list[ObservedLink] = []
        unread: dict[str, UnreadLink] = {}
        for link in missing:
            if link.origin.backend == "userspace":
                try:
                    seen = self._userspace_backend().trace(link)
                except (OSError, RaitError) as error:
                    place = link.origin.netns, link.settings.group
                    unread[link.name] = UnreadLink(*place, str(error))
                    continue
                found += [seen] if seen is not None else []
        in_kernel = [link for link in missing if link.origin.backend == "kernel"]
        found += self._moved_in_kernel(in_kernel, looked_at) if in_kernel else []
        self._kinds.update((seen.link.name, seen.link.origin.backend) for seen in found)
        return found, unread

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
                yield from self._kernel_backend().trace(here, wanted).values()
            ns.close()

    def apply(self, events: Sequence[Event], routing: Routing | None = None) -> Iterator[Outcome]:
        """Carry out events, each by the backend of its link, or by babeld; see Backend.apply."""
        broken: set[str] = set()
        for kind, group in groupby(enumerate(events), key=lambda item: self._kind_of(item[1])):
            batch = tuple(group)
            outcomes: Iterable[Outcome]
            if kind == BABELD:
                outcomes = routing.apply(_events(batch), broken) if routing is not None else ()
            elif kind == ISOLATION:
                from rait.adapters import vrf

                outcomes = vrf.apply(_events(batch))
            else:
                yield from (Outcome(i, LEFT_ALONE) for i, event in batch if event.name in broken)
                batch = tuple(item for item in batch if item[1].name not in broken)
                outcomes = self._backend(kind).apply(_events(batch)) if batch else ()
            for outcome in outcomes:
                index, event = batch[outcome.index]
                # What babeld refuses holds up no tunnel.
                if outcome.error is not None and kind != BABELD:
                    broken.add(event.name)
                yield Outcome(index, outcome.error)

    def strays(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the names under which there is a link that is half made, or may be.

        That is a program in the transit namespace, which ``observe`` does not see.
        """
        if not names or not self._transit.is_open:
            return ()
        backend = self._userspace_backend()
        return tuple(name for name in names if _may_be_stray(backend, name))

    def end_strays(self, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """End what a run that was cut off left half made under these names.

        The names of those that were ended, and why others could not be.
        """
        ended: list[str] = []
        failed: dict[str, str] = {}
        if not names or not self._transit.is_open:
            return (), {}
        backend = self._userspace_backend()
        for name in names:
            try:
                if backend.end_stray(name):
                    ended.append(name)
            except RaitError as error:
                failed[name] = f"what a run left of it half made could not be ended: {error}"
        return tuple(ended), failed

    def _observe_one(
        self, ns: Netns, interfaces: dict[str, Interface]
    ) -> tuple[dict[str, ObservedLink], dict[str, UnreadLink]]:
        kinds = {interface.kind for interface in interfaces.values()}
        found: dict[str, ObservedLink] = {}
        unread: dict[str, UnreadLink] = {}
        if WIREGUARD in kinds:
            found.update(self._backend("kernel").observe(ns, interfaces))
        if TUN in kinds:
            tunnels, unread = self._userspace_backend().look(ns, interfaces)
            found.update(tunnels)
        self._kinds.update((name, link.link.origin.backend) for name, link in found.items())
        return found, unread

    def _kind_of(self, event: Event) -> BackendKind | Literal["babeld", "isolation"]:
        if isinstance(event, IsolationEvent):
            return ISOLATION
        if isinstance(event, BabelInterfaceAdded | BabelInterfaceFlushed):
            return BABELD
        if isinstance(event, LinkAdded | LinkRemoved):
            self._kinds[event.name] = event.link.origin.backend
        return self._kinds[event.name]

    def _backend(self, kind: BackendKind) -> Backend[Netns]:
        if kind not in self._backends:
            self._backends[kind] = self._make(kind)
        return self._backends[kind]

    def _make(self, kind: BackendKind) -> Backend[Netns]:
        if kind == "kernel":
            return self._kernel_backend()
        return self._userspace_backend()

    def _kernel_backend(self) -> KernelBackend:
        if self._kernel is None:
            key = self._secret, self._public_key
            self._kernel = KernelBackend(self._transit, *key, self.namespaces)
        return self._kernel

    def _userspace_backend(self) -> UserspaceBackend:
        if self._userspace is None:
            from rait.adapters.wireguard.userspace import UserspaceBackend

            key = self._secret, self._public_key
            self._userspace = UserspaceBackend(self._transit, *key, self.namespaces)
        return self._userspace


_NO_KERNEL = (
    "This kernel has no WireGuard: it is in Linux 5.6 and later; try `modprobe wireguard`, and on "
    "Debian install a linux-image package that has the module."
)


def _may_be_stray(backend: UserspaceBackend, name: str) -> bool:
    try:
        return bool(backend.strays((name,)))
    except RaitError:
        return True


def _events(batch: Sequence[tuple[int, Event]]) -> tuple[Event, ...]:
    return tuple(event for _, event in batch)


def _replaced(
    links: Mapping[str, ObservedLink], found: Mapping[str, ObservedLink]
) -> Iterator[ObservedLink]:
    """Those that another of the same name, in another namespace, takes the place of."""
    for name in links.keys() & found.keys():
        if links[name].link.origin.instance != found[name].link.origin.instance:
            yield links[name]
