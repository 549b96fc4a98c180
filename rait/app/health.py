"""What `rait watch` serves at its metrics address: a page, metrics, JSON, and a check.

All that is asked for within a second is answered from one look at the machine. There is one look at
a time, in a thread: whoever asks holds up no sync, and waits for none.
"""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from msgspec import Struct, field

from rait.adapters.web_server import Answer, Asked, listen, plain, serve
from rait.app.conclude import Report
from rait.app.health_page import POLICY, page, problem_page
from rait.app.status import status_object
from rait.app.status_words import fault_lines
from rait.app.tally import LastSync, Tally
from rait.domain.errors import RaitError
from rait.domain.events import LinkAdded
from rait.domain.records import BABELD, PEERS_LIST
from rait.domain.status import Status
from rait.terminal import clean, to_json, warn, warn_of_crash

SHARED_SECONDS = 1.0
"""How long one look answers for."""

LOOK_SECONDS = 8.0
"""How long to wait for a look. Prometheus gives up after 10 seconds, unless told otherwise."""

_FAULT = "this is a fault of rait; its log says more"
_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_OPENMETRICS = "application/openmetrics-text"


class _Look(Struct, kw_only=True):
    """What one look saw, and the answers that were made of it.

    ``status`` is None if the links could not be looked at, and ``problem`` says why.
    """

    status: Status | None = None
    problem: str = ""
    tally: Tally = Tally()
    made_at: float = 0.0
    answers: dict[Asked, Answer] = field(default_factory=dict)


class Health:
    """Serves how this node is, and counts syncs for that.

    ``read`` reads the status, in a thread, as StatusReader does.
    """

    def __init__(self, read: Callable[[Mapping[str, str] | None], Status]) -> None:
        self._read = read
        self._tally = Tally()
        self._failures: Mapping[str, str] | None = None
        self._address = ""
        self._listener: socket.socket | None = None
        self._moved = anyio.Event()
        self._look = _Look()
        self._looked: anyio.Event | None = None
        self._writing = anyio.CapacityLimiter(1)  # and no thread that a sync may need
        self._tasks: TaskGroup
        self._crashed = False

    def listen(self, address: str | None) -> None:
        """From now on serve at this ADDRESS:PORT, or nowhere. Raises MachineError; then nowhere.

        Where it is served already, nothing changes.
        """
        address = address or ""
        if address == self._address and (self._listener is not None or not address):
            return
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._address = address
        self._moved.set()
        if not address:
            return
        host, _, port = address.rpartition(":")
        host = "127.0.0.1" if host == "localhost" else host.strip("[]")
        self._listener = listen(host, int(port))
        if not ip_address(host).is_loopback:
            warn(
                f"warning: metrics and the health page are served at {clean(address)}: whoever can "
                "reach it can read who the peers are, and their addresses"
            )

    def synced(self, last: LastSync, report: Report | None) -> None:
        """Count a sync; there is no report if it could not begin."""
        self._tally = self._tally.synced(last, report)
        if report is not None:
            self._failures = _not_made(report)

    async def run(self) -> None:
        """Serve, until this is cancelled."""
        try:
            while True:
                self._moved = anyio.Event()
                async with anyio.create_task_group() as self._tasks:
                    if self._listener is not None:
                        self._tasks.start_soon(serve, self._listener, self.answer)
                    await self._moved.wait()
                    self._tasks.cancel_scope.cancel()
        finally:
            self.listen(None)

    async def answer(self, asked: Asked) -> Answer:
        """The answer to a request."""
        make = _ANSWERS.get(asked.path)
        if make is None:
            return plain(404, f"there is nothing but {', '.join(_ANSWERS)}")
        look = await self._fresh()
        asked = Asked(asked.path, _OPENMETRICS if _OPENMETRICS in asked.accept else "")
        if asked not in look.answers:
            try:
                made = await to_thread.run_sync(make, look, asked, limiter=self._writing)
                look.answers[asked] = made
            except Exception:  # noqa: BLE001 - nobody who asks ends the watch
                self._tell_of_crash()
                return plain(500, _FAULT)
        return look.answers[asked]

    async def _fresh(self) -> _Look:
        if self._look.made_at and time.monotonic() - self._look.made_at < SHARED_SECONDS:
            return self._look
        if self._looked is None:
            self._looked = anyio.Event()
            self._tasks.start_soon(self._look_again, self._looked)
        with anyio.move_on_after(LOOK_SECONDS):
            await self._looked.wait()
            return self._look
        return _Look(problem=f"that takes longer than {LOOK_SECONDS:g} s", tally=self._tally)

    async def _look_again(self, looked: anyio.Event) -> None:
        try:
            self._look = await to_thread.run_sync(self._seen, abandon_on_cancel=True)
        except Exception:  # noqa: BLE001 - the next look may do better
            self._tell_of_crash()
            self._look = _Look(problem=_FAULT, tally=self._tally, made_at=time.monotonic())
        finally:
            self._looked = None
            looked.set()

    def _seen(self) -> _Look:
        status, problem = None, ""
        try:
            status = self._read(self._failures)
        except (RaitError, OSError) as error:
            problem = str(error)
        return _Look(status=status, problem=problem, tally=self._tally, made_at=time.monotonic())

    def _tell_of_crash(self) -> None:
        """Print a traceback, the first time: whoever asks must not fill the log."""
        if not self._crashed:
            self._crashed = True
            warn_of_crash()


def _not_made(report: Report) -> dict[str, str]:
    """The links that a sync could not make, with the reasons; other failures are not of a link."""
    added = {event.name for event in report.change.events if isinstance(event, LinkAdded)}
    others = {event.name for event in report.change.events} - added | {BABELD, PEERS_LIST}
    return {f.link: f.error for f in report.failures if not f.kept and f.link not in others}


def _page(look: _Look, _: Asked) -> Answer:
    node, headers = platform.node(), {"Content-Security-Policy": POLICY}
    if look.status is None:
        text = problem_page(node, int(time.time()), look.problem)
        return Answer(text.encode(), _HTML, 503, headers)
    return Answer(page(node, look.status, look.tally.last).encode(), _HTML, headers=headers)


def _metrics(look: _Look, asked: Asked) -> Answer:
    from rait.app.metrics import exposed  # here, as it loads a library of 2 MiB

    as_openmetrics = asked.accept == _OPENMETRICS
    return Answer(*exposed(look.status, look.tally, as_openmetrics=as_openmetrics))


def _json(look: _Look, _: Asked) -> Answer:
    if look.status is None:
        return _unknown(look)
    return Answer(to_json(status_object(look.status)).encode() + b"\n", _JSON)


def _check(look: _Look, _: Asked) -> Answer:
    if look.status is None:
        return _unknown(look)
    if look.status.healthy:
        return plain(200, "ok")
    return plain(503, "\n".join(map(clean, fault_lines(look.status))))


def _unknown(look: _Look) -> Answer:
    return plain(503, f"the links cannot be looked at: {clean(look.problem)}")


_ANSWERS: dict[str, Callable[[_Look, Asked], Answer]] = {
    "/": _page,
    "/metrics": _metrics,
    "/status.json": _json,
    "/healthz": _check,
}
