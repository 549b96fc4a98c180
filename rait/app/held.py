"""What the network said last, for runs that are not to wait for the network.

``rait watch`` asks the network beside its runs: it calls ``poll`` and ``refresh``, or has follow.py
hand on what a source tells. Whatever fails leaves the last good answer in its place. Only what
nobody asked for yet is asked for by a run itself, in the bounds that every run has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Condition, Lock
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.adapters import netns
from rait.adapters.config import source
from rait.adapters.config.bounds import MAX_BYTES
from rait.adapters.config.remote import News, Version
from rait.adapters.config.resolve import LookUp, resolve
from rait.app.inputs import RESOLVE_SECONDS
from rait.domain.config.hosts import Host
from rait.domain.errors import Path, Problem, SourceError

if TYPE_CHECKING:
    from rait.adapters.netns import Netns
    from rait.app.signed import Trust


class _Answer(Struct, frozen=True):
    """The addresses of a host name; ``problem`` says why there are none."""

    addresses: tuple[str, ...]
    problem: str


class Held:
    """The last good answers of the network; runs and those who ask anew may be in any threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._told = Condition(self._lock)
        self._followed = ""
        self._news: dict[str, News] = {}
        self._failed: dict[str, SourceError] = {}
        self._names: dict[Host, _Answer] = {}
        self._transit = ""

    def poll(self, url: str, trust: Trust | None = None) -> bool:
        """Ask for the list once more; whether it is another one. Raises SourceError.

        With ``trust``, a list that is not signed so fails too, as where its signature has not come
        yet: list and signature take their places together.
        """
        held = self._news.get(url)
        news = self._take(url, held, trust, signed=trust is not None)
        return held is None or (held.text, held.signature) != (news.text, news.signature)

    def _take(
        self, url: str, held: News | None, trust: Trust | None = None, *, signed: bool
    ) -> News:
        """Ask for the list, and hold it from now on. Raises SourceError."""
        try:
            version = held.version if held is not None else Version()
            news = source.fetch(url, version, MAX_BYTES, signed)
            if news.text is None:
                assert held is not None  # noqa: S101 - the server was told no version otherwise
                news = structs.replace(news, text=held.text)
            if trust is not None:
                trust.check(url, news.text or "", news.signature or "")
        except SourceError as error:
            with self._lock:
                self._failed[url] = error
                if held is not None and signed:
                    # Perhaps it is the text that is held which is not what the server has.
                    self._news = {url: structs.replace(held, version=Version())}
            raise
        with self._lock:
            if self._followed in ("", url):
                # Of this URL alone: rait.conf may name many in the course of time.
                self._failed.clear()
                self._news = {url: news}
        return news

    def expect(self, url: str) -> None:
        """Runs wait for the first list of this URL, which is followed from now on; "" for none.

        What comes of it is for ``take``.
        """
        with self._told:
            self._followed = url
            self._told.notify_all()

    def take(self, url: str, told: News | SourceError) -> bool:
        """Hold what the source that is followed tells; whether it is another list.

        Where it has no list to be used, that which is held stays.
        """
        with self._told:
            held = self._news.get(url)
            self._told.notify_all()
            if isinstance(told, SourceError):
                self._failed[url] = told
                return False
            if told.text is None:
                if held is None:
                    return False
                told = structs.replace(told, text=held.text)
            self._failed.clear()
            self._news = {url: told}
            return held is None or held.text != told.text

    def fetch(self, url: str, known: Version, limit: int, signed: bool = False) -> News:
        """The text of the last transfer that succeeded. Raises SourceError if none did yet."""
        with self._told:
            self._told.wait_for(lambda: self._is_clear(url), source.TIMEOUT)
            held, failed = self._news.get(url), self._failed.get(url)
        if held is None or (signed and held.signature is None):
            if failed is not None:
                raise failed
            held = self._take(url, held, signed=signed)
        if len((held.text or "").encode()) > limit:
            return source.fetch(url, known, limit, signed)  # which says what is wrong
        return held

    def _is_clear(self, url: str) -> bool:
        return url != self._followed or url in self._news or url in self._failed

    def refresh(self) -> tuple[bool, tuple[str, ...]]:
        """Look up all names of the last run once more.

        Gives whether any name has other addresses now, and a line for each name that failed. A name
        that failed keeps its last good addresses. Raises MachineError if the transit namespace
        cannot be opened.
        """
        before, transit = self._names, self._transit
        if not before:
            return False, ()
        with netns.open_netns(transit) as namespace:
            now = _answers(resolve(before, namespace, RESOLVE_SECONDS, _places(before)))
        good = {host: answer for host, answer in now.items() if answer.addresses}
        with self._lock:
            if self._transit == transit:
                self._names = {host: good.get(host, old) for host, old in self._names.items()}
        changed = any(answer.addresses != before[host].addresses for host, answer in good.items())
        return changed, tuple(answer.problem for answer in now.values() if answer.problem)

    def resolve(
        self,
        hosts: Iterable[Host],
        transit: Netns,
        timeout: float,
        locations: Mapping[Host, Path],
        name: str,
    ) -> LookUp:
        """The last good addresses; only names that nobody asked for yet are looked up."""
        wanted = tuple(hosts)
        with self._lock:
            if transit.spec != self._transit:
                self._names, self._transit = {}, transit.spec
            known = self._names.keys()
        unknown = [host for host in wanted if host not in known]  # with all that are no names
        found = resolve(unknown, transit, timeout, _places(unknown), name)
        new = _answers(found)
        with self._lock:
            # Those that the list has no more are forgotten.
            self._names = {h: a for h, a in {**new, **self._names}.items() if h in locations}
            names = self._names
        return LookUp(
            found.addresses | {host: a.addresses for host, a in names.items() if a.addresses},
            tuple(
                Problem(answer.problem, "warning", locations.get(host, ()))
                for host, answer in names.items()
                if answer.problem
            ),
            tuple(names),
        )


def _places(hosts: Iterable[Host]) -> Mapping[Host, Path]:
    """Each host as its own place, so that a warning can be told from those of other hosts."""
    return {host: host for host in hosts}


def _answers(found: LookUp) -> dict[Host, _Answer]:
    problems = {problem.path: problem.message for problem in found.problems}
    return {h: _Answer(found.addresses.get(h, ()), problems.get(h, "")) for h in found.names}
