"""How the links are, in words: for a terminal, a monitor and the health page."""

from __future__ import annotations

from rait.domain.signed import which_list
from rait.domain.status import STATES, LinkStatus, Status

_INFINITE = 65535
"""Babel's metric of what cannot be reached (RFC 8966, section 3.4.3)."""

SHORT_KEY = 8
"""So many characters tell one public key from another at a glance."""


def summary(status: Status) -> str:
    """The line on top."""
    parts = [_counted(status)]
    if (peers := status.peers) is not None:
        which = f" at revision {peers.revision}" if peers.revision else ""
        age = "of unknown age" if peers.age is None else f"confirmed {ago(peers.age)}"
        parts.append(f"peers list{which} {age}{' (too old)' if peers.too_old else ''}")
    if (last := status.last_change) is None:
        parts.append("no change in the journal")
    else:
        cause = f" ({last.cause})" if last.cause else ""
        often = "once" if last.repeated == 1 else f"{last.repeated} times"
        times = f", repeated {often}" if last.repeated else ""
        which = which_list(last.source, last.revision, last.signed)
        by = f", by the peers list {which}" if last.revision or last.signed else ""
        parts.append(
            f"last change {ago(last.age)}: {last.command}{cause}, {last.outcome}{times}{by}"
        )
    return "; ".join(parts)


def _counted(status: Status) -> str:
    counts, total = status.counts(), len(status.links)
    if not total:
        return "no links"
    states = ", ".join(f"{counts[s]} {s}" for s in reversed(STATES) if counts[s] or s == "live")
    return f"{total} {'link' if total == 1 else 'links'}: {states}"


def fault_lines(status: Status) -> list[str]:
    """A line for each thing that makes a status unhealthy."""
    lines = [f"{called(link)} {_fault(link)}" for link in status.links if not link.healthy]
    if status.peers is not None and status.peers.too_old:
        lines.append("the peers list is older than max_peers_age in rait.conf allows")
    if status.problem:
        lines.append(unknown(status))
    return lines


def unknown(status: Status) -> str:
    """The line about a journal that cannot be read."""
    return f"which links are missing is not known: {status.problem}"


def called(link: LinkStatus) -> str:
    return f"{link.name} ({link.peer})" if link.peer else link.name


def _fault(link: LinkStatus) -> str:
    if link.why:
        return f"is {link.state}: {link.why}"
    if link.state == "never":
        return "never had a handshake"
    return f"is {link.state}: its last handshake was {ago(link.age)}"


def handshake(link: LinkStatus) -> str:
    if not link.handshake:
        return "never"
    return "unknown" if link.age is None else ago(link.age)


def traffic(link: LinkStatus, count: int) -> str:
    return "-" if link.state in ("failed", "missing") else amount(count)


def reach(link: LinkStatus) -> str:
    return "-" if link.babel is None else f"{link.babel.reach:04x}"


def cost(link: LinkStatus) -> str:
    if link.babel is None:
        return "-"
    return "inf" if link.babel.cost >= _INFINITE else str(link.babel.cost)


def rtt(link: LinkStatus) -> str:
    return "-" if link.babel is None or link.babel.rtt is None else f"{link.babel.rtt:.1f} ms"


def ago(seconds: int | None) -> str:
    """How long ago something was, in its largest unit."""
    if seconds is None:
        return "at an unknown time"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def amount(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
