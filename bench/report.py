"""The samples as tables, and held against the targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

STEPS = {
    "up": "`up` from nothing",
    "nothing": "`up`, nothing to do",
    "sync": "sync in one process, nothing to do",
    "changed": "`up`, one peer changed",
    "down": "`down`",
}
FLOORS = {"make": "floor: make", "read": "floor: read", "remove": "floor: remove"}
EMPTY = "empty toml"
MEMORY_MB = 80.0
START_SECONDS = 0.05
SYNC_SECONDS = 0.015
ETCD_LIMITS = {"read and decode": 3.0, "put to peers": 0.2}
WATCH_LIMITS = {
    "write to last message": 0.1,
    "idle, share of a processor": 0.001,
    "memory, MB": 70.0,
}


def markdown(found: dict[str, Any]) -> str:
    """All of it."""
    machine = found["machine"]
    emulated = ", the virtual machine is emulated" if machine["emulated"] else ""
    lines = [
        f"{machine['processor']}, {machine['count']} processors, Linux {machine['kernel']}, "
        f"Python {machine['python']}{emulated}; load {machine['load']:.1f} at the start; "
        f"medians of {found['repeat']}; {found['seconds'] / 60:.0f} minutes in all",
    ]
    if found.get("kernel"):
        lines += ["", "### With the kernel's WireGuard", "", *_kernel(Samples(found["kernel"]))]
    if "host" in found:
        lines += ["", "### Without a kernel", "", *_host(found["host"])]
    lines += ["", "### Targets", "", *_table(("target", "measured", "limit", ""), _targets(found))]
    return "\n".join(lines)


class Samples:
    """What was measured with the kernel; medians by number of links and step."""

    def __init__(self, samples: Sequence[dict[str, Any]]) -> None:
        self._samples = samples

    @property
    def counts(self) -> list[int]:
        return sorted({sample["links"] for sample in self._samples if sample["links"]})

    def of(self, links: int, what: str, key: str) -> float | None:
        values = [
            sample["seconds"][key] if what == "floor" else sample[key]
            for sample in self._samples
            if sample["links"] == links and sample["what"] == what
        ]
        return statistics.median(values) if values else None

    def sockets(self, links: int) -> int:
        floors = (s for s in self._samples if s["links"] == links and s["what"] == "floor")
        return int(next(floors)["sockets"])


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' if i == 0 else '---:' for i in range(len(head)))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _kernel(samples: Samples) -> Iterator[str]:
    figures = ("wall s", "processor s", "memory MB", "sent", "received", "written", "writing s")
    yield from _table(("links", "step", *figures), _kernel_rows(samples))


def _kernel_rows(samples: Samples) -> Iterator[Sequence[str]]:
    starts = {"python": "`python -c pass`", "version": "`rait --version`"}
    starts["empty hcl"] = "`up`, no peers, HCL"
    for what, title in starts.items():
        yield "", title, *_figures(samples, 0, what)
    for links in samples.counts:
        for key, title in FLOORS.items():
            if key == "remove":
                sockets = samples.sockets(links)
                title += f", {sockets} socket" + ("s" if sockets > 1 else "")
            yield str(links), title, _number(samples.of(links, "floor", key)), *[""] * 6
        for what, title in {EMPTY: "`up`, no peers", **STEPS}.items():
            yield str(links), title, *_figures(samples, links, what)


def _figures(samples: Samples, links: int, what: str) -> list[str]:
    keys = ["wall", "cpu", "memory"]
    if what not in ("python", "sync"):
        keys += ["sent", "received", "written", "writing"]
    seconds = ("wall", "cpu", "writing")
    found = [_number(samples.of(links, what, key), whole=key not in seconds) for key in keys]
    return found + [""] * (7 - len(found))


def _number(value: float | None, *, whole: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if whole else f"{value:.3f}"


def _host(parts: dict[str, Any]) -> Iterator[str]:
    planning = {f"{count} peers": seconds for count, seconds in parts["planning"].items()}
    tables = [
        _pairs("start and end of", "processor s", parts["starts"]),
        _pairs("loading", "processor s", parts["loading"]),
        _grid("processor s", planning, 3),
        _pairs("journal", "wall s", parts["journal"]),
        _grid("rait fleet plan", parts["fleet"], 2),
        _pairs("100 links, syncs in one process", "seconds, MB", parts["syncs"]),
        _pairs("100 links, `rait watch`", "seconds, MB", parts["watch"]),
    ]
    if "etcd" in parts:
        tables.append(_pairs("10,000 entries in etcd", "seconds", parts["etcd"]))
    if "breakdown" in parts:
        forms = parts["breakdown"]
        rows = {key: {form: forms[form].get(key, 0) for form in forms} for key in forms["hcl"]}
        tables.append(_grid("`up`, nothing to do, 10 peers: processor s", rows, 3))
    for number, table in enumerate(tables):
        if number:
            yield ""
        yield from table


def _pairs(title: str, unit: str, values: dict[str, float]) -> Iterator[str]:
    return _table((title, unit), ((name, f"{value:.4f}") for name, value in values.items()))


def _grid(title: str, rows: dict[str, dict[str, float]], digits: int) -> Iterator[str]:
    """A table with a row for each name, all of which have the same columns."""
    columns = list(next(iter(rows.values())))
    cells = ((name, *(f"{row[each]:.{digits}f}" for each in columns)) for name, row in rows.items())
    return _table((title, *columns), cells)


def _targets(found: dict[str, Any]) -> Iterator[Sequence[str]]:
    if found.get("kernel"):
        yield from _kernel_targets(Samples(found["kernel"]))
    if "host" in found:
        yield from _host_targets(found["host"])


def _kernel_targets(samples: Samples) -> Iterator[Sequence[str]]:
    """Start-up is that of a run that has no peers: all the modules, and the configuration."""
    for links in samples.counts:
        start = samples.of(links, EMPTY, "wall")
        make, read = (samples.of(links, "floor", key) for key in ("make", "read"))
        wall = {what: samples.of(links, what, "wall") for what in STEPS}
        if links >= 100:
            yield _verdict(f"up, {links}: 2 floors + start", wall["up"], _sum(2, make, start))
        if links >= 1000:
            name = f"nothing to do, {links}: 3 reads + start"
            yield _verdict(name, wall["nothing"], _sum(3, read, start))
            written = samples.of(links, "nothing", "written")
            yield _verdict(f"nothing to do, {links}: messages that write", written, 0.0)
            name = f"one peer of {links}: nothing to do + 10 %"
            yield _verdict(name, wall["changed"], _sum(1.1, wall["nothing"], 0.0))
            memory = max(samples.of(links, what, "memory") or 0.0 for what in STEPS)
            yield _verdict(f"memory, {links}, MB", memory, MEMORY_MB)
        if links == 100:
            remove = samples.of(links, "floor", "remove")
            yield _verdict("down, 100: half a group delete", wall["down"], _sum(0.5, remove, 0.0))
            writing = samples.of(links, "down", "writing")
            name = "down, 100, from its first write to its last: the same"
            yield _verdict(name, writing, _sum(0.5, remove, 0.0))


def _sum(factor: float, value: float | None, more: float | None) -> float | None:
    return None if value is None or more is None else factor * value + more


def _host_targets(parts: dict[str, Any]) -> Iterator[Sequence[str]]:
    planning = {
        count: seconds["plan"] + seconds["diff from nothing"]
        for count, seconds in parts["planning"].items()
    }
    yield _verdict("plan and diff of 10,000", planning["10000"], 0.2)
    yield _verdict("of 50,000: 6 times that", planning["50000"], 6 * planning["10000"])
    starts = parts["starts"]
    for name in ("rait --version", "rait --help"):
        yield _verdict(f"{name}: 3 bare pythons", starts[name], 3 * starts["python -c pass"])
    few, whole = (
        parts["fleet"]["10000 nodes, 10 changed"],
        parts["fleet"]["1000 nodes, 1000 changed"],
    )
    yield _verdict("fleet plan, 10,000 nodes, 10 changed: processor s", few["processor s"], 3.0)
    yield _verdict("fleet plan, 10,000 nodes, 10 changed: MB", few["memory, MB"], 600.0)
    yield _verdict("fleet plan, 1,000 nodes, all changed: processor s", whole["processor s"], 30.0)
    name = "sync in one process, nothing to do, 100 links: processor s"
    yield _verdict(name, parts["syncs"]["nothing, cpu"], SYNC_SECONDS)
    name = "look for metrics in one process, 100 links: processor s"
    yield _verdict(name, parts["syncs"]["look, cpu"], SYNC_SECONDS)
    for figure, limit in WATCH_LIMITS.items():
        yield _verdict(f"rait watch, 100 links: {figure}", parts["watch"][figure], limit)
    if "etcd" in parts:
        for figure, limit in ETCD_LIMITS.items():
            yield _verdict(f"10,000 entries in etcd: {figure}", parts["etcd"][figure], limit)
    if "breakdown" in parts:
        for form, seconds in parts["breakdown"].items():
            name = f"up, nothing to do, 10 peers, {form.upper()}: processor s"
            yield _verdict(name, seconds["process"], START_SECONDS)


def _verdict(name: str, measured: float | None, limit: float | None) -> Sequence[str]:
    if measured is None or limit is None:
        return name, "-", "-", "not measured"
    return name, f"{measured:.3f}", f"{limit:.3f}", "met" if measured <= limit else "MISSED"
