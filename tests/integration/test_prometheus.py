"""A real Prometheus that asks `rait watch`, with the rules that rait ships, for its dashboard."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.routing import eventually
from tests.integration.test_sources import served
from tests.integration.watching import StartWatch
from tests.tiers import need
from tests.unit.test_packaging import DASHBOARD, RULES

pytestmark = pytest.mark.userspace

RAIT, PROMETHEUS = "127.0.0.1:9586", "127.0.0.1:9090"
WATCH = f'watch {{\n  metrics = "{RAIT}"\n  look = "1s"\n}}\n'
SETTINGS = {
    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
    "rule_files": [str(RULES)],
    "scrape_configs": [{"job_name": "rait", "static_configs": [{"targets": [RAIT]}]}],
}


@contextmanager
def prometheus(netns: str, directory: Path) -> Iterator[None]:
    """A Prometheus in the namespace."""
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(SETTINGS))  # JSON is YAML
    command = [
        need("prometheus", "prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address={PROMETHEUS}",
    ]
    process = machine.start(command, netns, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def asked(netns: str, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers; nothing if it does not yet."""
    words = ["promtool", "query", "instant", "-o", "json", f"http://{PROMETHEUS}", expression]
    process = machine.start(words, netns, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    answer, _ = process.communicate()
    return json.loads(answer or "[]")


def test_prometheus_can_tell_all_that_the_dashboard_asks_and_an_end_of_the_watch(
    make_mesh: MakeMesh, watch: StartWatch, tmp_path: Path
) -> None:
    mesh = make_mesh(2)
    a, b = mesh.nodes
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    with served(a.netns, {"/peers": b.entry()}) as url, prometheus(a.netns, tmp_path):
        a.write_conf(text=a.conf_hcl(peers=f'"{url}/peers"') + WATCH)
        b.up()
        watching = watch(a)
        mesh.ping_all()
        for each in expressions:
            expression = each.replace("$__rate_interval", "10s").replace("$node", ".*")
            eventually(lambda e=expression: asked(a.netns, e), expression)
        eventually(lambda: asked(a.netns, "rait_links_live == 2"), "both links are live")
        eventually(lambda: not asked(a.netns, "ALERTS"), "all is well")
        watching.end()
        absent = 'ALERTS{alertname="RaitWatchAbsent",alertstate="pending"}'
        eventually(lambda: asked(a.netns, absent), "the watch is missed")
