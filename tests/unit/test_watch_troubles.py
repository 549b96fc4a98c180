"""What `rait watch` tells of what is wrong, and what it leaves to others to tell."""

from __future__ import annotations

from rait.domain.watch import Settings, begin, step
from rait.domain.watch_events import Ended, Event, Say, Served, Synced, Tick


def said(*events: Event) -> list[tuple[str, ...]]:
    """What is told after each of these, a second after the one before."""
    settings, state, lines = Settings(look=3600, poll=60), begin(0.0), []
    for number, event in enumerate(events):
        state, done = step(state, event, float(number), settings)
        lines.append(
            tuple(line for action in done if isinstance(action, Say) for line in action.lines)
        )
    return lines


def test_a_service_that_fails_is_told_once_however_the_reason_differs() -> None:
    taken, again = (f"cannot serve metrics: process {n} has the port" for n in (11, 12))
    told = said(Served("metrics", taken), Served("metrics", again), Served("metrics"))
    assert told == [(taken,), (), ("metrics and the health page are served again",)]


def test_one_service_is_not_told_for_another() -> None:
    told = said(Served("files", "no inotify"), Served("links", "no netlink"), Served("metrics"))
    assert told == [("no inotify",), ("no netlink",), ()]


def test_what_syncs_do_not_tell_is_told_although_they_fail_for_another_reason() -> None:
    first = (Tick(), Ended("poll"), Synced("failed", ("no WireGuard",)))
    told = said(*first, Ended("poll", problem="no route"))
    assert told[-2:] == [("no WireGuard",), ("no route",)]
    assert said(*first, Ended("poll", problem="no WireGuard"))[-1] == (), "syncs tell"
