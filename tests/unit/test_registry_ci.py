"""The example of a registry's CI takes good changes, and refuses bad ones with a reason.

Each case is a pull request in a Git repository of its own, on which the commands of the example's
workflow are run, one after the other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "registry-ci"
WORKFLOW = EXAMPLE / ".github" / "workflows" / "registry.yml"
OTHER_KEY = "tCZ6qoQDRZvQTtMWSf8ISuQUbApL8Cef2EMRO//AWSQ="
KEY_OF_LON = "Gk6LadXzoEbB9+aC2GqN+kwozCQS7dMlNTOfj14wLgo="
NEW_ENTRY = f"""
[[Peers]]
Name = "vie"
PublicKey = "{OTHER_KEY}"
AddressFamily = "ip4"
SendPort = 20007
Endpoint = "vie.example.org"
"""


def without(peers: str, *names: str) -> str:
    """The list without the entries of these nodes."""
    head, *entries = peers.split("[[Peers]]")
    kept = [e for e in entries if not any(f'Name = "{name}"' in e for name in names)]
    return "[[Peers]]".join((head, *kept))


class Registry:
    """A clone of the example."""

    def __init__(self, top: Path) -> None:
        self.top = top
        shutil.copytree(EXAMPLE, top)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("the registry")

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=keeper", "-c", "user.email=keeper@example.org")
        everyone = ("-c", "commit.gpgSign=false", "-c", f"core.hooksPath={os.devnull}")
        subprocess.run(["git", *identity, *everyone, *arguments], cwd=self.top, check=True)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)

    def propose(self, change: Callable[[str], str], announced: str = "") -> tuple[int, str]:
        """A pull request, as CI looks at it: the status and output of the first step that fails."""
        self.git("checkout", "--quiet", "-b", "change")
        peers, tests = self.top / "peers.toml", self.top / "test_registry.py"
        peers.write_text(change(peers.read_text()))
        if announced:
            before, after = "str, ...] = ()", f"str, ...] = ({announced!r},)"
            assert before in tests.read_text()
            tests.write_text(tests.read_text().replace(before, after))
        self.commit("a change")
        self.git("checkout", "--quiet", "main")
        self.git("merge", "--quiet", "--no-ff", "-m", "merge", "change")
        return self.run_steps()

    def run_steps(self) -> tuple[int, str]:
        install, *steps = re.findall(r"^ +- run: (.+)$", WORKFLOW.read_text(), re.M)
        assert install.startswith("pip install")
        assert len(steps) == 3
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OLD": "old.toml", "PYTEST_ADDOPTS": ""}
        for step in steps:
            done = subprocess.run(
                ["bash", "-e", "-c", step],
                cwd=self.top,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                break
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.mark.parametrize(
    ("change", "announced"),
    [
        pytest.param(lambda peers: peers + NEW_ENTRY, "", id="a node is added"),
        pytest.param(lambda peers: without(peers, "par"), "", id="a node is removed"),
        pytest.param(
            lambda peers: peers.replace(KEY_OF_LON, OTHER_KEY), "lon", id="an announced new key"
        ),
    ],
)
def test_a_good_change_passes(
    registry: Registry, change: Callable[[str], str], announced: str
) -> None:
    status, output = registry.propose(change, announced)
    assert status == 0, output
    assert "3 passed" in output


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            lambda peers: peers.replace("20003", "20002"),
            "SendPort 20002 (ip4) is already that of peer fra",
            id="two nodes with one SendPort",
        ),
        pytest.param(
            lambda peers: peers.replace("20006", "20016"),
            "train sends to port 20006 of ams, which listens for it on port 20016",
            id="a node behind NAT renumbers",
        ),
        pytest.param(
            lambda peers: peers.replace(KEY_OF_LON, OTHER_KEY),
            "ams has another key of lon",
            id="a key is exchanged at once",
        ),
        pytest.param(
            lambda peers: without(peers, "lon", "par", "prg"),
            "ams: 3 of its 5 links lose their sessions",
            id="the list is cut short",
        ),
        pytest.param(
            lambda peers: peers.replace(KEY_OF_LON, KEY_OF_LON[1:]),
            "PublicKey",
            id="a key is no key",
        ),
    ],
)
def test_a_bad_change_is_refused_with_a_reason(
    registry: Registry, change: Callable[[str], str], reason: str
) -> None:
    status, output = registry.propose(change)
    assert status == 1, output
    assert reason in output, output
    assert "Traceback" not in output
