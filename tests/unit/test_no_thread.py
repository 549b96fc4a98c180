"""Where a limit of processes is reached, the system starts no thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rait.adapters import netns
from rait.adapters.config import web
from rait.adapters.config.remote import Version
from rait.adapters.netns import open_netns
from rait.adapters.wireguard import kernel
from rait.adapters.wireguard.sockets import Sockets
from rait.domain.errors import MachineError, SourceError

REASON = "the system does not let rait start a thread; raise the limit of processes"


@pytest.fixture(autouse=True)
def _no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_namespace_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "NAMED", str(tmp_path))
    with pytest.raises(MachineError, match=f"cannot make network namespace new: {REASON}"):
        netns.ensure_netns("new")


def test_links_of_the_kernel_are_not_removed_side_by_side() -> None:
    with open_netns("") as here, Sockets(here) as sockets:
        assert kernel._remove_groups(sockets, {7, 8}) == {7, 8}


def test_a_list_cannot_be_fetched() -> None:
    with pytest.raises(SourceError, match=REASON):
        web.fetch("http://192.0.2.1/peers", 1000, Version())
