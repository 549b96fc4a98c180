"""Looks up host names where the underlay is: in the transit namespace.

The look-ups are getaddrinfo(3)'s, so /etc/hosts and /etc/nsswitch.conf count. Files in
/etc/netns/NAME, which `ip netns exec` mounts over those in /etc, do not. Where the transit
namespace needs another resolver, run rait itself by `ip netns exec`, with an empty ``transit``.

A name whose servers do not answer keeps getaddrinfo(3) for 10 seconds and more, and nothing can
interrupt it. So a worker that takes longer than its share counts no more as one, and another takes
its place: dead names hold up nobody but themselves. Of a list with more names than are looked up
at a time, those that answered the last time go first.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from msgspec import Struct

from rait.adapters.config import cache_file
from rait.domain.config.hosts import ip_literal, is_nobody
from rait.domain.config.keytext import shown
from rait.domain.errors import Path, Problem, RaitError
from rait.domain.topology import Family

if TYPE_CHECKING:
    from rait.adapters.netns import Netns

Host = tuple[str, Family]
Addresses = dict[Host, tuple[str, ...]]

WORKERS = 64
"""So many names are looked up at a time, beside those that are overdue."""

MOST_THREADS = 1024
"""So many look-ups are under way at the most, those that are overdue among them."""

NAME_SECONDS = 6.0
"""How long one name may take: resolv.conf(5) gives a server 5 seconds, and the next one answers."""

_TICK_SECONDS = 0.05
_MAX_SHARE_SECONDS = 0.5
_AF = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
_KIND, _FORMAT = "names", "2"
_NOWHERE: Mapping[Host, Path] = {}


class LookUp(Struct, frozen=True):
    """What came of looking names up: the addresses of each host in its family, sorted by their
    canonical text, and a warning for each name without any.

    ``names`` are the hosts that are no IP addresses already, and ``unasked`` those among them for
    which there was no time.
    """

    addresses: Addresses
    problems: tuple[Problem, ...] = ()
    names: tuple[Host, ...] = ()
    unasked: frozenset[Host] = frozenset()


def resolve(
    hosts: Iterable[Host],
    transit: Netns,
    timeout: float,
    locations: Mapping[Host, Path] = _NOWHERE,
    source: str = "",
) -> LookUp:
    """Look the hosts of the peers list ``source`` up.

    ``timeout`` is in seconds and for all of them together; one name takes NAME_SECONDS of it at
    the most. ``locations`` is where the peers document has each, for the warnings.
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
        return LookUp(found)
    crew = _Crew(in_order(names, source), transit, timeout)
    crew.work()
    addresses, failures, unasked = crew.results()
    problems = [
        Problem(
            f"{shown(host[0])} has no {host[1]} address: {failures[host]}",
            "warning",
            locations.get(host, ()),
        )
        for host in names
        if host in failures
    ]
    answer = LookUp(found | addresses, tuple(problems), tuple(names), unasked)
    keep_order(source, answer)
    return answer


class _LastTime(Struct, frozen=True):
    answered: frozenset[Host] = frozenset()
    failed: frozenset[Host] = frozenset()


def in_order(names: list[Host], source: str) -> list[Host]:
    """The names of this list as they are to be looked up: those that answered the last time, then
    those that were not asked, then those that failed; each in the order of the list.
    """
    if len(names) <= WORKERS:
        return names
    last = _last_time(source)
    return sorted(names, key=lambda host: (host not in last.answered) + (host in last.failed))


def keep_order(source: str, answer: LookUp) -> None:
    """Keep which names of this list answered, for ``in_order``. Never fails."""
    if len(answer.names) <= WORKERS:
        return
    names = frozenset(answer.names)
    answered = names & answer.addresses.keys()
    now = _LastTime(answered, names - answered - answer.unasked)
    if now != _last_time(source):
        cache_file.keep(_KIND, now, _FORMAT, source)


def _last_time(source: str) -> _LastTime:
    return cache_file.find(_KIND, _LastTime, _FORMAT, source) or _LastTime()


class _Crew:
    """Workers that look names up, each in a thread of its own, until there is no more time."""

    def __init__(self, names: list[Host], transit: Netns, timeout: float) -> None:
        import threading  # most lists have addresses alone, which need no thread

        self._names = names
        self._transit = transit
        self._timeout = timeout
        self._patience = min(NAME_SECONDS, timeout)
        # In twice this time for each, all names would be begun by the end.
        self._share = min(_MAX_SHARE_SECONDS, timeout * WORKERS / len(names) / 2)
        self._todo = deque(names)
        self._lock = threading.Lock()
        self._began: dict[Host, float] = {}
        self._workers = 0
        self._addresses: Addresses = {}
        self._failures: dict[Host, str] = {}
        self._all_done = threading.Event()

    def work(self) -> None:
        """Return when each name has answered, failed, or had its time."""
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0 and self._is_awaited():
            self._staff()
            self._all_done.wait(min(left, _TICK_SECONDS))

    def results(self) -> tuple[Addresses, dict[Host, str], frozenset[Host]]:
        """Addresses, reasons why others have none, and which of these were not asked.

        Answers that come later are ignored. Call this once.
        """
        with self._lock:
            unasked = frozenset(self._todo)
            self._todo.clear()
            slow = self._still_slow()
            late = "the names before it took all the time; the next run looks it up before them"
            failures = dict.fromkeys(unasked, late) | slow | self._failures
            return dict(self._addresses), failures, unasked

    def _still_slow(self) -> dict[Host, str]:
        now = time.monotonic()
        return {
            host: f"no answer within {self._patience:g} seconds"
            if now - began > 0.9 * self._patience
            else f"no answer in the rest of the {self._timeout:g} seconds for all names"
            for host, began in self._began.items()
        }

    def _is_awaited(self) -> bool:
        """Whether a name may still answer in its time."""
        oldest = time.monotonic() - self._patience
        with self._lock:
            return bool(self._todo) or any(began > oldest for began in self._began.values())

    def _staff(self) -> None:
        """Start as many workers as there are too few that are not overdue."""
        with self._lock:
            wanted = min(
                len(self._todo),
                WORKERS - (self._workers - self._overdue()),
                MOST_THREADS - self._workers,
            )
        for _ in range(wanted):
            if not self._hire():
                return

    def _hire(self) -> bool:
        # Daemons: a look-up that hangs keeps the process from its end no more than this function.
        from threading import Thread

        thread = Thread(target=self._run, name="rait-resolve", daemon=True)
        with self._lock:
            self._workers += 1
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads for us, so those there are must do
            with self._lock:
                self._workers -= 1
                alone = not self._workers
            if alone:
                self._fail_all("the system lets rait start no thread to look it up")
            return False
        return True

    def _run(self) -> None:
        try:
            with _inside(self._transit):
                while (host := self._take()) is not None:
                    self._keep(host, *_look_up(host))
        except (OSError, RaitError) as error:
            self._fail_all(str(error))
        finally:
            with self._lock:
                self._workers -= 1

    def _take(self) -> Host | None:
        with self._lock:
            # One that was overdue and comes back may find another in its place.
            replaced = self._workers > WORKERS and len(self._began) - self._overdue() >= WORKERS
            if not self._todo or replaced:
                return None
            host = self._todo.popleft()
            self._began[host] = time.monotonic()
            return host

    def _overdue(self) -> int:
        since = time.monotonic() - self._share
        return sum(began < since for began in self._began.values())

    def _keep(self, host: Host, addresses: tuple[str, ...], why_not: str) -> None:
        with self._lock:
            del self._began[host]
            if addresses:
                self._addresses[host] = addresses
            else:
                self._failures[host] = why_not
            self._note_end()

    def _fail_all(self, why: str) -> None:
        """Nothing can be looked up at all."""
        with self._lock:
            self._failures |= dict.fromkeys(self._todo, why)
            self._todo.clear()
            self._note_end()

    def _note_end(self) -> None:
        if not self._todo and not self._began:
            self._all_done.set()


def _look_up(host: Host) -> tuple[tuple[str, ...], str]:
    """The addresses, or why there are none."""
    name, family = host
    try:
        infos = socket.getaddrinfo(name, None, _AF[family], socket.SOCK_DGRAM)
    except socket.gaierror as error:
        return (), error.strerror or "it does not resolve"
    except (OSError, ValueError) as error:
        return (), str(error)
    texts = {str(info[4][0]).partition("%")[0] for info in infos}
    # Some resolvers tell 0.0.0.0 of a name that they block, which the kernel takes for this node.
    good = sorted(text for text in texts if not is_nobody(family, text))
    why = f"{min(texts)} is not the address of a host" if texts else "the name has none"
    return tuple(good), why


def _inside(transit: Netns) -> AbstractContextManager[None]:
    if transit.spec == "":
        return nullcontext()  # threads begin in the current namespace; entering it takes root
    from rait.adapters.netns import entered

    return entered(transit)
