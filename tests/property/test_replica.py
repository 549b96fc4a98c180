"""A replica of a registry: whatever is told in pieces, twice and anew gives what there is."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from rait.domain.replica import Change, Replica, key_at

KEYS = st.sampled_from([letter * 43 + "=" for letter in "ABCDE"])


def line(key: str, number: int) -> str:
    return json.dumps({"public_key": key, "n": number})


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Changes in the order of their revisions, of which there are gaps: those of other keys."""
    revision, changes = 1, []
    for key, gap, is_put in draw(
        st.lists(st.tuples(KEYS, st.integers(1, 3), st.booleans()), max_size=30)
    ):
        revision += gap
        changes.append(Change(key, line(key, revision) if is_put else None, revision))
    return changes


def plain(history: list[Change], revision: int) -> dict[str, str]:
    """What a plain read gives at a revision."""
    found: dict[str, str] = {}
    for change in history:
        if change.revision <= revision:
            found.pop(change.key, None)
            if change.line is not None:
                found[change.key] = change.line
    return found


def read(history: list[Change], revision: int) -> Replica:
    written = {each.key: each.revision for each in history if each.revision <= revision}
    lines = plain(history, revision)
    return Replica(1, revision, lines, {key: written[key] for key in lines})


def newest(history: list[Change], revision: int) -> Change | None:
    """The key that a registry wrote last until a revision, of those that it had then."""
    lines = plain(history, revision)
    return next(
        (c for c in reversed(history) if c.revision <= revision and c.line == lines.get(c.key, "")),
        None,
    )


@given(histories(), st.data())
def test_any_tellings_of_a_history_give_what_there_is(
    history: list[Change], data: st.DataObject
) -> None:
    """A stream begins anywhere before what is not known, and is cut anywhere into messages."""
    newest = history[-1].revision if history else 1
    replica = read(history, data.draw(st.integers(1, newest), "read at"))
    while replica.revision < newest or data.draw(st.booleans(), "once more"):
        known = sum(change.revision <= replica.revision for change in history)
        start = data.draw(st.integers(0, known), "told from")
        end = data.draw(st.integers(min(known + 1, len(history)), len(history)), "told to")
        at = start
        while at < end:
            stop = data.draw(st.integers(at + 1, end), "cut")
            before = replica
            replica = replica.told(tuple(history[at:stop]))
            assert replica.revision >= before.revision
            assert replica == read(history, replica.revision)
            at = stop
        # Nothing else was written, which is known of a registry that is asked.
        if data.draw(st.booleans(), "asked"):
            replica = replica.told((), replica.revision)
    assert (replica.revision, replica.lines) == (newest, plain(history, newest))
    assert replica.text == read(history, newest).text


@given(histories())
def test_what_is_known_is_not_applied_again(history: list[Change]) -> None:
    newest = history[-1].revision if history else 1
    replica = read(history, newest)
    assert replica.told(tuple(history)) == replica
    assert replica.told((), newest) == replica


@given(histories())
def test_each_line_of_the_text_tells_its_key(history: list[Change]) -> None:
    newest = history[-1].revision if history else 1
    replica = read(history, newest)
    peers = json.loads(replica.text)["peers"]
    assert peers == [json.loads(replica.lines[key]) for key in sorted(replica.lines)]
    found = [key_at(replica.text.split("\n"), at) for at in range(len(peers) + 6)]
    assert found == ["", "", *sorted(replica.lines), *[""] * 4]


@given(histories(), st.data())
def test_a_registry_goes_on_from_its_own_past_alone(
    history: list[Change], data: st.DataObject
) -> None:
    """One that was restored, and then wrote something else, has another newest key or number."""
    at = data.draw(st.integers(1, history[-1].revision if history else 1), "known until")
    known, lines = read(history, at), plain(history, at)
    assert known.is_past_of(1, len(lines), newest(history, at))
    back = data.draw(st.integers(0, at - 1), "restored to")
    before = [each for each in history if each.revision <= back]
    key = data.draw(KEYS, "written then")
    other = [*before, Change(key, line(key, -1), data.draw(st.integers(back + 1, at)))]
    found = plain(other, at)
    assert not known.is_past_of(1, len(found), newest(other, at))
