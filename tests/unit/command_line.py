"""rait's command line without a machine behind it, for the tests of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from rait.app.conclude import Report
from rait.cli import main
from rait.domain.change import Change, Goal, Results
from rait.domain.events import Event
from rait.domain.records import RunHeader
from rait.domain.topology import EMPTY, Device, Link, LinkSettings, Origin

STATE = Path(__file__).parent.parent / "data" / "state.json"
"""Exported from a node with links to the three peers below; the second has another mtu by hand."""

PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="

CONF = """\
transport {
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}
isolation {
  type = "netns"
  target = "raitns"
}
peers = "peers.conf"
journal = "journal.db"
"""

PEERS = {
    50221: ("+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w=", "192.0.2.12"),
    50223: ("BwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSY=", "192.0.2.23"),
    50224: ("KCkqKywtLi8wMTIzNDU2Nzg5Ojs8PT4/QEFCQ0RFRkc=", "198.51.100.24"),
}


class Said(NamedTuple):
    status: int
    out: str
    err: str


class Rait:
    """rait in this process, on configuration files of its own."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.conf = directory / "rait.conf"
        self.journal = directory / "journal.db"
        self._capsys = capsys
        self.write(CONF, PEERS)

    def write(self, conf: str, peers: dict[int, tuple[str, str]]) -> None:
        self.conf.write_text(conf)
        self.conf.chmod(0o600)
        entries = (
            f'[[Peers]]\nPublicKey = "{key}"\nSendPort = {port}\nEndpoint = "{address}"\n'
            'AddressFamily = "ip4"\n'
            for port, (key, address) in peers.items()
        )
        (self.directory / "peers.conf").write_text("\n".join(entries) or "peers = []")

    def __call__(self, *arguments: str) -> Said:
        self._capsys.readouterr()
        status = main(["-c", str(self.conf), *arguments])
        return Said(status, *self._capsys.readouterr())


def link(name: str) -> Link:
    return Link(name, Origin("kernel", "raitns"), LinkSettings(1420, 54), Device("own", 50221))


def header(scope: str, command: str) -> RunHeader:
    return RunHeader(
        scope=scope, command=command, version="1", uid=0, started_at=1, public_key="own"
    )


def report(*events: Event, command: str = "up", status: str = "done", **fields: object) -> Report:
    """A report of these events; its change and results get the fields that are theirs."""
    goal = Goal(EMPTY, conflicts=fields.pop("conflicts", ()))
    of_change = {name: fields.pop(name) for name in Change.__struct_fields__ if name in fields}
    of_results = {name: fields.pop(name) for name in Results.__struct_fields__ if name in fields}
    if status in ("done", "partial"):
        errors = of_results.get("errors", {})
        happened = tuple(event for number, event in enumerate(events) if number not in errors)
        of_results.setdefault("happened", happened)
    change = Change(observed=EMPTY, desired=EMPTY, events=events, goal=goal, **of_change)
    return Report(
        command=command, status=status, change=change, results=Results(**of_results), **fields
    )
