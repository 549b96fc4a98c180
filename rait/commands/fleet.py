"""``rait fleet plan``: what a change of the registry does to every node and every pair."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rait.adapters.config.source import STDIN
from rait.app.load import LoadedPeers, configured, read_list
from rait.app.options import Options
from rait.app.render import event_lines, event_object
from rait.domain.config.keytext import shown
from rait.domain.config.schema import Config, Peer
from rait.domain.errors import ConfigError, counted, few
from rait.domain.fleet import FleetChange, NodeChange, fleet_change, split
from rait.domain.fleet_nodes import Member, fleet_of, planned_by
from rait.domain.fleet_pairs import COMBINATIONS, PairChange
from rait.domain.signed import Signed
from rait.domain.topology import Family
from rait.terminal import DONE, INTERRUPTED, print_json, print_result, warn

if TYPE_CHECKING:
    from rait.app.signed import Trust

SHOWN = 20
"""So many pairs and nodes the text names; the JSON has all."""

Steps = tuple[tuple[str, ...], ...] | None

_OUTCOMES = {
    "made": "made",
    "removed": "removed",
    "changed": "changed in place",
    "remade": "remade",
    "interrupted": "interrupted",
}
_TWICE = ". If its rait.conf changes along with the list, give --nodes twice: for OLD, and for NEW"
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>#+.!|@~&$:/-]")


def run(_: Options, arguments: Namespace) -> int:
    if arguments.old == arguments.new == STDIN:
        raise ConfigError("only one of the two lists can come from standard input")
    if len(arguments.nodes) > len(("OLD", "NEW")):
        raise ConfigError("--nodes may be given twice: for OLD, and for NEW")
    configs = [_configs(directory) for directory in arguments.nodes] or [{}]
    old = _listed(arguments.old, arguments.verify, configs[0])
    new = _listed(arguments.new, arguments.verify, configs[-1], old.signed)
    hint = _TWICE if len(configs) == 1 else ""
    fleets = [_fleet(*each, hint) for each in ((old, configs[0]), (new, configs[-1]))]
    if shared := _shared(old.peers):
        warn(
            f"warning: in OLD, nodes share a SendPort: {few(shared)}. Which of them the others "
            "have a link to is unknown; the first one is taken for it"
        )
    change = fleet_change(*fleets)
    steps = split(*fleets) if change.order is None else None
    if arguments.json:
        print_json({**_object(change), "steps": steps})
    elif arguments.node is not None:
        print_result(*_node_lines(change, arguments.node, new))
    elif arguments.markdown:
        print_result(*_markdown(change, steps))
    else:
        print_result(*_lines(change, steps))
    return INTERRUPTED if change.interrupted else DONE


def _listed(
    url: str, verify: list[str], configs: Mapping[str, Config], last: Signed | None = None
) -> LoadedPeers:
    """The list, which has to be signed by one of the keys to ``verify``, and is no older than last.

    Without such keys, those count that the nodes have in their rait.conf.
    """
    signers = {tuple(verify)} if verify else {c.peers_public_key for c in configs.values()}
    signers.discard(())
    if signers and not verify and url == STDIN:
        warn("warning: standard input has no signature beside it, so that list is not verified")
        signers = set()
    peers = read_list(url, [_trust(keys, last) for keys in sorted(signers)])
    for warning in peers.warnings:
        warn(f"warning: {warning}")
    return peers


def _shared(peers: Iterable[Peer]) -> list[str]:
    """The SendPorts that several of these have, with their names."""
    names: dict[tuple[Family, int], dict[str, None]] = {}
    for peer in peers:
        for each in peer.endpoints:
            found = names.setdefault((each.address_family, each.send_port), {})
            found[peer.name or peer.public_key] = None
    return [
        f"{port} ({family}) of {few(list(found))}"
        for (family, port), found in names.items()
        if len(found) > 1
    ]


def _trust(keys: tuple[str, ...], last: Signed | None) -> Trust:
    from rait.app.signed import trust_in  # here, as few lists are signed

    try:
        return trust_in(keys, last)
    except ConfigError as error:
        raise ConfigError(f"{error}; --verify KEY stands in for what the nodes have") from None


def _fleet(peers: LoadedPeers, configs: Mapping[str, Config], hint: str) -> list[Member]:
    """The nodes of a registry, each with its rait.conf if there is one of its name.

    Warns where a rait.conf has another SendPort than the node's entry.
    """
    named = {peer.public_key: peer.name for peer in peers.peers if peer.name in configs}
    fleet = fleet_of(peers.peers, {key: configs[name] for key, name in named.items() if name})
    for member in fleet:
        own = () if member.is_implied else planned_by(member, [member.peer], {}).problems
        for problem in own:
            where = f"{peers.document.name}: {member.peer.name}"
            warn(f"warning: {where}: {problem.message}{hint}")
    return fleet


def _configs(directory: str) -> dict[str, Config]:
    """The rait.conf of each node, by the node's name: that in the file, else the file's own."""
    found: dict[str, Config] = {}
    paths = sorted(Path(directory).glob("*.conf"))
    if not paths:
        raise ConfigError(f"--nodes {shown(directory)}: there is no file *.conf in this directory")
    for path in paths:
        loaded = configured(str(path), key_required=False)
        name = loaded.config.name or path.stem
        if name in found:
            raise ConfigError(f"{loaded.source}: another file has the name {shown(name)} too")
        found[name] = loaded.config
    return found


def _lines(change: FleetChange, steps: Steps) -> Iterator[str]:
    yield _summary(change)
    for pair in change.interrupted[:SHOWN]:
        yield f"interrupted: {pair.nodes[0]} and {pair.nodes[1]}, {_how_long(pair)}"
        yield from (f"  {reason}" for reason in _reasons(pair))
    yield from _more(len(change.interrupted), "interrupted pair")
    yield from _order_lines(change, steps)
    stops = [node for node in change.node_changes if node.stops]
    yield from (f"stops: {_stop(node)}" for node in stops[:SHOWN])
    yield from _more(len(stops), "node that stops", "nodes that stop")
    for node in change.node_changes[:SHOWN]:
        yield f"{node.name}: {counted(node.count, 'event')}"
        yield from (f"  {line}" for line in event_lines(node.some(SHOWN)))
        yield from (f"  {line}" for line in _more(node.count, "event"))
    yield from _more(len(change.node_changes), "node that changes", "nodes that change")


def _more(number: int, what: str, several: str = "") -> Iterator[str]:
    if number > SHOWN:
        yield f"and {counted(number - SHOWN, f'more {what}', f'more {several}' if several else '')}"


def _summary(change: FleetChange) -> str:
    counts = Counter[str](pair.outcome for pair in change.pairs)
    words = [f"{counts[name]} {text}" for name, text in _OUTCOMES.items() if counts[name]]
    kept = f"{counted(change.kept, 'pair')} kept"
    return f"{counted(change.nodes, 'node')}: {', '.join([kept, *words])}"


def _how_long(pair: PairChange) -> str:
    """Until when a pair is interrupted."""
    one, other = pair.nodes
    _, other_first, one_first, last = (how != "never" for how in pair.grades)
    if not last:
        return "for good"
    if other_first:
        return f"if {one} syncs first, until {other} has synced"
    if one_first:
        return f"if {other} syncs first, until {one} has synced"
    return "from when one of them has synced until both have"


def _reasons(pair: PairChange) -> Iterator[str]:
    for versions, why in pair.reasons.items():
        mine, theirs = versions.split("/")
        one, other = pair.nodes
        yield f"{one} on the {mine} version, {other} on the {theirs}: {why}"


def _order_lines(change: FleetChange, steps: Steps) -> Iterator[str]:
    if change.order is None:
        yield "no order of nodes avoids this" + ("; these smaller changes do:" if steps else "")
        for turn, lines in enumerate(steps or (), 1):
            yield from (f"  {turn}. {line}" for line in lines)
    elif change.order:
        yield "no pair is interrupted if the nodes sync in this order:"
        for turn, group in enumerate(change.order, 1):
            yield f"  {turn}. {few(group, SHOWN)}"
    if change.order:
        yield "  the others at any time"


def _stop(node: NodeChange) -> str:
    return f"{node.name} would lose {node.lost} of {counted(node.links, 'session')}: needs --yes"


def _node_lines(change: FleetChange, wanted: str, new: LoadedPeers) -> Iterator[str]:
    """One node whole."""
    known = {name for peer in new.peers for name in (peer.name, peer.public_key)}
    nodes = [n for n in change.node_changes if wanted in (n.name, n.public_key)]
    if not nodes and wanted not in known:
        raise ConfigError(f"--node {shown(wanted)}: no node of the fleet has this name or key")
    for node in nodes:
        yield f"{node.name}: {counted(len(node.events), 'event')}"
        yield from (f"  {line}" for line in event_lines(node.events))
        if node.stops:
            yield f"  stops: {_stop(node)}"
        for pair in change.pairs:
            if node.name in pair.nodes:
                other = pair.nodes[pair.nodes[0] == node.name]
                yield f"  with {other}: {_OUTCOMES[pair.outcome]}"
    if not nodes:
        yield f"{wanted}: nothing to do"


def _markdown(change: FleetChange, steps: Steps) -> Iterator[str]:
    """The findings for a comment; names, which others write, are escaped."""
    yield f"**rait fleet plan**: {_summary(change)}"
    if change.interrupted:
        yield from ("", "| interrupted | how long | why |", "|---|---|---|")
    for pair in change.interrupted[:SHOWN]:
        names = " and ".join(pair.nodes)
        cells = map(_escaped, (names, _how_long(pair), "; ".join(_reasons(pair))))
        yield f"| {' | '.join(cells)} |"
    yield from ("", *map(_escaped, _more(len(change.interrupted), "interrupted pair")))
    yield from map(_escaped, _order_lines(change, steps))
    stops = [node for node in change.node_changes if node.stops]
    yield from (f"- {_escaped(_stop(node))}" for node in stops[:SHOWN])


def _escaped(text: str) -> str:
    """A text that shows as it is in GitHub's Markdown, and calls nobody."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))


def _object(change: FleetChange) -> dict[str, object]:
    return {
        "nodes": change.nodes,
        "kept": change.kept,
        "pairs": [_pair_object(pair) for pair in change.pairs],
        "order": change.order,
        "changes": [
            {
                "name": node.name,
                "public_key": node.public_key,
                "lost": node.lost,
                "links": node.links,
                "stops": node.stops,
                "events": [event_object(event) for event in node.events],
            }
            for node in change.node_changes
        ],
    }


def _pair_object(pair: PairChange) -> dict[str, object]:
    grades = zip(COMBINATIONS, pair.grades, strict=True)
    return {
        "nodes": pair.nodes,
        "outcome": pair.outcome,
        "traffic": {"/".join(versions): grade for versions, grade in grades},
        "reasons": dict(pair.reasons),
    }
