"""The metrics: which there are, what is absent, and that Prometheus takes them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from rait.app.metrics import MAX_LABEL, exposed
from rait.app.tally import LastSync, Tally
from rait.domain.status import PeersAge, Status
from tests.tiers import need
from tests.unit.test_commands_status import ALL, LIVE, NOW
from tests.unit.test_packaging import METRICS

LAST = LastSync(at=NOW - 5.5, seconds=0.25, outcome="partial", cause="link")
TALLY = Tally(LAST, {"LinkAdded": 3}, {"done": 2, "partial": 1}, 7)
KNOWN = structs.replace(ALL, peers=PeersAge(35))


def values(status: Status | None, tally: Tally | None = TALLY) -> dict[str, float]:
    """The value of each series, by its name and labels."""
    text, _ = exposed(status, tally)
    return {
        f"{sample.name}{''.join(f' {name}={value}' for name, value in sample.labels.items())}": (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_there_is_what_the_alerts_and_the_dashboard_ask_for() -> None:
    names = {series.split()[0] for series in values(KNOWN)}
    assert names == METRICS


def test_each_metric_has_its_meaning_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "watch.md").read_text()
    assert {name for name in METRICS | {"rait_up"} if f"`{name}`" not in text} == set()


def test_each_metric_has_its_value() -> None:
    found = values(KNOWN)
    w1, w2 = "link=w1 peer=gate", "link=w2 peer=gate"
    assert found["rait_up"] == 1
    assert found["rait_links_wanted"] == 5
    assert found["rait_links_live"] == 1
    assert found["rait_links_failed"] == 0
    assert found[f"rait_link_handshake_age_seconds {w1}"] == 75
    assert found[f"rait_link_handshake_age_seconds {w2}"] == 300
    assert found[f"rait_link_received_bytes_total {w1}"] == 1536
    assert found[f"rait_link_sent_bytes_total {w1}"] == 5
    assert found["rait_peers_list_age_seconds"] == 35
    assert found["rait_last_sync_timestamp_seconds"] == NOW - 5.5
    assert found["rait_last_sync_duration_seconds"] == 0.25
    assert found["rait_last_sync_success"] == 0
    assert found["rait_last_sync_info cause=link result=partial"] == 1
    assert found["rait_events_total kind=LinkAdded"] == 3
    assert found["rait_runs_total outcome=partial"] == 1


def test_what_is_unknown_is_absent_and_never_zero() -> None:
    found = values(KNOWN)
    of_links = {series for series in found if "link=" in series}
    assert not [series for series in of_links if "link=w4" in series]  # it is missing
    assert not [series for series in of_links if "age" in series and "link=w3" in series]
    assert values(None, None) == {"rait_up": 0}
    assert not [series for series in values(None) if "link" in series.partition(" ")[0]]
    lost = values(structs.replace(KNOWN, problem="no permission"))
    assert lost["rait_up"] == 0
    assert lost["rait_links_live"] == 1
    assert not {"rait_links_wanted", "rait_links_failed"} & lost.keys()
    unset = values(structs.replace(KNOWN, peers=PeersAge(None)), Tally())
    assert not [series for series in unset if "peers_list" in series or "last_sync" in series]


@given(st.text(), st.text(min_size=MAX_LABEL, max_size=2 * MAX_LABEL))
def test_whatever_a_peer_is_called_it_is_one_label_of_bounded_length(short: str, long: str) -> None:
    hostile = structs.replace(LIVE, peer=short + '"\n} \\ \ud800' + long + "\u202e")
    status = structs.replace(KNOWN, links=(hostile,))
    for parse in (text_string_to_metric_families, openmetrics_families):
        text, _ = exposed(status, TALLY, as_openmetrics=parse is openmetrics_families)
        families = list(parse(text.decode()))
        peers = [s.labels["peer"] for f in families for s in f.samples if "peer" in s.labels]
        assert len(peers) == 3
        assert max(map(len, peers)) <= MAX_LABEL
        assert "\u202e" not in peers[0]


def test_a_peer_without_a_name_goes_by_its_key() -> None:
    status = structs.replace(KNOWN, links=(structs.replace(LIVE, peer=""),))
    assert f"rait_link_sent_bytes_total link=w1 peer={LIVE.public_key}" in values(status)


@pytest.mark.parametrize("status", [KNOWN, Status(now=NOW), None], ids=["all", "none", "unknown"])
def test_promtool_finds_no_fault(status: Status | None) -> None:
    text, _ = exposed(status, TALLY)
    done = subprocess.run(
        [need("promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_no_process_collector_or_other_name_is_there() -> None:
    text, _ = exposed(KNOWN, TALLY)
    assert set(re.findall(r"^# TYPE (\w+)", text.decode(), re.M)) == METRICS
