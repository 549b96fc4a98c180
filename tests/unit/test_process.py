"""What keeps userspace links from working, in words that tell what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rait.adapters.wireguard import process
from rait.adapters.wireguard.start import without_time


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(process.PROGRAM_VARIABLE, raising=False)
    monkeypatch.setattr(process, "TUN_DEVICE", "/dev/null")
    return tmp_path


def put(directory: Path, name: str) -> None:
    (directory / name).touch(mode=0o755)


@pytest.mark.usefixtures("programs")
def test_without_a_program_it_says_what_to_install() -> None:
    assert "wireguard-go" in process.why_not()
    assert "install" in process.why_not()


def test_wireguard_go_is_enough(programs: Path) -> None:
    put(programs, "wireguard-go")

    assert process.why_not() == ""


def test_another_program_may_stand_in(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.PROGRAM_VARIABLE, "boringtun-cli")
    put(programs, "wireguard-go")
    assert "boringtun-cli" in process.why_not()

    put(programs, "boringtun-cli")

    assert process.why_not() == ""


def test_a_program_is_found_as_the_shell_finds_it(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "sub").mkdir()
    put(programs, "sub/wireguard-go")
    put(programs, "wireguard-go")
    monkeypatch.chdir(programs)
    paths = {
        "": None,
        ":/nowhere": "wireguard-go",
        f"/nowhere:{programs}/sub": f"{programs}/sub/wireguard-go",
    }
    for path, found in paths.items():
        monkeypatch.setenv("PATH", path)
        assert process.find_program() == found
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(process.PROGRAM_VARIABLE, "sub/wireguard-go")
    assert process.find_program() == "sub/wireguard-go"


def test_without_tun_it_says_how_to_get_it(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(programs, "wireguard-go")
    monkeypatch.setattr(process, "TUN_DEVICE", "/dev/net/no-such-tun")

    assert "modprobe tun" in process.why_not()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "ERROR: (w1) 2026/01/31 17:05:00 Failed to create TUN",
            "ERROR: (w1) Failed to create TUN",
        ),
        ("2026-01-31T17:05:00.123456Z ERROR boringtun: no TUN", "ERROR boringtun: no TUN"),
        ("2026-01-31 17:05:00,123 no TUN", "no TUN"),
        ("no TUN since 2026/01/31 17:05:00", "no TUN since 2026/01/31 17:05:00"),
        ("", ""),
    ],
)
def test_what_a_program_said_is_the_same_at_each_run(line: str, said: str) -> None:
    assert without_time(line) == said
