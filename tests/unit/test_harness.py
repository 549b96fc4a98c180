"""Which sessions the tests with real tunnels take for the same."""

from __future__ import annotations

from tests.integration.harness import Handshake


def test_a_session_is_the_same_after_another_handshake_but_not_once_its_peer_was_touched() -> None:
    was = Handshake.of("1000", "500", "600")
    assert Handshake.of("1000", "500", "600") == was
    assert Handshake.of("1120", "592", "748") == was, "it was done anew"
    assert was == Handshake.of("1120", "592", "748")
    for touched in (Handshake.of("0", "0", "148"), Handshake.of("1005", "92", "148")):
        assert touched != was, "the peer was removed and added"
        assert was != touched
    none = Handshake.of("0", "0", "148")
    assert Handshake.of("1000", "92", "180") == none, "the first one"
