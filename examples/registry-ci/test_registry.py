"""What a change of peers.toml has to keep. The variable OLD names the file with the former list."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from rait import testing

MAY_BE_INTERRUPTED: tuple[str, ...] = ()
"""The names of nodes whose users know that tunnels will be interrupted; () again afterwards."""


def fleet(path: str) -> testing.Fleet:
    """The nodes of a list. Each is taken to have a rait.conf that fits its entry."""
    return testing.fleet_of(testing.peers_of(tomllib.loads(Path(path).read_text())))


@pytest.fixture
def new() -> testing.Fleet:
    return fleet("peers.toml")


@pytest.fixture
def old() -> testing.Fleet:
    return fleet(os.environ.get("OLD", "peers.toml"))


def test_the_nodes_can_have_all_their_tunnels(new: testing.Fleet) -> None:
    testing.ports_are_free(new)
    testing.every_pair_agrees(new)


def test_nothing_is_interrupted_that_works(old: testing.Fleet, new: testing.Fleet) -> None:
    testing.rollout_interrupts_none_but(old, new, *MAY_BE_INTERRUPTED)


def test_each_node_will_take_the_change(old: testing.Fleet, new: testing.Fleet) -> None:
    testing.no_guard_stops(old, new, *MAY_BE_INTERRUPTED)
