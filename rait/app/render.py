"""Events and reports, as lines for people and as JSON for programs.

Lines may hold text of others. ``terminal.print_result`` makes each line harmless, so lines are
joined nowhere else.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from rait.adapters.netns import is_pid
from rait.domain.errors import counted, few
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
    NotesUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    RuleAdded,
    RuleRemoved,
    ToBabeld,
    VrfAdded,
    VrfRemoved,
    links_added,
)
from rait.domain.hooks import CallResult
from rait.domain.records import BABELD
from rait.domain.topology import Link, LinkPeer, Origin
from rait.terminal import (
    CHANGES,
    DONE,
    FAILED,
    PARTIAL,
    STOPPED,
    OutputError,
    print_json,
    print_result,
    report_lost,
    warn,
)

if TYPE_CHECKING:
    from rait.app.conclude import Report
    from rait.domain.guard import Reason, Removal

_NAMED = 20
"""So many links of each kind are named in the guard's message; the JSON has all of them."""

_QUESTIONS: Mapping[Reason, str] = {
    "removed": "Is the peers list complete?",
    "another peer": "Do these peers have new keys?",
    "another private key": "Should this node get a new private key?",
    "made again": "Should these links be made elsewhere (transit, target, backend)?",
}
LEFT = "left by a run that did not finish"
NOT_OURS = "not by a run of this configuration"
HALF_MADE = "half made by a run that did not finish"
HALF_DONE = "done by an event that failed"


def print_report(report: Report, arguments: Namespace) -> int:
    """Print what a run did; the exit status."""
    with done_already():
        _print(report, arguments)
    statuses = {"partial": PARTIAL, "failed": FAILED, "stopped": STOPPED}
    return statuses.get(report.status, PARTIAL if report.held else DONE)


def print_plan(report: Report, arguments: Namespace) -> int:
    """Print what a run would do; the exit status.

    The status says whether all of it can be done; with ``--detailed-exitcode``, whether there is
    anything to do.
    """
    _print(report, arguments)
    if getattr(arguments, "detailed_exitcode", False):
        failed = report.failures or report.change.goal.conflicts or report.old_list
        todo = report.change.events or report.results.calls
        return FAILED if failed else CHANGES if todo else DONE
    partly = (report.change.losses, report.change.goal.conflicts, report.old_list, report.held)
    return PARTIAL if report.failures or any(partly) else DONE


@contextmanager
def done_already() -> Iterator[None]:
    """Only warn if a result cannot be printed: the run did its work, and its status says so."""
    try:
        yield
    except OutputError as error:
        report_lost(error)


def _print(report: Report, arguments: Namespace) -> None:
    warn(*warning_lines(report), *lasting_problems(report), *passing_problems(report))
    if arguments.json:
        print_json(report_object(report))
    else:
        lines = report_lines(report)
        if report.confirm_by:
            from rait.app.trials import to_confirm  # here, as few runs are to be confirmed

            lines.append(to_confirm(report, arguments.config))
        print_result(*lines)


def warning_lines(report: Report) -> tuple[str, ...]:
    """A line for each warning."""
    return tuple(f"warning: {warning}" for warning in report.warnings)


def lasting_problems(report: Report) -> tuple[str, ...]:
    """What is not as it should be, and will not be until somebody mends it."""
    return (
        *filter(None, (report.old_list,)),
        *(f"{failure.link}: {failure.error}" for failure in report.failures),
        *report.change.goal.conflicts,
        *((removal_text(report, report.removal),) if report.removal is not None else ()),
    )


def passing_problems(report: Report) -> Iterator[str]:
    """What went wrong in this run, and no later run will tell."""
    for call in report.results.calls:
        if call.error is not None:
            yield f"{call.link}: {call_text(call)}"
            yield from (f"{call.link}: | {line}" for line in call.lines)
    yield from report.change.losses


def report_lines(report: Report) -> list[str]:
    """A line for each change that was found, one for each event, then one that sums up."""
    leftover = [event for event in report.drift if event in report.change.leftover]
    others = [event for event in report.drift if event not in report.change.leftover]
    noticed = [f"! {line} ({LEFT})" for line in event_lines(leftover)]
    noticed += [f"! {line} (since the last run, {NOT_OURS})" for line in event_lines(others)]
    ended = [f"- {name} ({HALF_MADE})" for name in report.results.ended]
    events = event_lines(report.change.events, report.results.errors)
    half_done = [f"{line} ({HALF_DONE})" for line in event_lines(report.results.half_done)]
    calls = [f"> {call.link} {call_text(call)}" for call in report.results.calls]
    return [*noticed, *ended, *events, *half_done, *calls, summary(report)]


def removal_text(report: Report, removal: Removal) -> str:
    """Why a run was stopped, or will be, and how to let it go on."""
    command, go_on = _guarded(report.command, removal)
    verb = "stopped, with nothing touched"
    if report.status != "stopped":
        verb = f"`rait {command}` will stop"
    return f"{verb}: {_cost(removal)}. {go_on}, or set max_removals in rait.conf"


def _cost(removal: Removal) -> str:
    """Which links lose their sessions, and how many may."""
    from rait.domain.guard import WINDOW_HOURS

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
    """The links by the reason for which they lose their session; no reason if all are removed."""
    if not removal.reasons:
        return few(removal.links, _NAMED)
    groups: dict[str, list[str]] = {}
    for name in removal.links:
        groups.setdefault(removal.reasons.get(name, "removed"), []).append(name)
    return "; ".join(f"{why}: {few(names, _NAMED)}" for why, names in sorted(groups.items()))


def _guarded(command: str, removal: Removal) -> tuple[str, str]:
    """The command that the guard stops, and a text that says how to let it go on."""
    if command in ("up", "plan"):
        causes = {removal.reasons.get(name, "removed") for name in removal.links}
        doubts = " ".join(question for cause, question in _QUESTIONS.items() if cause in causes)
        return "up", f"{doubts} If so, go on with `rait up --yes`"
    full = f"{command} --apply" if command.startswith("replay") else command
    return full, "If that is what you want, run it again with --yes"


def report_object(report: Report) -> dict[str, object]:
    """The report as a value for JSON."""
    value = {
        "command": report.command,
        "status": report.status,
        "run": report.run,
        "links": report.links,
        "ended": list(report.results.ended),
        "events": [
            event_object(event) | _outcome(report, position)
            for position, event in enumerate(report.change.events)
        ],
        "half_done": [event_object(event) for event in report.results.half_done],
        "drift": [noticed_object(event, event in report.change.leftover) for event in report.drift],
        "failed": [{"link": f.link, "error": f.error} for f in report.failures],
        "losses": list(report.change.losses),
        "conflicts": list(report.change.goal.conflicts),
        "old_peers_list": report.old_list or None,
        "calls": [structs.asdict(call) for call in report.results.calls],
        "warnings": list(report.warnings),
        "excessive_removal": msgspec.to_builtins(report.removal),
    }
    rare = {"confirm_by": report.confirm_by, "held": report.held}
    return value | {key: each for key, each in rare.items() if each}


def event_object(event: Event) -> dict[str, object]:
    """An event as a value for JSON: its type, its link, and all its fields."""
    fields = msgspec.to_builtins(event)
    kind = fields.pop("type")
    if isinstance(event, RuleAdded | RuleRemoved):
        return {"type": kind, **fields}
    if isinstance(event, LinkAdded | LinkRemoved):
        return {"type": kind, "link": event.name, "state": fields["link"]}
    what = "vrf" if isinstance(event, VrfAdded | VrfRemoved) else "link"
    return {"type": kind, what: fields.pop("name"), **fields}


def call_text(call: CallResult) -> str:
    """A call of a command, and why it failed, in one line."""
    from shlex import join  # here, as few runs call anything

    which = "down_command" if call.event == "removed" else "up_command"
    outcome = "" if call.error is None else f" failed: {call.error}"
    return f"{call.event}: {which} {join(call.command)}{outcome}"


def noticed_object(event: Event, is_leftover: bool) -> dict[str, object]:
    """A noticed event as a value for JSON, with a field for leftovers of an unfinished run."""
    return {**event_object(event), "left_by_unfinished_run": is_leftover}


_OF_NO_LINK = IsolationEvent | ToBabeld
_NO_LINKS = (
    (VrfAdded, "VRF", "added"),
    (VrfRemoved, "VRF", "removed"),
    (RuleAdded, "rule", "added"),
    (RuleRemoved, "rule", "removed"),
    (BabelInterfaceAdded, "babel interface", "added"),
    (BabelInterfaceFlushed, "babel interface", "flushed"),
)


def summary(report: Report) -> str:
    """What was done, in one line."""
    if report.extra_cmd_sent:
        return f"rait {report.command}: extra_cmd sent to babeld, which had not taken it before"
    failed = {failure.link for failure in report.failures}
    kept = {failure.link for failure in report.failures if failure.kept}
    if report.status == "unchanged" and not kept:
        return f"rait {report.command}: nothing to do; {counted(report.links, 'link')}"
    counts = _changed_links(report, failed - _only_in_babeld(report)) | {
        "failed": len(failed - kept - {BABELD}),
        "left as it is" if len(kept) == 1 else "left as they are": len(kept),
    }
    words = [f"{number} {_to_be(what, report)}" for what, number in counts.items() if number]
    if BABELD in failed:
        words.append("babeld failed")
    if report.results.ended:
        words.append(f"{counted(len(report.results.ended), 'half-made link')} ended")
    words += [f"{what} {_to_be(became, report)}" for what, became in _other_changes(report)]
    if report.results.calls:
        failures = sum(call.error is not None for call in report.results.calls)
        words.append(f"{counted(len(report.results.calls), 'command')} {_to_be('called', report)}")
        words += [f"{failures} of them failed"] if failures else []
    words = words or ["nothing to do" if report.status == "planned" else "nothing done"]
    if report.change.goal.conflicts:
        words.append("some peers get no link")
    wanted = f"; {counted(report.links, 'link')} wanted" if report.links else ""
    return f"rait {report.command}: {', '.join(words)}{wanted}"


def _changed_links(report: Report, broken: set[str]) -> dict[str, int]:
    """How many links were changed in each way, without those that are ``broken``."""
    events = [
        e for e in report.change.events if e.name not in broken and not isinstance(e, _OF_NO_LINK)
    ]
    added = {event.name for event in events if isinstance(event, LinkAdded)}
    removed = {event.name for event in events if isinstance(event, LinkRemoved)}
    changed = {event.name for event in events if not isinstance(event, LinkAdded | LinkRemoved)}
    return {
        "added": len(added - removed),
        "remade": len(added & removed),
        "removed": len(removed - added),
        "changed": len(changed - added),
    }


def _only_in_babeld(report: Report) -> set[str]:
    """The links of which only an event for babeld failed."""
    failed = [report.change.events[index] for index in report.results.errors]
    links = {event.name for event in failed if not isinstance(event, _OF_NO_LINK)}
    return {event.name for event in failed} - links


def _other_changes(report: Report) -> Iterator[tuple[str, str]]:
    """How many VRFs, rules and interfaces of babeld were changed, and how."""
    events = enumerate(report.change.events)
    done = Counter(type(event) for index, event in events if index not in report.results.errors)
    return ((counted(done[kind], what), how) for kind, what, how in _NO_LINKS if done[kind])


def _to_be(what: str, report: Report) -> str:
    """``added``, or ``to be added`` where nothing was done yet."""
    if report.status not in ("planned", "stopped"):
        return what
    return "that cannot be" if what == "failed" else f"to be {what}"


def _outcome(report: Report, position: int) -> dict[str, str]:
    """The fields that the JSON of a failed event has in addition, as in that of ``rait log``."""
    error = report.results.errors.get(position)
    return {} if error is None else {"outcome": "failed", "error": error}


def event_lines(events: Sequence[Event], failed: Container[int] = ()) -> Iterator[str]:
    """One line for each event: + comes, - goes, ~ changes; ``failed`` positions are marked."""
    new = links_added(events)
    for position, event in enumerate(events):
        text = describe(event)
        if isinstance(event, LinkRemoved) and event.name in new:
            text += f" (to be remade: {_why_remade(event.link.origin, new[event.name].origin)})"
        yield f"{text} (failed)" if position in failed else text


def link_text(link: Link) -> str:
    """A link, its port, its peers and the addresses that policies add, in one line."""
    words = [f"{link.name} port {link.device.listen_port or 'dynamic'}"]
    words += map(_peer_words, link.peers)
    if link.settings.addresses:
        words.append(f"addresses {_listed(link.settings.addresses)}")
    return " ".join(words)


def _peer_words(peer: LinkPeer) -> str:
    words = f"peer {peer.public_key} {f'endpoint {peer.endpoint}' if peer.endpoint else 'passive'}"
    if peer.keepalive:
        words += f" keepalive {peer.keepalive}"
    return f"{words} with a preshared key" if peer.psk_digest else words


def _why_remade(old: Origin, new: Origin) -> str:
    # Instances are numbers that say nothing to people.
    same_place = structs.replace(new, instance=old.instance, transit=old.transit)
    transit = "" if old.transit == new.transit else "its transit is another namespace now"
    return ", ".join(filter(None, (_moved(old, new), _changes(old, same_place), transit)))


def _moved(old: Origin, new: Origin) -> str:
    if old.netns != new.netns or old.instance == new.instance:
        return ""
    if new.netns == "":
        return "its namespace is not the current one"
    if is_pid(new.netns):
        return f"its namespace is no longer that of process {new.netns}"
    return f"its namespace is no longer {new.netns}"


def _changes(before: msgspec.Struct, after: msgspec.Struct) -> str:
    words = []
    for field in before.__struct_fields__:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            none = "the current one" if field == "netns" else "none"
            if field == "addresses":
                words.append(f"addresses {_listed(old)} -> {_listed(new)}")
            elif field == "psk_digest":
                words.append(f"preshared key {_psk_change(old, new)}")
            else:
                what = field.replace("_", " ")
                words.append(f"{what} {_value(old, none)} -> {_value(new, none)}")
    return ", ".join(words)


def _listed(addresses: Sequence[str]) -> str:
    return " and ".join(addresses) or "none"


def _psk_change(old: str, new: str) -> str:
    # The digests say nothing to people; the JSON has them.
    return "set" if not old else "changed" if new else "removed"


def _value(value: object, none: str) -> str:
    if value is None or value == "":
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join("=".join(v) if isinstance(v, tuple) else str(v) for v in value) or "none"
    return str(value)


_DESCRIBED: Mapping[type[Event], Callable[[Any], str]] = {
    LinkAdded: lambda e: f"+ {link_text(e.link)}",
    LinkRemoved: lambda e: " ".join(["-", e.name, *(f"peer {p.public_key}" for p in e.link.peers)]),
    LinkUpdated: lambda e: f"~ {e.name} {_changes(e.before, e.after)}",
    DeviceUpdated: lambda e: f"~ {e.name} {_changes(e.before, e.after)}",
    LinkPlaced: lambda e: f"~ {e.name} is in namespace {e.after}",
    NotesUpdated: lambda e: f"~ {e.name} {_changes(e.before, e.after)}",
    PeerAdded: lambda e: f"~ {e.name} + {_peer_words(e.peer)}",
    PeerRemoved: lambda e: f"~ {e.name} - peer {e.peer.public_key}",
    PeerUpdated: lambda e: f"~ {e.name} peer {e.after.public_key} {_changes(e.before, e.after)}",
    BabelInterfaceAdded: lambda e: f"+ babel {e.name}",
    BabelInterfaceFlushed: lambda e: f"- babel {e.name}",
    VrfAdded: lambda e: f"+ vrf {e.name} table {e.table}",
    VrfRemoved: lambda e: f"- vrf {e.name} table {e.table}",
    RuleAdded: lambda e: f"+ rule {e.name}",
    RuleRemoved: lambda e: f"- rule {e.name}",
}


def describe(event: Event) -> str:
    """One event in one line."""
    return _DESCRIBED[type(event)](event)
