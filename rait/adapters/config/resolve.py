"""Looks up host names in the transit namespace, where the underlay is.

getaddrinfo(3) does the look-ups, so /etc/hosts and /etc/nsswitch.conf count. Files in
/etc/netns/NAME, which `ip netns exec` mounts over those in /etc, do not count. If the transit
namespace needs another resolver, run rait itself by `ip netns exec`, with an empty ``transit``.

How the time is shared among names (``_Crew``): getaddrinfo(3) takes 10 seconds and more for a name
whose servers do not answer, and nothing can interrupt it. So each worker, a thread, takes one name
after the other from a queue. A worker that takes longer than a name's share of the time is overdue:
another worker is started in its place, and it ends when it comes back. So dead names hold up
nothing but themselves.

Of a list with more names than workers, the names that answered in the last run go first.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from msgspec import Struct

from rait.adapters.config import caches
from rait.domain.config.hosts import Addresses, Host, is_nobody, literals
from rait.domain.config.keytext import shown
from rait.domain.errors import NO_THREAD, Path, Problem, RaitError

if TYPE_CHECKING:
    from rait.adapters.netns import Netns

WORKERS = 64
"""The number of names that are looked up at a time, besides overdue ones."""

MOST_THREADS = 512
"""The most look-ups under way, overdue ones of earlier calls included; but WORKERS for each call.

Each has a socket, and a process has 1024 files by default, which rait needs for other things too.
"""

_THREADS = "rait-resolve"

NAME_SECONDS = 6.0
"""The time for one name: resolv.conf(5) gives a server 5 seconds, and then asks the next one."""

_TICK_SECONDS = 0.05
_MAX_SHARE_SECONDS = 0.5
_AF = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
_KIND, _FORMAT = "names", "2"
_NOWHERE: Mapping[Host, Path] = {}


class LookUp(Struct, frozen=True):
    """The addresses of each host in its family, sorted as text, and a warning for each without any.

    ``names`` are the hosts that are not IP addresses already. ``unasked`` are those of them that
    there was no time for.
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
    """Look up the hosts of the peers list ``source``.

    ``timeout`` is in seconds, for all hosts together; one name takes NAME_SECONDS at the most.
    ``locations`` are the paths of hosts in the peers document, for the warnings.
    """
    found, names = literals(hosts)
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
    """The names that answered or failed in the last run."""

    answered: frozenset[Host] = frozenset()
    failed: frozenset[Host] = frozenset()


def in_order(names: list[Host], source: str) -> list[Host]:
    """The names of a list in the order in which to look them up.

    First come those that answered in the last run, then those that were not asked, then those that
    failed; among themselves they stay in the order of the list.
    """
    if len(names) <= WORKERS:
        return names
    last = _last_time(source)
    return sorted(names, key=lambda host: (host not in last.answered) + (host in last.failed))


def keep_order(source: str, answer: LookUp) -> None:
    """Keep which names of a list answered, for ``in_order`` in the next run. Never raises."""
    if len(answer.names) <= WORKERS:
        return
    names = frozenset(answer.names)
    answered = names & answer.addresses.keys()
    now = _LastTime(answered, names - answered - answer.unasked)
    if now != _last_time(source):
        caches.keep(_KIND, now, _FORMAT, source)


def _last_time(source: str) -> _LastTime:
    return caches.find(_KIND, _LastTime, _FORMAT, source) or _LastTime()


class _Crew:
    """Workers that look up names, each in a thread of its own, until the time is up."""

    def __init__(self, names: list[Host], transit: Netns, timeout: float) -> None:
        import threading  # here, as most lists have addresses alone

        self._transit = transit
        self._timeout = timeout
        self._patience = min(NAME_SECONDS, timeout)
        # If each name took twice its share, all would be begun by the end.
        self._share = min(_MAX_SHARE_SECONDS, timeout * WORKERS / len(names) / 2)
        self._todo = deque(names)
        self._lock = threading.Lock()
        self._began: dict[Host, float] = {}  # of each worker, when it took its name
        self._addresses: Addresses = {}
        self._failures: dict[Host, str] = {}
        self._all_done = threading.Event()

    def work(self) -> None:
        """Return when each name has answered or failed, or has used up its time."""
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0 and self._is_awaited():
            self._staff()
            self._all_done.wait(min(left, _TICK_SECONDS))

    def results(self) -> tuple[Addresses, dict[Host, str], frozenset[Host]]:
        """Addresses, the reason for each name without any, and the names that were not asked.

        Answers that come later are ignored. Call this once.
        """
        with self._lock:
            unasked = frozenset(self._todo)
            self._todo.clear()
            slow = self._still_slow()
            late = "other names took all the time; the next run looks it up before them"
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
        """Whether a name may still answer within its time."""
        oldest = time.monotonic() - self._patience
        with self._lock:
            return bool(self._todo) or any(began > oldest for began in self._began.values())

    def _staff(self) -> None:
        """Start workers, so that there are WORKERS that are not overdue, as long as names wait."""
        from threading import Thread
        from threading import enumerate as threads

        under_way = sum(thread.name == _THREADS for thread in threads())
        now = time.monotonic()
        with self._lock:
            in_time = sum(began >= now - self._share for began in self._began.values())
            room = max(MOST_THREADS - under_way, min(WORKERS, MOST_THREADS) - len(self._began))
            count = min(len(self._todo), WORKERS - in_time, room)
            hosts = [self._todo.popleft() for _ in range(count)]
            self._began |= dict.fromkeys(hosts, now)
        for position, host in enumerate(hosts):
            # A daemon, so that a look-up that hangs does not keep the process from ending.
            try:
                Thread(target=self._run, args=(host,), name=_THREADS, daemon=True).start()
            except RuntimeError:
                self._put_back(hosts[position:], NO_THREAD)
                return

    def _put_back(self, hosts: list[Host], why: str) -> None:
        """Have these hosts wait, as nobody can look them up; if nobody is at work, fail all."""
        with self._lock:
            waiting = [host for host in hosts if self._began.pop(host, None) is not None]
            self._todo.extendleft(reversed(waiting))
            if not self._began:
                self._failures |= dict.fromkeys(self._todo, why)
                self._todo.clear()
                self._all_done.set()

    def _run(self, first: Host) -> None:
        host: Host | None = first
        try:
            with _inside(self._transit):
                while host is not None:
                    host = self._next(host, *_look_up(host))
        except (OSError, RaitError) as error:
            self._put_back([first], str(error))  # which it could not even begin with

    def _next(self, host: Host, addresses: tuple[str, ...], why_not: str) -> Host | None:
        """Keep what became of a host; the next one, or None if another worker has the place."""
        with self._lock:
            now = time.monotonic()
            is_overdue = self._began.pop(host) < now - self._share
            if addresses:
                self._addresses[host] = addresses
            else:
                self._failures[host] = why_not
            if self._todo and not is_overdue:
                following = self._todo.popleft()
                self._began[following] = now
                return following
            if not self._todo and not self._began:
                self._all_done.set()
            return None


def _look_up(host: Host) -> tuple[tuple[str, ...], str]:
    """The addresses of a host, and the reason if there are none."""
    name, family = host
    try:
        infos = socket.getaddrinfo(name, None, _AF[family], socket.SOCK_DGRAM)
    except socket.gaierror as error:
        return (), error.strerror or "it does not resolve"
    except (OSError, ValueError) as error:
        return (), str(error)
    texts = {str(info[4][0]).partition("%")[0] for info in infos}
    # Some resolvers answer 0.0.0.0 for a name that they block; the kernel sends that to this node.
    good = sorted(text for text in texts if not is_nobody(family, text))
    why = f"{min(texts)} is not the address of a host" if texts else "the name has none"
    return tuple(good), why


def _inside(transit: Netns) -> AbstractContextManager[None]:
    if transit.spec == "":
        return nullcontext()  # threads start in the current namespace, and entering takes root
    from rait.adapters.netns import entered

    return entered(transit.fd)
