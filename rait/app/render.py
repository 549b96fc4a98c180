"""Results as lines for people, and as JSON for programs.

Lines may hold what others wrote. They go out through ``terminal.tell``, which makes that harmless;
so they are joined nowhere else.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from msgspec import structs

from rait.app.report import Report
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    DeviceUpdated,
    Event,
    IsolationEvent,
    LinkAdded,
    LinkPlaced,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    RuleAdded,
    RuleRemoved,
    VrfAdded,
    VrfRemoved,
)
from rait.domain.guard import WINDOW_HOURS, Reason, Removal
from rait.domain.topology import Link, LinkPeer, Origin
from rait.domain.words import counted, few
from rait.terminal import (
    CHANGES,
    DONE,
    FAILED,
    PARTIAL,
    STOPPED,
    OutputError,
    clean,
    complain,
    report_lost,
    tell,
    tell_text,
)

_NAMED = 20
"""So many links the guard names of each kind; all of them are in the JSON."""

_QUESTIONS: Mapping[Reason, str] = {
    "removed": "Is the peers list complete?",
    "another peer": "Do these peers have new keys?",
    "another private key": "Should this node get a new private key?",
    "made again": "Should these links be made elsewhere (transit, target, backend)?",
}
LEFT = "left by a run that did not finish"
NOT_OURS = "not by a run of this configuration"
HALF_MADE = "half made by a run that was cut off"
HALF_DONE = "done by an event that failed"
_NONE: Mapping[int, str] = {}


def print_report(report: Report, arguments: Namespace) -> int:
    """Print what a run did; the exit status."""
    with done_already():
        _print(report, arguments)
    statuses = {"partial": PARTIAL, "failed": FAILED, "stopped": STOPPED}
    return statuses.get(report.status, DONE)


def print_plan(report: Report, arguments: Namespace) -> int:
    """Print what a run would do; the exit status.

    It says whether all of it can be done, as that of the run itself would, and with
    ``--detailed-exitcode`` whether there is anything to do.
    """
    _print(report, arguments)
    if getattr(arguments, "detailed_exitcode", False):
        return FAILED if report.failures else CHANGES if report.events else DONE
    return PARTIAL if report.failures or report.losses else DONE


@contextmanager
def done_already() -> Iterator[None]:
    """Print what was done: if that fails, it is done all the same, and so is the exit status."""
    try:
        yield
    except OutputError as error:
        report_lost(error)


def _print(report: Report, arguments: Namespace) -> None:
    for warning in report.warnings:
        complain(f"warning: {warning}")
    for failure in report.failures:
        complain(f"{failure.link}: {failure.error}")
    for loss in report.losses:
        complain(loss)
    if report.removal is not None:
        complain(removal_text(report, report.removal))
    if arguments.json:
        tell_text(report_json(report))
    else:
        tell(*report_lines(report))


def report_lines(report: Report) -> list[str]:
    """A line for each change that was found, one for each event, then one that sums up."""
    left = [event for event in report.drift if event in report.left]
    others = [event for event in report.drift if event not in report.left]
    noticed = [f"! {line} ({LEFT})" for line in event_lines(left)]
    noticed += [f"! {line} (since the last run, {NOT_OURS})" for line in event_lines(others)]
    ended = [f"- {name} ({HALF_MADE})" for name in report.ended]
    events = event_lines(report.events, report.errors)
    half_done = [f"{line} ({HALF_DONE})" for line in event_lines(report.half_done)]
    return [*noticed, *ended, *events, *half_done, summary(report)]


def removal_text(report: Report, removal: Removal) -> str:
    """Why a run was stopped, or will be, and how to let it go on."""
    command, go_on = _guarded(report.command, removal)
    verb = "stopped, with nothing touched"
    if report.status != "stopped":
        verb = f"`rait {command}` will stop"
    return f"{verb}: {_cost(removal)}. {go_on}, or set max_removals in rait.conf"


def _cost(removal: Removal) -> str:
    """Which links lose what, and how many may."""
    count, earlier = len(removal.links), len(removal.earlier)
    what = "end the sessions of" if removal.reasons else "remove"
    cost = f"it would {what} {count} of {counted(removal.of, 'link')} ({_losers(removal)})"
    if earlier:
        cost += (
            f"; runs of the last {WINDOW_HOURS} hours ended the sessions of {earlier} others "
            f"({few(removal.earlier, _NAMED)}), which makes {count + earlier}"
        )
    may = "lose theirs" if removal.reasons or earlier else "go"
    return f"{cost}; at most {removal.limit} may {may} in {WINDOW_HOURS} hours unless you say so"


def _losers(removal: Removal) -> str:
    """The links by what costs them their session, which needs no word if all are removed."""
    if not removal.reasons:
        return few(removal.links, _NAMED)
    groups: dict[str, list[str]] = {}
    for name in removal.links:
        groups.setdefault(removal.reasons.get(name, "removed"), []).append(name)
    return "; ".join(f"{why}: {few(names, _NAMED)}" for why, names in sorted(groups.items()))


def _guarded(command: str, removal: Removal) -> tuple[str, str]:
    """The command that the guard stops, and how to let it go on."""
    if command in ("up", "plan"):
        causes = {removal.reasons.get(name, "removed") for name in removal.links}
        doubts = " ".join(question for cause, question in _QUESTIONS.items() if cause in causes)
        return "up", f"{doubts} If so, go on with `rait up --yes`"
    full = f"{command} --apply" if command.startswith("replay") else command
    return full, "If that is what you want, run it again with --yes"


def report_json(report: Report) -> str:
    """The report as one JSON object."""
    return to_json(
        {
            "command": report.command,
            "status": report.status,
            "run": report.run,
            "links": report.links,
            "ended": list(report.ended),
            "events": [
                event_object(event) | _outcome(report, position)
                for position, event in enumerate(report.events)
            ],
            "half_done": [event_object(event) for event in report.half_done],
            "drift": [noticed_object(event, event in report.left) for event in report.drift],
            "failed": [{"link": f.link, "error": f.error} for f in report.failures],
            "losses": list(report.losses),
            "warnings": list(report.warnings),
            "excessive_removal": msgspec.to_builtins(report.removal),
        }
    )


def event_object(event: Event) -> dict[str, object]:
    """An event for programs: its type, its link, and all its fields."""
    fields = msgspec.to_builtins(event)
    if isinstance(event, LinkAdded | LinkRemoved):
        return {"type": fields.pop("type"), "link": event.name, "state": fields["link"]}
    if isinstance(event, VrfAdded | VrfRemoved):
        return {"type": fields.pop("type"), "vrf": fields.pop("name"), **fields}
    if isinstance(event, RuleAdded | RuleRemoved):
        return {"type": fields.pop("type"), "rule": fields["rule"]}
    return {"type": fields.pop("type"), "link": fields.pop("name"), **fields}


def noticed_object(event: Event, left: bool) -> dict[str, object]:
    """A noticed event for programs, and whether a run that did not finish left it behind."""
    return {**event_object(event), "left_by_unfinished_run": left}


_OF_NO_LINK = IsolationEvent | BabelInterfaceAdded | BabelInterfaceFlushed


def summary(report: Report) -> str:
    """What was done, in one line."""
    if report.extra_cmd_sent:
        return f"rait {report.command}: extra_cmd sent to babeld, which had not taken it before"
    failed = {failure.link for failure in report.failures}
    left = {failure.link for failure in report.failures if failure.left}
    if report.status == "unchanged" and not left:
        return f"rait {report.command}: nothing to do; {counted(report.links, 'link')}"
    broken = failed - _only_in_babeld(report)
    names: dict[str, set[str]] = {"added": set(), "removed": set(), "changed": set()}
    for event in report.events:
        if event.name not in broken and not isinstance(event, _OF_NO_LINK):
            names[_class_of(event)].add(event.name)
    remade = names["added"] & names["removed"]
    counts = {
        "added": len(names["added"] - remade),
        "remade": len(remade),
        "removed": len(names["removed"] - remade),
        "changed": len(names["changed"] - names["added"]),
        "failed": len(failed - left),
        "left as it is" if len(left) == 1 else "left as they are": len(left),
    }
    told = [f"{number} {_to_be(what, report)}" for what, number in counts.items() if number]
    if report.ended:
        told.append(f"{counted(len(report.ended), 'half-made link')} ended")
    told += [f"{what} {_to_be(became, report)}" for what, became in _other_words(report)]
    told = told or ["nothing done"]
    wanted = f"; {counted(report.links, 'link')} wanted" if report.links else ""
    return f"rait {report.command}: {', '.join(told)}{wanted}"


def _only_in_babeld(report: Report) -> set[str]:
    """The links that are as they should be themselves, and not so in babeld."""
    failed = [report.events[index] for index in report.errors]
    links = {event.name for event in failed if not isinstance(event, _OF_NO_LINK)}
    return {event.name for event in failed} - links


def _other_words(report: Report) -> Iterator[tuple[str, str]]:
    events = enumerate(report.events)
    done = Counter(type(event) for index, event in events if index not in report.errors)
    for kind, what, became in (
        (VrfAdded, "VRF", "added"),
        (VrfRemoved, "VRF", "removed"),
        (RuleAdded, "rule", "added"),
        (RuleRemoved, "rule", "removed"),
        (BabelInterfaceAdded, "babel interface", "added"),
        (BabelInterfaceFlushed, "babel interface", "flushed"),
    ):
        if done[kind]:
            yield counted(done[kind], what), became


def _to_be(what: str, report: Report) -> str:
    """``added``, or ``to be added`` where nothing was done yet."""
    if report.status not in ("planned", "stopped"):
        return what
    return "that cannot be" if what == "failed" else f"to be {what}"


def _outcome(report: Report, position: int) -> dict[str, str]:
    """That an event failed, as ``rait log`` tells it; else an event is just as it was planned."""
    error = report.errors.get(position)
    return {} if error is None else {"outcome": "failed", "error": error}


def event_lines(events: Sequence[Event], errors: Mapping[int, str] = _NONE) -> Iterator[str]:
    """One line for each event: + comes, - goes, ~ changes.

    Those that ``errors`` has, by their position, are marked as failed.
    """
    new = {event.name: event.link for event in events if isinstance(event, LinkAdded)}
    for position, event in enumerate(events):
        text = describe(event)
        if isinstance(event, LinkRemoved) and event.name in new:
            text += f" (to be remade: {_why_remade(event.link.origin, new[event.name].origin)})"
        yield f"{text} (failed)" if position in errors else text


def describe(event: Event) -> str:
    """One event in one line."""
    match event:
        case LinkAdded(link):
            return f"+ {link_text(link)}"
        case LinkRemoved(link):
            peers = " ".join(f"peer {peer.public_key}" for peer in link.peers)
            return f"- {link.name} {peers}".rstrip()
        case LinkUpdated(name, before, after) | DeviceUpdated(name, before, after):
            return f"~ {name} {_changes(before, after)}"
        case LinkPlaced(name, _, instance):
            return f"~ {name} is in namespace {instance}"
        case PeerAdded(name, peer):
            return f"~ {name} + {_peer_words(peer)}"
        case PeerRemoved(name, peer):
            return f"~ {name} - peer {peer.public_key}"
        case PeerUpdated(name, peer_before, peer_after):
            return f"~ {name} peer {peer_after.public_key} {_changes(peer_before, peer_after)}"
        case BabelInterfaceAdded(name, _):
            return f"+ babel {name}"
        case BabelInterfaceFlushed(name, _):
            return f"- babel {name}"
        case VrfAdded(name, table):
            return f"+ vrf {name} table {table}"
        case VrfRemoved(name, table):
            return f"- vrf {name} table {table}"
        case RuleAdded(rule):
            return f"+ rule {rule.name}"
        case RuleRemoved(rule):
            return f"- rule {rule.name}"


def to_json(value: object) -> str:
    """JSON text, indented for people to read as well."""
    return msgspec.json.format(json_line(value)).decode()


def json_line(value: object) -> bytes:
    """JSON in one line. Bytes of a path that are no text are spelt out, as JSON takes none."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_storable(msgspec.to_builtins(value)))


def _storable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """The rows with their columns aligned."""
    # Clean before they are measured: what is spelt out takes more room.
    cells = [list(map(clean, row)) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(map(_padded, row, widths)).rstrip(" ")  # and no other space: it may be a name's
        for row in cells
    ]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """How many columns of a terminal a text takes (UAX #11): wide characters two, marks none."""
    if text.isascii():
        return len(text)
    # Only for names that need it, so that its tables are not loaded otherwise.
    from unicodedata import category, east_asian_width

    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if category(c) in marks else 2 if east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def _class_of(event: Event) -> str:
    if isinstance(event, LinkAdded):
        return "added"
    if isinstance(event, LinkRemoved):
        return "removed"
    return "changed"


def link_text(link: Link) -> str:
    """A link, its port and its peers, in one line."""
    return " ".join([link.name, _port(link.device.listen_port), *map(_peer_words, link.peers)])


def _peer_words(peer: LinkPeer) -> str:
    return f"peer {peer.public_key} {f'endpoint {peer.endpoint}' if peer.endpoint else 'passive'}"


def _port(port: int) -> str:
    return f"port {port}" if port else "port dynamic"


def _why_remade(old: Origin, new: Origin) -> str:
    same_place = structs.replace(new, instance=old.instance, transit=old.transit)
    whys = (_moved(old, new), _changes(old, same_place), _reborn(old, new))
    return ", ".join(filter(None, whys))


def _moved(old: Origin, new: Origin) -> str:
    if old.netns != new.netns or old.instance == new.instance:
        return ""
    if new.netns == "":
        return "its namespace is not the current one"
    if new.netns.isdigit():
        return f"its namespace is no longer that of process {new.netns}"
    return f"its namespace is no longer {new.netns}"


def _reborn(old: Origin, new: Origin) -> str:
    """The numbers that tell namespaces apart say nothing to people."""
    return "" if old.transit == new.transit else "its transit is another namespace now"


def _changes(before: msgspec.Struct, after: msgspec.Struct) -> str:
    words = []
    for field in before.__struct_fields__:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            none = "the current one" if field == "netns" else "none"
            what = "preshared key with digest" if field == "psk_digest" else field.replace("_", " ")
            words.append(f"{what} {_value(old, none)} -> {_value(new, none)}")
    return ", ".join(words)


def _value(value: object, none: str) -> str:
    if value is None or value == "":
        return none
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)
