"""What rait ships for Prometheus and Grafana: alert rules, and a dashboard.

promtool(1) tries the rules on series of a node, in virtual time.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.tiers import need

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus" / "rait.rules.yml"
DASHBOARD = PACKAGING / "grafana" / "rait.json"
METRICS = {
    "rait_up",
    "rait_links_wanted",
    "rait_links_live",
    "rait_links_failed",
    "rait_link_handshake_age_seconds",
    "rait_link_received_bytes_total",
    "rait_link_sent_bytes_total",
    "rait_last_sync_timestamp_seconds",
    "rait_last_sync_duration_seconds",
    "rait_last_sync_success",
    "rait_last_sync_info",
    "rait_peers_list_age_seconds",
    "rait_events_total",
    "rait_runs_total",
}

Series = dict[str, str]
"""Values a minute by metric, in promtool's notation: ``0+10x5`` counts up from 0, five times."""

AT = 60
"""The minute in which alerts are looked at."""
GOOD: Series = {
    "up": "1x60",
    "rait_up": "1x60",
    "rait_links_wanted": "2x60",
    "rait_links_live": "2x60",
    "rait_links_failed": "0x60",
    "rait_link_sent_bytes_total": "0+1000x60",
    "rait_link_handshake_age_seconds": "100x60",
    "rait_last_sync_timestamp_seconds": "0+60x60",
    "rait_last_sync_success": "1x60",
    "rait_peers_list_age_seconds": "60x60",
    "rait_runs_total": "0+0.2x60",
}
SAMPLES: list[tuple[str, Series, list[str]]] = [
    ("all is well", {}, []),
    ("watch does not answer", {"up": "1x50 0x9"}, ["RaitWatchAbsent"]),
    ("watch has not answered for three minutes", {"up": "1x56 0x9"}, []),
    ("nothing is asked", dict.fromkeys(GOOD, "_x60"), ["RaitNoNodes"]),
    (
        "rait sees nothing",
        {"rait_up": "1x30 0x30", "rait_links_wanted": "2x30 stale", "rait_links_failed": "0 stale"},
        ["RaitCannotLook"],
    ),
    (
        "no sync any more",
        {"rait_last_sync_timestamp_seconds": "0+60x30 1800x30"},
        ["RaitSyncsStopped"],
    ),
    ("syncs fail", {"rait_last_sync_success": "1x30 0x30"}, ["RaitSyncFails"]),
    ("syncs fail for ten minutes", {"rait_last_sync_success": "1x50 0x9"}, []),
    ("the registry is down", {"rait_peers_list_age_seconds": "0+60x60"}, []),
    ("it is down for long", {"rait_peers_list_age_seconds": "2400+60x60"}, ["RaitPeersListOld"]),
    ("a link cannot be made", {"rait_links_failed": "0x30 1x30"}, ["RaitLinksFailed"]),
    ("no peer answers", {"rait_links_live": "2x30 0x30"}, ["RaitNodeCutOff"]),
    ("no peers are wanted", {"rait_links_live": "0x60", "rait_links_wanted": "0x60"}, []),
    ("a peer is gone", {"rait_link_handshake_age_seconds": "100x30 130+60x30"}, ["RaitLinkStale"]),
    ("a peer was never there", {"rait_link_handshake_age_seconds": "_x60"}, ["RaitLinkStale"]),
    ("a peer is gone for a short time", {"rait_link_handshake_age_seconds": "100x50 130+60x9"}, []),
    (
        "a link has nothing to carry",
        {"rait_link_handshake_age_seconds": "0+60x60", "rait_link_sent_bytes_total": "5x60"},
        [],
    ),
    (
        "a peer was gone, and now its link is",
        {
            "rait_link_handshake_age_seconds": "0+60x57 stale",
            "rait_link_sent_bytes_total": "0+148x57 stale",
        },
        [],
    ),
    ("links change again and again", {"rait_runs_total": "0+3x60"}, ["RaitLinksChangeAllTheTime"]),
]


def promtool(*words: str) -> None:
    """Have promtool look at something, in which it must find no fault."""
    done = subprocess.run(
        [need("promtool", "prometheus"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def labels(metric: str) -> str:
    own = {"rait_link_": ',link="wg-a",peer="tokyo"', "rait_runs_total": ',outcome="done"'}
    more = "".join(text for start, text in own.items() if metric.startswith(start))
    return f'{{job="rait",instance="node"{more}}}'


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_every_alert_says_what_is_wrong_and_what_to_do_and_has_a_case_here() -> None:
    _, *alerts = RULES.read_text().split("- alert: ")
    assert {alert.split()[0] for alert in alerts} == {name for case in SAMPLES for name in case[2]}
    for alert in alerts:
        assert {"severity:", "summary:", "description:"} <= set(alert.split())
        told = {"instance", "link", "peer"} if "rait_link_" in alert else {"instance"}
        assert set(re.findall(r"\$labels\.(\w+)", alert)) <= told


@pytest.mark.parametrize(
    ("series", "alerts"), [case[1:] for case in SAMPLES], ids=[case[0] for case in SAMPLES]
)
def test_an_alert_comes_when_it_should_and_no_other_does(
    series: Series, alerts: list[str], tmp_path: Path
) -> None:
    values = {f"{metric}{labels(metric)}": text for metric, text in (GOOD | series).items()}
    firing = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{AT}m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts],
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in values.items()],
        "promql_expr_test": [firing],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [case]}))  # JSON is YAML
    promtool("test", "rules", str(file))


def test_rules_and_dashboard_use_metrics_that_rait_serves_and_the_dashboard_all_of_them() -> None:
    dashboard = set(re.findall(r"rait_\w+", DASHBOARD.read_text()))
    assert dashboard == METRICS
    assert set(re.findall(r"rait_\w+", RULES.read_text())) <= METRICS


def test_prometheus_takes_what_the_dashboard_asks(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [
        # As Grafana puts in the values of its variables.
        {"record": f"r{n}", "expr": e.replace("$__rate_interval", "5m").replace("$node", ".*")}
        for n, e in enumerate(asked)
    ]
    assert not re.search(r"\$\w", json.dumps(rules))
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))


def test_the_dashboard_has_its_source_of_data_as_a_variable_and_no_panel_lies_on_another() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "node"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        assert columns.stop <= 24
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken
        taken |= cells
