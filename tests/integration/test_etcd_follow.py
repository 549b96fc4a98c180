"""Followers of etcd, whatever happens to its members, to connections and to what is in it.

Hypothesis draws sequences of it. RAIT_ETCD_EXAMPLES says how many (8).
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rait.adapters.config import source
from rait.adapters.config.etcd import client, registry
from tests.integration import machine
from tests.integration.etcd import Cluster, doors, raw
from tests.integration.following import Follower, following, ports
from tests.integration.watching import until

pytestmark = pytest.mark.userspace

EXAMPLES = int(os.environ.get("RAIT_ETCD_EXAMPLES", "8"))
KEYS = sorted(machine.genkey()[1] for _ in range(4))
ANCHOR, *MOVING = KEYS
"""A key that stays, as an empty registry is an error, and those that come and go."""

_numbers = count()

steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(MOVING)),
    st.tuples(st.just("put"), st.sampled_from(MOVING)),
    st.tuples(st.just("put with a lease"), st.sampled_from(MOVING)),
    st.tuples(st.just("delete"), st.sampled_from(MOVING)),
    st.tuples(st.sampled_from(["lose leases", "compact", "cut", "heal", "write elsewhere"])),
    st.tuples(st.sampled_from(["kill", "pause"]), st.sampled_from(["leader", 0, 1, 2])),
)


def value(key: str, port: int) -> str:
    return json.dumps({"public_key": key, "send_port": port})


class History:
    """What is in a registry, and what was in it at each revision."""

    def __init__(self, cluster: Cluster) -> None:
        self.prefix = f"/drawn/{next(_numbers)}"
        self._cluster = cluster
        self._writes = 0
        self._leases: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._loose: set[int] = set()
        self._revisions: list[int] = []
        self._states: list[dict[str, int]] = []
        self.put(ANCHOR)

    def put(self, key: str, seconds: int = 0) -> None:
        lease = self._cluster.grant(seconds) if seconds else 0
        port = self._writes + 1
        revision = self._write("request_put", key, value=raw(value(key, port)), lease=lease)
        if lease:
            self._leases[key] = lease
        self._note(revision, {**self._now, key: port})

    def delete(self, key: str) -> None:
        self._note(self._write("request_delete_range", key), self._without(key))

    def lose_leases(self) -> None:
        while self._leases:
            key, lease = self._leases.popitem()
            self._cluster.revoke(lease)
            # This revision may be later than that of the loss.
            self._loose.add(len(self._states))
            self._note(self._cluster.revision, self._without(key))

    def _write(self, how: str, key: str, **what: object) -> int:
        message = {how: {"key": raw(f"{self.prefix}/{key}"), **what}}
        revision = self._cluster.once(f"{self.prefix}-writes", self._writes, message)
        self._writes += 1
        self._leases.pop(key, None)
        return revision

    def _without(self, key: str) -> dict[str, int]:
        return {each: port for each, port in self._now.items() if each != key}

    def _note(self, revision: int, state: dict[str, int]) -> None:
        self._now = state
        self._revisions.append(revision)
        self._states.append(state)

    def may_be(self, revision: int) -> list[dict[str, int]]:
        """What was in it at a revision: one thing, but where a lease was lost about then."""
        after = bisect.bisect_right(self._revisions, revision)
        return self._states[after - 1 : after + (after in self._loose)]

    @property
    def now(self) -> dict[str, int]:
        return self._now


def do(step: tuple, history: History, cluster: Cluster, cut) -> None:
    what, *about = step
    if what == "put":
        history.put(about[0])
    elif what == "put with a lease":
        history.put(about[0], 600)
    elif what == "delete":
        history.delete(about[0])
    elif what == "lose leases":
        history.lose_leases()
    elif what == "compact":
        cluster.compact()
    elif what == "cut":
        cut()
    elif what == "write elsewhere":
        cluster.put(f"{history.prefix}-other/x", "y")
    elif what == "heal":
        cluster.heal()
    else:
        cluster.heal()  # two of three have to be there
        member = cluster.leader if about[0] == "leader" else cluster.members[about[0]]
        member.kill() if what == "kill" else member.pause()


def rotated(hosts: str, by: int) -> str:
    words = hosts.split(",")
    return ",".join(words[by:] + words[:by])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HEARTBEAT", 1.0)
    monkeypatch.setattr(client, "MEMBER_SECONDS", 2.0)


def told_is_true(follower: Follower, history: History) -> None:
    """Each list that it was told was the registry at its revision, and none was told twice."""
    for told in follower.tellings:
        lists = [news for news in told if news.text is not None]
        for news in lists:
            assert ports(news.text) in history.may_be(news.version.revision), news
        revisions = [news.version.revision for news in lists]
        assert revisions == sorted(set(revisions))
        known = 0
        for news in told:
            assert news.version.revision >= known
            known = news.version.revision


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(steps, min_size=4, max_size=16))
def test_after_quiet_each_follower_has_what_a_plain_read_gives(etcd: Cluster, drawn: list) -> None:
    history = History(etcd)
    with doors(etcd) as ways:
        urls = [etcd.url(history.prefix, rotated(ways.hosts, turn)) for turn in range(3)]
        with following(urls) as followers:
            for follower in followers:
                follower.has(lambda found: ANCHOR in found)
            for step in drawn:
                do(step, history, etcd, ways.drop)
            etcd.heal()
            plain = source.read(etcd.url(history.prefix))
            assert ports(plain) == history.now
            for follower in followers:
                until(lambda follower=follower: follower.text == plain, follower.errors.__str__)
        for follower in followers:
            assert follower.text == plain
            told_is_true(follower, history)


@pytest.fixture
def one(etcd: Cluster) -> Iterator[tuple[Cluster, Follower]]:
    """A cluster with one entry, and a follower of it that knows it."""
    etcd.put(f"/one/{ANCHOR}", value(ANCHOR, 1))
    with following([etcd.url("/one")]) as (follower,):
        follower.has(lambda found: found == {ANCHOR: 1})
        yield etcd, follower


def test_nothing_is_told_anew_while_a_member_is_killed_and_comes_back(one) -> None:
    etcd, follower = one
    for member in etcd.members:
        member.kill()
        etcd.heal()
    etcd.put(f"/one/{MOVING[0]}", value(MOVING[0], 2))
    follower.has(lambda found: found == {ANCHOR: 1, MOVING[0]: 2})
    assert not follower.errors
    assert sum(news.text is not None for news in follower.told) == 2


def test_a_leader_that_is_paused_holds_nothing_up(one) -> None:
    etcd, follower = one
    leader = etcd.leader
    leader.pause()
    # A put that the leader was asked for first would be done once more when it wakes.
    key, text = f"/one/{MOVING[0]}", value(MOVING[0], 2)
    etcd.once("/paused", 0, {"request_put": {"key": raw(key), "value": raw(text)}})
    follower.has(lambda found: MOVING[0] in found)
    leader.wake()
    etcd.delete(f"/one/{MOVING[0]}")
    follower.has(lambda found: found == {ANCHOR: 1})
    assert not follower.errors


def test_without_most_members_nothing_is_told_and_the_reason_is_given(one) -> None:
    etcd, follower = one
    for member in etcd.members[:2]:
        member.kill()
    follower.says("no member tells of changes")
    # The reason is that of the member tried last. The one that is alive may give another.
    reasons = "Connection refused", "no answer"
    until(
        lambda: any(reason in error for error in follower.errors for reason in reasons),
        lambda: f"{follower.errors}",
    )
    assert follower.ports == {ANCHOR: 1}
    etcd.heal()
    etcd.put(f"/one/{MOVING[0]}", value(MOVING[0], 2))
    follower.has(lambda found: MOVING[0] in found)


def test_what_was_compacted_away_while_nobody_was_connected_is_read_anew(etcd) -> None:
    etcd.put(f"/one/{ANCHOR}", value(ANCHOR, 1))
    etcd.put(f"/one/{MOVING[0]}", value(MOVING[0], 2))
    with doors(etcd) as ways, following([etcd.url("/one", ways.hosts)]) as (follower,):
        follower.has(lambda found: MOVING[0] in found)
        ways.shut()
        etcd.delete(f"/one/{MOVING[0]}")
        etcd.put(f"/one/{MOVING[1]}", value(MOVING[1], 3))
        etcd.delete(f"/one/{MOVING[1]}")
        etcd.put(f"/one/{MOVING[2]}", value(MOVING[2], 4))
        etcd.compact()
        ways.shut(False)
        follower.has(lambda found: found == {ANCHOR: 1, MOVING[2]: 4})
    assert all(MOVING[1] not in ports(news.text) for news in follower.told if news.text)


@pytest.mark.parametrize("writes", [1, 9])
def test_a_cluster_that_was_restored_is_read_anew(etcd, writes, tmp_path: Path) -> None:
    """Also one of the same name that is at a newer revision again, with another history.

    A new cluster has had as many elections as the first one: nothing but what is in it tells.
    """
    etcd.put(f"/one/{ANCHOR}", value(ANCHOR, 1))
    with doors(etcd) as ways, following([etcd.url("/one", ways.hosts)]) as (follower,):
        follower.has(lambda found: ANCHOR in found)
        snapshot = tmp_path / "snapshot"
        etcd.ctl("snapshot", "save", str(snapshot), members=etcd.members[:1])
        for port in (2, 3, 4):
            etcd.put(f"/one/{MOVING[0]}", value(MOVING[0], port))
        follower.has(lambda found: found.get(MOVING[0]) == 4)
        ways.shut()
        etcd.restore(snapshot)
        for port in range(writes):
            etcd.put(f"/one/{MOVING[1]}", value(MOVING[1], 10 + port))
        ways.shut(False)
        follower.has(lambda found: found == {ANCHOR: 1, MOVING[1]: 9 + writes})


def test_a_stream_that_tells_nothing_is_noticed(etcd, monkeypatch) -> None:
    """As behind a proxy that holds back what it has until there is more of it."""
    etcd.put(f"/one/{ANCHOR}", value(ANCHOR, 1))
    ask_as_usual = client.Client._send

    async def elsewhere(self, path, message, headers):
        if path == "/v3/watch":
            message = {"create_request": {"key": b"/nothing/"}}
        return await ask_as_usual(self, path, message, headers)

    monkeypatch.setattr(client.Client, "_send", elsewhere)
    with following([etcd.url("/one")]) as (follower,):
        follower.has(lambda found: ANCHOR in found)
        etcd.put(f"/one/{MOVING[0]}", value(MOVING[0], 2))
        follower.has(lambda found: MOVING[0] in found)
        etcd.delete(f"/one/{MOVING[0]}")
        follower.has(lambda found: MOVING[0] not in found)


def test_a_quiet_registry_is_confirmed(one) -> None:
    etcd, follower = one
    revision = etcd.put("/elsewhere", "x")
    until(lambda: sum(news.text is None for news in follower.told) > 2)
    until(lambda: follower.told[-1].version.revision == revision)


def test_a_list_that_is_written_again_and_again_as_it_is_is_confirmed(one, monkeypatch) -> None:
    """No heartbeat finds such a registry as it was."""
    etcd, follower = one
    monkeypatch.setattr(registry, "HEARTBEAT", 3600.0)
    for _ in range(5):
        revision = etcd.put(f"/one/{ANCHOR}", value(ANCHOR, 1))
        until(lambda revision=revision: follower.told[-1].version.revision >= revision)
    assert follower.ports == {ANCHOR: 1}


def test_an_empty_registry_is_an_error_and_no_empty_list(one) -> None:
    etcd, follower = one
    etcd.delete(f"/one/{ANCHOR}")
    follower.says("there is no key under this prefix")
    assert follower.ports == {ANCHOR: 1}
    etcd.put(f"/one/{MOVING[0]}", value(MOVING[0], 2))
    follower.has(lambda found: found == {MOVING[0]: 2})
