"""Who looks after a rait.conf, and who is kept from undoing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rait.app import watched
from rait.app.watched import Claim, require_unwatched
from rait.domain.errors import MachineError
from tests.unit.command_line import Rait
from tests.unit.played import ALL, Played


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(watched, "_SECONDS", 0.0)
    path = tmp_path / "rait.conf"
    path.write_text("")
    return str(path)


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


def test_a_rait_conf_has_one_watch_by_whichever_path(conf: str, journal: str) -> None:
    link = f"{conf}.link"
    Path(link).symlink_to(conf)
    with Claim(conf) as claim:
        claim.extend(journal)
        claim.extend(journal)
        for path in (conf, link):
            with (
                Claim(path) as another,
                pytest.raises(MachineError, match="is looked after already"),
            ):
                another.extend(journal)
        with Claim(f"{conf}2") as another:
            another.extend(journal)
        with Claim(conf) as another:
            another.extend(f"{journal}2")
    with Claim(link) as claim:
        claim.extend(journal)


def test_a_claim_whose_file_was_removed_is_made_anew(conf: str, journal: str) -> None:
    with Claim(conf) as claim:
        claim.extend(journal)
        (lock,) = Path(conf).parent.glob("journal.db.watch-*")
        lock.unlink()
        require_unwatched(conf, journal, "rait down")
        claim.extend(journal)
        with pytest.raises(MachineError, match="would undo `rait down` at once"):
            require_unwatched(conf, journal, "rait down")


def test_links_that_a_watch_would_make_again_are_not_removed(rait: Rait, kernel: Played) -> None:
    rait("up")
    with Claim(str(rait.conf)) as claim:
        claim.extend(str(rait.journal))
        said = rait("down")
        assert (said.status, kernel.names) == (1, ALL)
        assert f"looks after {rait.conf}, and would undo `rait down` at once" in said.err
        assert rait("rollback").status == 1
        assert rait("up").status == 0
    assert rait("down").status == 0
    assert kernel.names == []


def test_a_rait_conf_without_a_path_has_no_watch(journal: str) -> None:
    require_unwatched("-", journal, "rait down")
    require_unwatched("https://example.org/rait.conf", journal, "rait down")
