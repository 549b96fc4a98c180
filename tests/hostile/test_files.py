"""Whatever a file holds: its peers, or one clear error, within the bounds on time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hostile import files
from tests.hostile.conftest import Measure

CONF = """\
private_key = "%s"
peers = "%s"
[[transport]]
address_family = "ip4"
send_port = 50153
mtu = 1420
ifprefix = "rait4x"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir(mode=0o700)
    return tmp_path


def check(found: dict[str, Any], wanted: str | int, name: Path) -> None:
    if isinstance(wanted, int):
        assert found.get("peers") == wanted, found.get("error")
        return
    error = found.get("error", f"{len(found.get('warnings', ()))} warnings and no error")
    # A list that cannot be read at all is told with the line of rait.conf that names it.
    assert error.startswith(f"{name}:") or f": peers: {name}: " in error
    assert wanted in error
    assert len(error) < 20_000


@pytest.mark.parametrize("name", files.PEERS)
def test_a_peers_list(name: str, directory: Path, measure: Measure) -> None:
    file, text, wanted = files.PEERS[name]
    path = directory / file
    path.write_text(text())
    conf = directory / "rait.conf"
    conf.write_text(CONF % (files.OWN, path))
    conf.chmod(0o600)
    found = measure(conf=str(conf), cache=str(directory / "cache"))
    assert sum(map(len, found.get("warnings", ()))) < 20_000
    check(found, wanted, path)


@pytest.mark.parametrize("name", files.CONFIGS)
def test_a_configuration(name: str, directory: Path, measure: Measure) -> None:
    file, text, wanted = files.CONFIGS[name]
    path = directory / file
    path.write_text(text())
    check(measure(conf=str(path), cache=str(directory / "cache")), wanted, path)


@pytest.mark.parametrize("name", files.STATES)
def test_a_state(name: str, directory: Path, measure: Measure) -> None:
    file, text, wanted = files.STATES[name]
    path = directory / file
    path.write_text(text())
    conf = directory / "rait.conf"
    conf.write_text(CONF % (files.OWN, directory / "peers.conf"))
    conf.chmod(0o600)
    check(measure(against=str(path), conf=str(conf)), wanted, path)
