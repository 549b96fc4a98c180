"""The inputs of a run, gathered before it has the lock, and checked once it has it.

To fetch a list, to parse it and to look up its names takes seconds, in which no other run should
have to wait. But when a run gets the lock, its inputs may be old: another run had the lock, or
somebody edited a file. So ``prepared`` gathers the inputs, takes the lock beside the journal, and
gathers them again if they are old.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.adapters import netns, privilege
from rait.adapters.config import source
from rait.adapters.config.source import Read, Texts
from rait.adapters.journal.file import check_is_journal
from rait.adapters.keys import KeyPair
from rait.adapters.lock import HeldError, Stamp, hold, stamp
from rait.app.load import (
    Loaded,
    LoadedPeers,
    Preshared,
    configured,
    load_key,
    load_registry,
)
from rait.app.options import Options
from rait.app.scopes import last_signed
from rait.domain.config.hosts import Host, literals
from rait.domain.config.schema import Config, Peer
from rait.domain.errors import ConfigError, MachineError, Path, counted
from rait.domain.policy import Policies

if TYPE_CHECKING:
    from rait.app.options import Resolve
    from rait.app.signed import Trust
    from rait.domain.signed import Signed

PATIENCE_SECONDS = 1.0
"""How long rait waits for another rait before it says so."""

ROUNDS = 3
"""So many times, at the most, a run gathers its inputs; the last time under the lock."""

RESOLVE_SECONDS = 10.0

Hosts = dict[Host, Path]
"""Addresses to look up, each with its place in the peers document."""


class Inputs(Struct, frozen=True, kw_only=True):
    """All inputs of a run. ``registry`` is None in a command that needs no peers.

    ``preshared`` has the preshared keys of the registry's peers.
    """

    loaded: Loaded
    key: KeyPair
    registry: LoadedPeers | None = None
    preshared: Preshared = Preshared()


class Preparation:
    """Gathers the inputs of one command, as often as need be.

    ``peers`` says whether the command needs the registry.
    """

    def __init__(self, options: Options, *, peers: bool = False) -> None:
        self._options = options
        self._peers = peers
        self._trust: Trust | None = None
        self._texts = Texts(options.fetch)
        self._has_names = False

    def configuration(self) -> Loaded:
        """Forget what was read before, and read the configuration. Raises ConfigError."""
        self._texts.forget()
        self._trust = None
        return configured(self._options.config, read=self._texts.read)

    def complete(self, loaded: Loaded) -> Inputs:
        """Add the private key and, if the command needs it, the registry. Raises RaitError."""
        debug = self._options.debug
        key = load_key(loaded, read=self._texts.read)
        debug(f"configuration {loaded.source} read; our public key is {key.public}")
        if not self._peers:
            return Inputs(loaded=loaded, key=key)
        peers = self._peers_list(loaded, key)
        debug(f"{counted(len(peers.peers), 'peer')} from {peers.document.name}")
        transit = loaded.config.isolation.transit_netns
        peers = _with_addresses(peers, loaded.config, transit, self._options.resolve)
        self._has_names = peers.has_names
        preshared = self._preshared(loaded, key, peers)
        return Inputs(loaded=loaded, key=key, registry=peers, preshared=preshared)

    def _preshared(self, loaded: Loaded, key: KeyPair, peers: LoadedPeers) -> Preshared:
        if not any(policy.preshared_key_file for policy in loaded.config.policies):
            return Preshared()
        from rait.app.preshared import load_preshared  # here, as few configurations have such keys

        return load_preshared(loaded, key, peers.peers, read=self._texts.read)

    def stands(self, *, disturbed: bool) -> bool:
        """Whether the inputs are still up to date.

        Files are compared. Texts and addresses from the network cannot be compared: they stand
        unless another run had the lock since (``disturbed``), as it may have used newer ones. So
        does a signed list, as that run may have accepted a newer one.
        """
        if disturbed and (self._texts.has_remote or self._has_names or self._trust is not None):
            return False
        return self._texts.unchanged()

    def _peers_list(self, loaded: Loaded, key: KeyPair) -> LoadedPeers:
        read = self._texts.read
        if loaded.config.peers_public_key:
            last = None
            if not self._options.accept_older:
                last = last_signed(self._options.config, loaded.config.journal, key.public)
            self._trust = _trust_of(loaded, last, read)
        if not source.is_remote(loaded.config.peers):
            return load_registry(loaded, key, read=read, trust=self._trust)
        from rait.app.fallback import load_from_web  # here, as few lists come from a URL

        return load_from_web(loaded, key, self._texts, self._options.config, self._trust)


def _trust_of(loaded: Loaded, last: Signed | None, read: Read) -> Trust | None:
    if not loaded.config.peers_public_key:
        return None
    from rait.app.signed import trust_in  # here, as few lists are signed

    return trust_in(loaded.config.peers_public_key, last, read=read)


def registry_of(loaded: Loaded, key: KeyPair, last: Signed | None) -> LoadedPeers:
    """The peers of another node's configuration, and the addresses of their host names.

    Names are looked up from here. The private half of the node's key may be unknown. ``last`` is
    the signed list that the node accepted last. Raises RaitError.
    """
    peers = load_registry(loaded, key, trust=_trust_of(loaded, last, source.read))
    return _with_addresses(peers, loaded.config, "")


def _with_addresses(
    peers: LoadedPeers, config: Config, transit: str, resolve: Resolve | None = None
) -> LoadedPeers:
    hosts = hosts_of(config, peers.peers)
    if resolve is None:
        addresses, names = literals(hosts)
        if not names:
            return structs.replace(peers, addresses=addresses)
        from rait.adapters.config import resolve as anew  # here, as most lists have addresses alone

        resolve = anew.resolve
    with netns.open_netns(transit) as namespace:
        answer = resolve(hosts, namespace, RESOLVE_SECONDS, hosts, peers.document.name)
    return structs.replace(
        peers,
        addresses=answer.addresses,
        unresolved=answer.problems,
        has_names=bool(answer.names),
    )


def hosts_of(config: Config, peers: Iterable[Peer]) -> Hosts:
    """The addresses of endpoints in a family that we have a transport for, and that may get links.

    Each comes with the location of the first endpoint that has it.
    """
    families = {transport.address_family for transport in config.transports}
    policies = Policies(config.policies)
    hosts: Hosts = {}
    for peer in peers:
        for endpoint in policies.endpoints(peer):
            if endpoint.address is not None and endpoint.address_family in families:
                hosts.setdefault((endpoint.address, endpoint.address_family), endpoint.path)
    return hosts


@contextmanager
def prepared(options: Options, what: str, preparation: Preparation) -> Iterator[Inputs]:
    """Gather the inputs and hold the lock; the inputs are no older than the lock.

    The inputs are gathered without the lock, so that no other run waits for a download, a long list
    or a name that does not resolve. If the inputs are old when this run gets the lock, it gives the
    lock back and gathers them again. The last time it gathers them under the lock, so that there is
    an end. The lock belongs to the journal that the configuration names, so with a changed
    configuration it may be another lock.
    """
    left = options.lock_seconds
    for last in (False,) * (ROUNDS - 1) + (True,):
        loaded = preparation.configuration()
        privilege.require(what)
        path = _lock_of(loaded)
        before = stamp(path)
        if before is None:
            # No lock is to be made beside what is no journal. Opening a journal checks it anyway.
            check_is_journal(loaded.config.journal)
        inputs = preparation.complete(loaded)
        began = time.monotonic()
        with locked(structs.replace(options, lock_seconds=left), path, what) as (waited, now):
            left = max(0.0, left - (time.monotonic() - began))
            if preparation.stands(disturbed=waited or now != before):
                yield inputs
                return
            options.debug("what was read may have changed since: reading all of it again")
            if last:
                loaded = preparation.configuration()
                if _lock_of(loaded) == path:
                    yield preparation.complete(loaded)
                    return
    raise MachineError(
        f"{loaded.source}: `journal` names a different file each time rait reads it, so rait "
        "cannot tell which lock to take; nothing was touched. Set `journal` to one path"
    )


def _lock_of(loaded: Loaded) -> str:
    """The lock to take for a configuration. Raises ConfigError if its commands must not be run."""
    if loaded.distrust:
        raise ConfigError(loaded.distrust)
    return lock_path(loaded.config.journal)


@contextmanager
def locked(options: Options, path: str, what: str) -> Iterator[tuple[bool, Stamp]]:
    """Hold the lock as ``hold`` does; after a second, tell the user which command has it.

    Gives whether this run waited for another one, and the lock's stamp.
    """
    with ExitStack() as held:
        yield _turn_in(held, options, path, what)


def _turn_in(held: ExitStack, options: Options, path: str, what: str) -> tuple[bool, Stamp]:
    with suppress(HeldError):
        return False, held.enter_context(hold(path, what, 0))
    soon = min(PATIENCE_SECONDS, options.lock_seconds)
    left = options.lock_seconds - soon
    try:
        found = held.enter_context(hold(path, what, soon))
    except HeldError as error:
        if not left:
            raise
        options.notice(f"{error.holder}; waiting for it, up to {left:g} s more")
        found = held.enter_context(hold(path, what, left))
    return True, found


def lock_path(journal: str) -> str:
    """The path of the lock that all writers of a journal share.

    The lock is beside the journal; if the journal's path is a symbolic link, beside the file that
    the link leads to, as others may name that file by another path.
    """
    return os.path.realpath(journal) + ".lock"
