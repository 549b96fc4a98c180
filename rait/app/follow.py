"""Follows the source of the peers list for `rait watch`, where the source tells of changes.

To read and to decode thousands of entries takes a second. So that neither signals nor the watchdog
of the service manager have to wait for it, a follow has a thread with an event loop of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from rait.adapters.closing import on_error
from rait.adapters.config import source
from rait.adapters.config.remote import HEARTBEAT, News, in_daemon
from rait.app.held import Held
from rait.domain.errors import SourceError
from rait.domain.watch_events import Ended, SourceTold

SILENCE = 3 * HEARTBEAT
"""Seconds without a word after which a follow is not taken for alive."""


class _Follow:
    """One follow, which goes on until it ends by itself or is ended.

    ``hear`` gets what it tells, and at last why it has ended, in the thread of the event loop that
    it is made in; once ``end`` was called, nothing. Raises SourceError if it cannot begin.
    """

    def __init__(self, url: str, hear: Callable[[News | SourceError, bool], None]) -> None:
        self.url = url
        self.heard_at: float | None = None
        self.problem = ""
        self._hear = hear
        self._here = asyncio.get_running_loop()
        self._over = False
        self._there = asyncio.new_event_loop()
        with on_error(self._there.close):
            in_daemon(self._run, "rait-follow")

    @property
    def is_alive(self) -> bool:
        return self.heard_at is not None and time.monotonic() - self.heard_at < SILENCE

    def end(self) -> None:
        self._over = True
        with suppress(RuntimeError):  # its loop is closed: it has ended by itself
            # The task is made in the other thread, which may only be about to begin.
            self._there.call_soon_threadsafe(lambda: self._task.cancel())

    def _run(self) -> None:
        why = SourceError(f"{source.display_name(self.url)}: it is followed no more")
        self._task = self._there.create_task(source.follow(self.url, self._pass_on))
        try:
            self._there.run_until_complete(self._task)
        except SourceError as error:
            why = error
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - the next follow may do better
            why = SourceError(f"this is a fault of rait: {error!r}")
        finally:
            self._there.run_until_complete(self._there.shutdown_asyncgens())
            self._there.close()
            self._pass_on(why, True)

    def _pass_on(self, told: News | SourceError, is_last: bool = False) -> None:
        with suppress(RuntimeError):  # the process ends
            self._here.call_soon_threadsafe(self._heard, told, is_last)

    def _heard(self, told: News | SourceError, is_last: bool) -> None:
        if not self._over:
            self._hear(told, is_last)
            self.problem = str(told) if isinstance(told, SourceError) else ""
            self.heard_at = time.monotonic()


class Follower:
    """Has the source that rait.conf names followed; what there is to tell are events.

    ``held`` gets the lists. All is for the thread of the event loop alone.
    """

    def __init__(self, held: Held, tell: Callable[[Ended | SourceTold], None]) -> None:
        self._held = held
        self._tell = tell
        self._follow: _Follow | None = None

    def poll(self, url: str, anew: bool) -> None:
        """See to it that a source is followed, and tell ``Ended`` when that is clear."""
        follow = self._follow
        if follow is None or follow.url != url or anew:
            self._begin(url)
        elif follow.is_alive:
            self._tell(Ended("poll", False, follow.problem, follow="alive"))
        elif follow.heard_at is not None:
            self._begin(url)  # else the first that it tells is the answer

    def turn(self, url: str) -> None:
        """The peers list is from this URL now."""
        if source.is_live(url):
            self._begin(url)
        elif self._follow is not None:
            self.end()
            self._tell(Ended("poll", follow="lost"))

    def end(self) -> None:
        if self._follow is not None:
            self._follow.end()
            self._follow = None
            self._held.expect("")

    def _begin(self, url: str) -> None:
        self.end()
        self._held.expect(url)
        try:
            self._follow = _Follow(url, self._hear)
        except SourceError as error:
            self._tell(Ended("poll", False, str(error), follow="lost"))

    def _hear(self, told: News | SourceError, is_last: bool) -> None:
        follow = self._follow
        assert follow is not None  # noqa: S101 - one that was ended tells nothing
        changed = self._held.take(follow.url, told)
        problem = str(told) if isinstance(told, SourceError) else ""
        if is_last:
            self._follow = None
            self._tell(Ended("poll", False, problem, follow="lost"))
        elif follow.heard_at is None:
            self._tell(Ended("poll", changed, problem, follow="begun"))
        elif changed or problem != follow.problem:
            self._tell(SourceTold(changed, problem))
