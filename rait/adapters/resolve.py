"""Looks up host names where the underlay is: in the transit namespace.

The look-ups are getaddrinfo(3)'s, so /etc/hosts and /etc/nsswitch.conf count. Files in
/etc/netns/NAME, which `ip netns exec` mounts over those in /etc, do not. Where the transit
namespace needs another resolver, run rait itself by `ip netns exec`, with an empty ``transit``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rait.domain.config import Family
from rait.domain.hosts import ip_literal
from rait.domain.keytext import shown
from rait.domain.problem import Path, Problem, RaitError

if TYPE_CHECKING:
    from rait.adapters.netns import Netns

Host = tuple[str, Family]
Addresses = dict[Host, tuple[str, ...]]

CONCURRENCY = 64
_AF = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
_NOWHERE: Mapping[Host, Path] = {}
_GRACE = 1.0
"""Seconds beyond the timeout for the event loop to wind up."""


def resolve(
    hosts: Iterable[Host],
    transit: Netns,
    timeout: float,
    places: Mapping[Host, Path] = _NOWHERE,
) -> tuple[Addresses, tuple[Problem, ...]]:
    """The addresses of each host in its family, sorted by their canonical text.

    ``timeout`` is in seconds and for all of them together. A name without an address by then is a
    warning, and not in the mapping; ``places`` is where the peers document has each.
    """
    wanted = dict.fromkeys(hosts)
    found: Addresses = {}
    names: list[Host] = []
    for host in wanted:
        literal = ip_literal(host[0])
        if literal is None:
            names.append(host)
        elif literal[0] == host[1]:
            found[host] = (literal[1],)
    if not names:
        return found, ()
    answers = _Answers()
    # anyio's workers inherit that this thread is a daemon: a look-up that hangs then keeps
    # neither this function nor the process from its end.
    thread = threading.Thread(
        target=_run, args=(names, transit, timeout, answers), name="rait-resolve", daemon=True
    )
    thread.start()
    thread.join(timeout + _GRACE)
    addresses, failures = answers.taken()
    problems = [
        Problem(
            f"{shown(name)} has no {family} address: "
            f"{failures.get((name, family), f'no answer within {timeout:g} seconds')}",
            "warning",
            places.get((name, family), ()),
        )
        for name, family in names
        if (name, family) not in addresses
    ]
    return found | addresses, tuple(problems)


class _Answers:
    """What the look-ups found; those that come after ``taken`` are for nobody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: Addresses = {}
        self._failures: dict[Host, str] = {}

    def found(self, host: Host, addresses: tuple[str, ...]) -> None:
        with self._lock:
            self._addresses[host] = addresses

    def failed(self, host: Host, reason: str) -> None:
        with self._lock:
            self._failures[host] = reason

    def taken(self) -> tuple[Addresses, dict[Host, str]]:
        with self._lock:
            return dict(self._addresses), dict(self._failures)


def _run(names: list[Host], transit: Netns, timeout: float, answers: _Answers) -> None:
    import anyio

    anyio.run(_look_all_up, names, transit, timeout, answers)


async def _look_all_up(
    names: list[Host], transit: Netns, timeout: float, answers: _Answers
) -> None:
    import anyio
    from anyio.to_thread import run_sync

    limiter = anyio.CapacityLimiter(CONCURRENCY)

    async def one(host: Host) -> None:
        await run_sync(_look_up, host, transit, answers, abandon_on_cancel=True, limiter=limiter)

    with anyio.move_on_after(timeout):
        async with anyio.create_task_group() as group:
            for host in names:
                group.start_soon(one, host)


def _look_up(host: Host, transit: Netns, answers: _Answers) -> None:
    name, family = host
    try:
        with _inside(transit):
            infos = socket.getaddrinfo(name, None, _AF[family], socket.SOCK_DGRAM)
    except socket.gaierror as error:
        answers.failed(host, error.strerror or "it does not resolve")
    except (OSError, UnicodeError, RaitError) as error:
        answers.failed(host, str(error))
    else:
        texts = {str(info[4][0]).partition("%")[0] for info in infos}
        if texts:
            answers.found(host, tuple(sorted(texts)))
        else:
            answers.failed(host, "the name has none")


def _inside(transit: Netns) -> AbstractContextManager[None]:
    if transit.spec == "":
        return nullcontext()  # threads begin in the current namespace; entering it takes root
    from rait.adapters.netns import entered

    return entered(transit)
