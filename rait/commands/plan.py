"""``rait plan``: what ``rait up`` would do; and the state that lets another machine plan."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct, field, structs

from rait.adapters.config import source
from rait.adapters.config.bounds import MAX_STATE_BYTES
from rait.adapters.keys import UNKNOWN_PSK, KeyPair
from rait.app import desired, isolation
from rait.app.conclude import Report, planned
from rait.app.desired import wanted_of
from rait.app.inputs import registry_of
from rait.app.load import Preshared, configured, load_key
from rait.app.options import Options, require_path
from rait.app.render import print_plan
from rait.app.session import open_session
from rait.domain.backend import Observation, ObservedLink
from rait.domain.config.keytext import shown
from rait.domain.config.schema import Config, Peer
from rait.domain.errors import ConfigError, MachineError, SourceError
from rait.domain.guard import Losses, excessive_removal
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope, is_ours, scope_of, strangers_among, with_found
from rait.domain.plan import KeyFiles, Node
from rait.domain.policy import key_files
from rait.domain.reconcile import reconcile
from rait.domain.topology import Origin
from rait.terminal import DONE, print_json

STATE_FORMAT = "rait-state-1"


def run(options: Options, arguments: Namespace) -> int:
    if arguments.against is None:
        return print_plan(desired.up(options, dry_run=True), arguments)
    return print_plan(plan_against(options, arguments.against), arguments)


def run_export(options: Options, _: Namespace) -> int:
    with open_session(options, "export-state", read_only=True, babeld="never") as session:
        known = session.known
        observation = session.observation
        scope = session.scope_among(observation, known)
        kind = session.machine.choose(session.config.backend)
        state = State(
            format=STATE_FORMAT,
            exported_at=int(time.time()),
            public_key=session.public_key,
            origin=session.origin(kind, session.target),
            observation=without_strangers(observation, known, scope),
            known=known,
            claimed=scope.claimed,
            recent=session.recent_losses(),
        )
    print_json(state)
    return DONE


class State(Struct, frozen=True, kw_only=True):
    """What planning needs to know of a node, to plan for it elsewhere. Holds no private key.

    ``claimed`` is as in Scope, and ``recent`` are the sessions that recent runs ended (guard.py).
    """

    format: str
    exported_at: int
    public_key: str
    origin: Origin
    observation: Observation
    known: LastKnown = field(name="memory")
    claimed: Mapping[str, str] = {}
    recent: Losses = {}


def plan_against(options: Options, state_path: str) -> Report:
    """What ``rait up`` would do on the node that exported the state; needs no root, no WireGuard.

    The configuration may lack the private key: the state has the node's public key. Raises
    RaitError.
    """
    state = _read_state(state_path)
    loaded = configured(options.config, key_required=False)
    key = KeyPair(None, state.public_key)
    if loaded.config.private_key is not None:
        key = load_key(loaded)
        if key.public != state.public_key:
            raise ConfigError(
                f"the state is of the node with public key {state.public_key}, but the private key "
                f"in the configuration belongs to {key.public}"
            )
    last = None if options.accept_older else state.known.signed
    registry = registry_of(loaded, key, last)
    table = isolation.transit_table(loaded.config, state.observation)
    origin = _origin(state.origin, loaded.config)
    node = Node(public_key=state.public_key, origin=origin, transit_table=table)
    preshared = _assumed(loaded.config, registry.peers, state.observation)
    scope = structs.replace(scope_of(loaded.config, state.public_key), claimed=state.claimed)
    applied = with_found(state.known, state.observation, scope)
    wanted = wanted_of(loaded, registry, node, applied, preshared)
    change = reconcile(state.observation, wanted.goal, state.known, scope)
    if change.refusal is not None:
        raise MachineError(change.refusal)
    cost = excessive_removal(change, loaded.config.max_removals, lambda: state.recent)
    return planned("plan", change, cost, wanted.warnings)


def _assumed(config: Config, peers: Iterable[Peer], observation: Observation) -> Preshared:
    """The preshared keys of the peers, by the digests that the node has of them.

    They are not on this machine, so those that are set are taken to be right.
    """
    found = (peer for seen in observation.all_links() for peer in seen.link.peers)
    there = {peer.public_key: peer.psk_digest for peer in found if peer.psk_digest}
    digests = {
        (file, peer.public_key): there.get(peer.public_key, UNKNOWN_PSK)
        for file, peer in key_files(config, peers)
    }
    return Preshared(KeyFiles(digests))


def without_strangers(observation: Observation, known: LastKnown, scope: Scope) -> Observation:
    """An observation without what a state must not show: others' peers, keys and endpoints.

    Planning needs the names of such links, and the strangers among them without their peers.
    """
    ours = {n: o for n, o in observation.links.items() if is_ours(o, known, scope)}
    for stranger in strangers_among(observation.links.values(), known, scope):
        ours[stranger.link] = _bare(observation.links[stranger.link])
    foreign = dict.fromkeys(observation.links.keys() - ours.keys(), "wireguard")
    return structs.replace(
        observation,
        links=ours,
        doubles=tuple(o for o in observation.doubles if is_ours(o, known, scope)),
        others=dict(observation.others) | foreign,
    )


def _bare(stranger: ObservedLink) -> ObservedLink:
    """A stranger without its peers and addresses."""
    settings = structs.replace(stranger.link.settings, addresses=())
    return ObservedLink(link=structs.replace(stranger.link, settings=settings, peers=()))


def _origin(origin: Origin, config: Config) -> Origin:
    """The origin of new links: this configuration may want another backend or target."""
    backend = origin.backend if config.backend == "auto" else config.backend
    target = config.isolation.target_netns
    instance = origin.instance if target == origin.netns else ""
    return structs.replace(origin, backend=backend, netns=target, instance=instance)


def _read_state(path: str) -> State:
    name = require_path("--against", "a state", path)
    try:
        text = source.read(path, limit=MAX_STATE_BYTES)
    except SourceError as error:
        raise SourceError(
            f"{error}; --against takes a state, as `rait export-state` prints it"
        ) from None
    try:
        state = msgspec.json.decode(text, type=State)
    except RecursionError:
        raise SourceError(f"{name}: not a state that rait exported: nested too deep") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise SourceError(f"{name}: not a state that rait exported: {error}") from None
    if state.format != STATE_FORMAT:
        raise SourceError(
            f"{name}: the state has format {shown(state.format)}, but this rait reads format "
            f"{STATE_FORMAT}; export it with the same version of rait"
        )
    return state
