"""``rait explain`` as its user sees it."""

from __future__ import annotations

import pytest

from tests.unit.command_line import PEERS, Rait
from tests.unit.played import CONF, Played


def test_a_name_is_explained_with_the_addresses_that_it_has(
    rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rait.adapters.config.resolve._look_up", lambda _: (("192.0.2.7", "192.0.2.8"), "")
    )
    (key, address), (other, _), *_ = PEERS.values()
    rait.write(CONF, {50221: (key, address), 50223: (other, "gate.example")})
    assert f"ip4 {address}, SendPort 50221: link rait4x50221" in rait("explain", key).out
    said = rait("explain", "rait4x50223").out
    assert "gate.example (which is 192.0.2.7, 192.0.2.8), SendPort 50223" in said
    assert kernel.names == []


def test_a_link_is_explained_with_what_others_did_and_what_would_be_done(
    rait: Rait, kernel: Played
) -> None:
    rait("up")
    kernel.change_settings("rait4x50223", mtu=1280)
    said = rait("explain", "rait4x50223").out
    assert "~ rait4x50223 mtu 1420 -> 1280" in said
    assert "~ rait4x50223 mtu 1280 -> 1420" in said
    assert "1280" not in rait("explain", "rait4x50221").out
    assert rait("explain", "nobody").status == 2
