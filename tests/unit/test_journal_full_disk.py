"""The journal on a file system that is full or read-only: said plainly, and nothing is lost.

Each script runs in a mount namespace of its own, on a small tmpfs that goes with it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UNSHARE = ("unshare", "--map-root-user", "--mount")

PREAMBLE = """
import subprocess, sys
from pathlib import Path
from rait.domain.errors import MachineError
from tests.unit.test_journal_store import *

top = Path(sys.argv[1])
path = top / "journal.db"
ballast = top / "ballast"

def mount(*options):
    subprocess.run(["mount", *options, str(top)], check=True)

def fill():
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass

def refused(step, *words):
    try:
        step()
    except MachineError as error:
        assert all(word in str(error) for word in (str(path), *words)), error
    else:
        raise AssertionError("it was not refused")

mount("-t", "tmpfs", "-o", "size=512k", "tmpfs")
"""


def run(tmp_path: Path, script: str) -> None:
    """Run the script with a file system to itself; it fails by raising."""
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make mount namespaces")
    subprocess.run(
        [*UNSHARE, sys.executable, "-c", PREAMBLE + script, str(tmp_path)], check=True, timeout=300
    )


def test_a_full_disk_refuses_the_run_before_it_begins(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
with Journal.open(path) as journal:
    add(journal, "a")
    head = head_of(journal)
    fill()
    many = [LinkAdded(link(f"l{number}")) for number in range(500)]
    refused(lambda: journal.begin(header(), (), many), "no space left")
    for reader in (journal, JournalReader(path)):
        assert head_of(reader) == head
        assert reader.verify().ok
        assert set(reader.last_known(SCOPE).topology.links) == {"a"}
    ballast.unlink()
    add(journal, "b")
assert JournalReader(path).verify(head).ok
assert set(JournalReader(path).last_known(SCOPE).topology.links) == {"a", "b"}
""",
    )


def test_a_disk_that_fills_during_a_run_leaves_it_unfinished(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
with Journal.open(path) as journal:
    run = journal.begin(header(), (), [LinkAdded(link(f"l{n}")) for n in range(100)])
    fill()
    errors = [Outcome(n, "x" * 4096) for n in range(1, 100)]
    refused(lambda: run.record([Outcome(0), *errors]), "no space left")
with Journal.open(path) as journal:
    assert journal.verify().ok
    assert len(journal.last_known(SCOPE).leftover_links) == 100
ballast.unlink()
with Journal.open(path) as journal:
    add(journal, "b")
    assert set(journal.last_known(SCOPE).topology.links) == {"b"}
    assert journal.verify().ok
""",
    )


def test_a_journal_cannot_be_made_on_a_full_disk_and_can_later(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
fill()
refused(lambda: Journal.open(path), "no space left")
assert JournalReader(path).last_known(SCOPE) == LastKnown()
ballast.unlink()
with Journal.open(path) as journal:
    add(journal, "a")
    assert journal.verify().ok
""",
    )


def test_pruning_needs_no_space_to_speak_of(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
for number in range(20):
    with Journal.open(path) as journal:
        add(journal, *(f"l{number}x{n}" for n in range(10)))
        memory = journal.last_known(SCOPE)
fill()
with ballast.open("rb+") as file:
    file.truncate(ballast.stat().st_size - path.stat().st_size - 64 * 1024)
with Journal.open(path) as journal:
    assert journal.prune(2**62).runs == 20
    assert journal.last_known(SCOPE) == memory
    assert journal.verify().ok
""",
    )


def test_a_read_only_file_system_can_be_read_and_refuses_the_rest(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
with Journal.open(path) as journal:
    add(journal, "a")
mount("-o", "remount,ro")
refused(lambda: Journal.open(path), "Read-only file system")
assert set(JournalReader(path).last_known(SCOPE).topology.links) == {"a"}
assert JournalReader(path).verify().ok
mount("-o", "remount,rw")
with Journal.open(path) as journal:
    add(journal, "b")
    assert journal.verify().ok
""",
    )


def test_what_a_crash_left_on_a_read_only_file_system_is_not_passed_over(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
child = '''
import os, sys
from tests.unit.test_journal_store import *
add(Journal.open(sys.argv[1]), "a")
os._exit(0)
'''
subprocess.run([sys.executable, "-c", child, str(path)], check=True)
assert path.with_name("journal.db-wal").stat().st_size
mount("-o", "remount,ro")
assert set(JournalReader(path).last_known(SCOPE).topology.links) == {"a"}
mount("-o", "remount,rw")
path.with_name("journal.db-shm").unlink()
mount("-o", "remount,ro")
refused(lambda: JournalReader(path).last_known(SCOPE), "read-only")
""",
    )
