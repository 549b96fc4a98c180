"""Peers without a machine behind them, for tests that look only at a node's links to them."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import NamedTuple

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.harness import Node


class Stranger(NamedTuple):
    """A peer that never answers; its addresses are for documentation only (RFC 5737)."""

    number: int
    host: str = "198.51.100"

    @property
    def public_key(self) -> str:
        return b64encode(bytes([self.number]) * 32).decode()

    @property
    def send_port(self) -> int:
        return 52000 + self.number

    @property
    def address(self) -> str:
        return f"{self.host}.{self.number}"

    @property
    def entry(self) -> str:
        return (
            f'[[Peers]]\nPublicKey = "{self.public_key}"\nSendPort = {self.send_port}\n'
            f'Endpoint = "{self.address}"\nAddressFamily = "ip4"\n'
        )

    def moved(self) -> Stranger:
        """This peer at another address."""
        return Stranger(self.number, "203.0.113")


def strangers(*numbers: int) -> list[Stranger]:
    return [Stranger(number) for number in numbers]


def link_of(node: Node, peer: Stranger) -> str:
    return f"{node.tag}4{peer.send_port}"


def links_of(node: Node, *peers: Stranger) -> set[str]:
    return {link_of(node, peer) for peer in peers}


def write_peers(node: Node, *peers: Stranger) -> None:
    node.write_peers([peer.entry for peer in peers] or ["peers = []"])


def sync(node: Node, *peers: Stranger) -> int:
    """Make these peers the whole list, bring the links up, and give the number of the run."""
    write_peers(node, *peers)
    result = node.up("--json", "--yes")
    assert result.json["run"], result
    return result.json["run"]


def once_it_is_gone(node: Node, *arguments: str) -> Result:
    """Run rait when the namespace that links were in is to go by itself, until that is gone.

    A busy kernel takes its time to destroy a namespace. rait waits for that, but not for long.
    """
    deadline = time.monotonic() + machine.PATIENCE
    while (result := node.rait(*arguments)).status != 0:
        assert "rait did not find the former one" in result.err, result
        assert time.monotonic() < deadline, result
    return result


def endpoint_of(node: Node, peer: Stranger) -> str:
    return node.state()[link_of(node, peer)].endpoint


def mtu_of(node: Node, peer: Stranger) -> int:
    return node.interfaces()[link_of(node, peer)]["mtu"]


def set_mtu(node: Node, peer: Stranger, mtu: int) -> None:
    """Set the mtu of a link by ip(8), as somebody may do by hand."""
    machine.ip_batch([f"link set {link_of(node, peer)} mtu {mtu}"], node.target)
