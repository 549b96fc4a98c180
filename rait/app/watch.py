"""``rait watch``: what it is told of goes to the domain as events, and it does what comes back.

All but the work itself is in one thread, on one event loop. A sync, a poll and a look-up each run
in a thread of their own. Signals reach none of these, so nothing of what they do is cut off.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from signal import SIGHUP, SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import from_thread, to_thread
from anyio.abc import TaskGroup
from msgspec import Struct, structs

from rait.adapters import privilege
from rait.adapters.config import source
from rait.adapters.file_changes import FileChanges
from rait.adapters.link_changes import LinkChanges, Touches
from rait.adapters.systemd import ServiceManager
from rait.app import desired
from rait.app.conclude import Report
from rait.app.follow import Follower
from rait.app.health import Health
from rait.app.held import Held
from rait.app.load import Loaded, configured
from rait.app.moments import written
from rait.app.options import Options
from rait.app.render import (
    lasting_problems,
    passing_problems,
    report_lines,
    summary,
    warning_lines,
)
from rait.app.scopes import last_signed
from rait.app.session import Session
from rait.app.status import StatusReader
from rait.app.tally import LastSync
from rait.app.watched import Claim
from rait.domain import watch as domain
from rait.domain.config.schema import SECOND, Config
from rait.domain.endpoints import is_stale
from rait.domain.errands import ErrandName
from rait.domain.errors import NO_THREAD, ConfigError, MachineError, PendingError, RaitError
from rait.domain.status import peers_age
from rait.domain.watch import Settings
from rait.domain.watch_events import (
    Action,
    Begin,
    Cause,
    Ended,
    EntryOutdated,
    Event,
    Exit,
    FilesChanged,
    Hangup,
    LinksTouched,
    Notify,
    Outcome,
    Say,
    Served,
    Sync,
    Synced,
    Terminate,
    Tick,
    main_kind,
    told,
)
from rait.terminal import lose_what_nobody_reads, note, warn, warn_of

if TYPE_CHECKING:
    from rait.app.publishing import Publisher

T = TypeVar("T")

LOCK_SECONDS = 10.0
"""How long a sync waits for another rait; then it is tried again."""

SENSE_SECONDS = 10.0
"""How long to wait before changes are listened for again, if that failed."""

CONF, PEERS = "rait.conf", "peers list"
PRIVATE, PRESHARED = "private key file", "preshared key file"
SIGNATURE, SIGNER = "signature of the peers list", "public key of who signs it"


_FAULT = "this is a fault of rait"
_BY_LOOKS = "until then, each look finds what has changed"


class Result(Struct, frozen=True, kw_only=True):
    """What became of a sync, and what it has learned, which is nothing if there is no ``report``.

    ``names`` are the interfaces that are ours, or are to be, and ``key_files`` those with preshared
    keys. ``key_in_use`` is the public key that the links have, "" if it is unknown; ``is_listed``,
    whether the list has it.
    """

    synced: Synced
    report: Report | None = None
    has_names: bool = False
    names: frozenset[str] = frozenset()
    key_files: frozenset[str] = frozenset()
    key_in_use: str = ""
    is_listed: bool = True


def watch(options: Options, *, down_on_exit: bool = False) -> bool:
    """Look after this node until SIGTERM or SIGINT; whether all went well at the end.

    Raises RaitError, with nothing touched, where that cannot begin.
    """
    loaded = _checked(options.config)
    privilege.require("rait watch")
    source.take_files_alone()
    with Claim(options.config) as claim, FileChanges() as files:
        claim.extend(loaded.config.journal)
        watcher = Watcher(options, loaded.config, files, claim)
        lose_what_nobody_reads()
        anyio.run(watcher.run, down_on_exit)
    return watcher.ended_well


def _checked(url: str) -> Loaded:
    """The configuration. Raises ConfigError also where nobody could see that it changes."""
    if not source.is_path(url) or (os.path.exists(url) and not os.path.isfile(url)):
        raise ConfigError(
            "rait watch needs a rait.conf that is a file, to see when it changes; "
            f"{source.display_name(url)} is none"
        )
    loaded = configured(url)
    config = loaded.config
    for key, value in (("peers", config.peers), ("private_key_file", config.private_key_file)):
        if value == source.STDIN:
            raise ConfigError(
                f"{loaded.place_of(key)}: cannot be - (standard input) for `rait watch`"
            )
    return loaded


class Watcher:
    """One ``rait watch``. ``ended_well`` is False where ``down`` failed at the end."""

    def __init__(self, options: Options, config: Config, files: FileChanges, claim: Claim) -> None:
        self.ended_well = True
        self._options = options
        self._config = config
        self._held = Held()
        self._follower = Follower(self._held, self._tell)
        self._publisher: Publisher | None = None
        self._key_in_use = ""
        self._service = ServiceManager()
        self._health = Health(StatusReader(options).read)
        self._state = domain.begin(time.monotonic())
        self._learned = Result(synced=Synced("unchanged"))
        self._status = ""
        self._files = files
        self._claim = claim
        self._paths: dict[str, str] = {}
        self._links: LinkChanges | None = None
        self._sight: anyio.CancelScope
        self._tasks: TaskGroup
        self._news = anyio.Event()

    async def run(self, down_on_exit: bool) -> None:
        """Look after the node until the end."""
        self._health.listen(self._config.watch.metrics)
        async with anyio.create_task_group() as self._tasks:
            for task in (self._hear_signals, self._see_files, self._see_links, self._stay_alive):
                self._tasks.start_soon(task)
            self._tasks.start_soon(self._health.run)
            self._watch_files()
            self._tell(Tick())
            while not self._state.over:
                await self._sleep()
            self._follower.end()
            if down_on_exit:
                await self._down()
            self._tasks.cancel_scope.cancel()

    # Events and actions.

    @property
    def _settings(self) -> Settings:
        spans, has_url = self._config.watch, source.is_remote(self._config.peers)
        # Syncs keep what polls have confirmed.
        age = spans.max_peers_age if has_url else None
        return Settings(
            look=(spans.look if age is None else min(spans.look, age // 2)) / SECOND,
            poll=spans.poll / SECOND if has_url else None,
            names=spans.names / SECOND if self._learned.has_names else None,
            publish=spans.lease / 3 / SECOND if spans.publish else None,
        )

    def _tell(self, event: Event) -> None:
        """Do what is to be done about an event; for the thread of the event loop alone."""
        if isinstance(event, Ended):
            event = structs.replace(event, chance=random.random())  # noqa: S311 - not for secrets
        self._state, actions = domain.step(self._state, event, time.monotonic(), self._settings)
        for action in actions:
            self._do(action)
        self._news.set()

    async def _sleep(self) -> None:
        """Sleep until it is time, or an event came."""
        at = domain.wake_at(self._state, self._settings)
        with anyio.move_on_after(max(0.0, at - time.monotonic())):
            await self._news.wait()
        if self._news.is_set():
            self._news = anyio.Event()
        else:
            self._tell(Tick())

    def _do(self, action: Action) -> None:
        match action:
            case Sync(causes):
                self._tasks.start_soon(self._sync, causes)
            case Begin(errand, anew):
                self._tasks.start_soon(self._errand, errand, anew)
            case Say(lines):
                warn(*lines)
            case Notify("ready"):
                self._service.ready(self._status)
            case Notify("reloading"):
                self._service.reloading()
            case Notify("stopping"):
                self._service.stopping()
            case Exit():
                self._options.debug("the end")

    # Work, each in a thread of its own.

    async def _sync(self, causes: tuple[Cause, ...]) -> None:
        began = time.monotonic()
        try:
            result = await _in_thread(partial(self._synced, causes))
        except MachineError as error:
            result = Result(synced=Synced("failed", (str(error),)))
        if result.report is not None:
            self._learned = result
            if self._links is not None:
                self._links.watch(result.names)
        seconds = time.monotonic() - began
        self._watch_files()
        _tidy()
        if self._links is not None:
            # What the sync itself did, while it still runs. Whoever waits tells what goes wrong.
            with suppress(MachineError):
                self._touched(self._links.take())
        self._note(causes, result, seconds)
        self._key_in_use = result.key_in_use or self._key_in_use
        publisher = self._publisher
        if publisher is not None and (
            not result.is_listed or publisher.is_outdated(self._key_in_use)
        ):
            self._tell(EntryOutdated())
        self._tell(result.synced)

    def _note(self, causes: tuple[Cause, ...], result: Result, seconds: float) -> None:
        """Tell the user and the service manager what a sync did, and count it for the metrics."""
        report, problems = result.report, result.synced.problems
        outcome, cause = result.synced.outcome, main_kind(causes)
        self._health.synced(
            LastSync(at=time.time(), seconds=seconds, outcome=outcome, cause=cause), report
        )
        if report is not None:
            title = f"up ({told(causes)})"
            line = summary(structs.replace(report, command=title))
            if _did_something(report):
                warn(*passing_problems(report))
                note(*report_lines(report)[:-1], line)
            else:
                self._options.debug(f"{line} ({seconds:.3f} s)")
        self._status = problems[0] if problems else summary(report) if report is not None else ""
        self._service.status(self._status)

    def _synced(self, causes: tuple[Cause, ...]) -> Result:
        options = structs.replace(
            self._options,
            cause=told(causes),
            fetch=self._held.fetch,
            resolve=self._held.resolve,
            lock_seconds=LOCK_SECONDS,
        )
        try:
            # Before they are read for the sync, the files are watched: no change of them is missed.
            config = _checked(options.config).config
            self._claim.extend(config.journal)
            from_thread.run_sync(self._configure, config)
            with desired.open_settled(options, "up", peers=True) as session:
                return _result(session, desired.sync(session))
        except RaitError as error:
            return Result(synced=Synced(_outcome(error), tuple(map(str, error.args))))
        except Exception as error:  # noqa: BLE001 - the next sync may do better
            import traceback

            lines = (f"{_FAULT}: {error!r}", *traceback.format_exc().splitlines())
            return Result(synced=Synced("failed", lines))

    async def _errand(self, name: ErrandName, anew: bool) -> None:
        if name == "poll" and source.is_live(self._config.peers):
            self._follower.poll(self._config.peers, anew)
            return
        ask = {"poll": self._poll, "names": self._look_up, "publish": self._publish}[name]

        def answer() -> tuple[bool, str]:
            try:
                return ask()
            except RaitError as error:
                return False, str(error)
            except Exception as error:  # noqa: BLE001 - the next time may do better
                return False, f"{_FAULT}: {error!r}"

        # At the end nobody waits for a server.
        try:
            changed, problem = await _in_thread(answer, abandon_on_cancel=True)
        except MachineError as error:
            changed, problem = False, str(error)
        _tidy()
        self._tell(Ended(name, changed, problem))

    # Each of these tells whether there is something new, and what is wrong.

    def _poll(self) -> tuple[bool, str]:
        config, trust = self._config, None
        if config.peers_public_key:
            from rait.app.signed import trust_in  # here, as few lists are signed

            last = last_signed(self._options.config, config.journal)
            trust = trust_in(config.peers_public_key, last)
        return self._held.poll(config.peers, trust), ""

    def _look_up(self) -> tuple[bool, str]:
        changed, problems = self._held.refresh()
        for line in problems:
            self._options.debug(line)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return changed, f"{problems[0]}{more}; it keeps the address that it had" if problems else ""

    def _publish(self) -> tuple[bool, str]:
        if self._publisher is None:
            from rait.app.publishing import Publisher  # here, as few nodes publish

            self._publisher = Publisher(self._options.config)
        return self._publisher.publish(self._key_in_use)

    async def _down(self) -> None:
        try:
            report = await _in_thread(partial(desired.down, self._options, watched=True))
        except RaitError as error:
            self.ended_well = False
            warn_of(error)
            return
        warn(*warning_lines(report), *lasting_problems(report), *passing_problems(report))
        note(*report_lines(report))
        self.ended_well = report.status in ("done", "unchanged")

    # Senses.

    def _configure(self, config: Config) -> None:
        is_elsewhere = config.isolation.target_netns != self._config.isolation.target_netns
        is_renamed = config.peers != self._config.peers
        self._config = config
        if is_renamed:
            self._follower.turn(config.peers)
        self._watch_files()
        if is_elsewhere:
            self._sight.cancel()
        try:
            self._health.listen(config.watch.metrics)
        except MachineError as error:
            self._tell(Served("metrics", str(error)))
        else:
            self._tell(Served("metrics"))

    def _watch_files(self) -> None:
        config = self._config
        wanted = {self._options.config: CONF, config.peers: PEERS, config.private_key_file: PRIVATE}
        wanted |= dict.fromkeys(self._learned.key_files, PRESHARED)
        if signers := config.peers_public_key:
            from rait.domain.minisign import looks_like_key  # here, as few lists are signed

            wanted |= {source.signature_of(config.peers): SIGNATURE}
            wanted |= {key: SIGNER for key in signers if not looks_like_key(key)}
        paths = {os.path.abspath(p): what for p, what in wanted.items() if p and source.is_path(p)}
        if paths != self._paths:
            self._paths = paths
            try:
                self._files.watch(paths)
            except MachineError as error:
                self._tell(Served("files", f"{error}; {_BY_LOOKS}"))

    async def _see_files(self) -> None:
        while True:
            try:
                changed = await self._files.changed()
            except MachineError as error:
                self._tell(Served("files", f"{error}; {_BY_LOOKS}"))
                await anyio.sleep(SENSE_SECONDS)
                continue
            self._tell(Served("files"))
            what = {self._paths[path] for path in changed if path in self._paths}
            if what:
                self._tell(FilesChanged(tuple(sorted(what))))

    async def _see_links(self) -> None:
        """See what is done to links, in the namespace in which they are to be."""
        while True:
            with anyio.CancelScope() as self._sight:  # cancelled where they are to be elsewhere
                try:
                    with LinkChanges(self._config.isolation.target_netns) as self._links:
                        self._links.watch(self._learned.names)
                        self._tell(Served("links"))
                        while True:
                            self._touched(await self._links.changed())
                except (MachineError, OSError) as error:
                    self._tell(Served("links", f"{error}; {_BY_LOOKS}"))
                finally:
                    self._links = None
                await anyio.sleep(SENSE_SECONDS)

    def _touched(self, touches: Touches) -> None:
        if touches is None:
            self._tell(LinksTouched())
            return
        deleted = dict.fromkeys(t.name for t in touches if t.kind == "deleted")
        others = dict.fromkeys(t.name for t in touches if t.name not in deleted)
        for names, are_deleted in ((deleted, True), (others, False)):
            if names:
                self._tell(LinksTouched(tuple(names), are_deleted))

    async def _hear_signals(self) -> None:
        with anyio.open_signal_receiver(SIGHUP, SIGTERM, SIGINT) as signals:
            async for number in signals:
                self._tell(Hangup() if number == SIGHUP else Terminate())

    async def _stay_alive(self) -> None:
        while self._service.watchdog is not None:
            self._service.alive()
            await anyio.sleep(self._service.watchdog / 2)


async def _in_thread(work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
    """What ``work`` gives, done in a thread. Raises MachineError if the system starts none."""
    try:
        return await to_thread.run_sync(work, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError as error:
        if "start new thread" not in str(error):  # a fault in the work itself
            raise
        raise MachineError(NO_THREAD) from None


def _tidy() -> None:
    """Free what refers to itself in a circle; by itself, Python would let much of it come together.

    What is there the first time, as modules, stays for ever, and is not looked through again.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


def _result(session: Session, report: Report) -> Result:
    if (old := session.registry.old) is not None:
        report = structs.replace(report, old_list=old.lasting)
    problems, warnings = (*lasting_problems(report), *_too_old(session)), warning_lines(report)
    if report.held:
        problems, warnings = (*problems, *warnings), ()
    return Result(
        synced=Synced(
            "held" if report.held else _STATUSES[report.status],
            problems,
            warnings,
            frozenset(e.name for e in report.drift if e not in report.change.leftover),
            is_stale(session.observation),
        ),
        report=report,
        has_names=session.registry.has_names,
        names=_names(session, report),
        key_files=session.inputs.preshared.paths,
        key_in_use=session.public_key if report.status in ("unchanged", "done", "partial") else "",
        is_listed=any(p.public_key == session.public_key for p in session.registry.peers),
    )


def _too_old(session: Session) -> Iterator[str]:
    """Say so if no server has confirmed the peers list for longer than ``max_peers_age``."""
    most = session.config.watch.max_peers_age
    if most is None or not source.is_remote(session.config.peers):
        return
    from rait.app.fallback import kept_list  # here, as few nodes have a limit

    kept = kept_list(session.loaded, session.public_key, session.options.config)
    confirmed_at = kept.news.at if kept is not None else None
    if peers_age(confirmed_at, time.time_ns(), most).too_old:
        since = "" if confirmed_at is None else f" since {written(confirmed_at)}"
        yield f"the peers list is older than max_peers_age: no server has confirmed it{since}"


_STATUSES: dict[str, Outcome] = {
    status: status for status in ("unchanged", "done", "partial", "failed", "stopped")
}


def _names(session: Session, report: Report) -> frozenset[str]:
    """The interfaces that matter: our links, and the VRFs."""
    isolation = session.config.isolation
    events = (event.name for event in (*report.drift, *report.change.events))
    vrfs = filter(None, (isolation.target_vrf, isolation.transit_vrf))
    return frozenset((*session.known.topology.links, *events, *vrfs))


def _outcome(error: RaitError) -> Outcome:
    if isinstance(error, PendingError):
        return "pending"
    return "misconfigured" if isinstance(error, ConfigError) else "failed"


def _did_something(report: Report) -> bool:
    """Whether there is more to tell than what is still as it was."""
    results = report.results
    found: tuple[Any, ...] = results.happened, results.half_done, results.ended, results.calls
    return any(found) or bool(report.drift) or report.extra_cmd_sent
