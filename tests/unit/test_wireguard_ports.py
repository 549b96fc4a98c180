"""Listen ports that are kept while programs start."""

from __future__ import annotations

import errno
import os
import random
import socket
from contextlib import closing
from itertools import islice

import pytest

from rait.adapters.netns import open_netns
from rait.adapters.wireguard.ports import KeptPorts

ANY = {socket.AF_INET: "", socket.AF_INET6: "::"}
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def bound(family: socket.AddressFamily, port: int) -> socket.socket:
    held = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind((ANY[family], port))
    except OSError:
        held.close()
        raise
    return held


def free_ports() -> tuple[int, int]:
    """Two ports of those that the kernel gives nobody who wants any."""
    some = random.sample(range(20000, 32768), 100)
    one, two = islice(filter(is_free, some), 2)
    return one, two


def is_free(port: int) -> bool:
    """Whether a program gets the port, for both families."""
    errors = set()
    for family in FAMILIES:
        try:
            bound(family, port).close()
        except OSError as error:
            errors.add(error.errno)
    assert errors <= {errno.EADDRINUSE}
    return not errors


def test_a_port_is_kept_until_it_is_let_go() -> None:
    one, two = free_ports()
    with open_netns("") as here, KeptPorts(here, (one, two, 0)) as kept:
        assert not is_free(one)
        kept.let_go(one)
        assert is_free(one)
        assert not is_free(two)
        kept.let_go(one)
    assert is_free(two)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_of_a_kept_port_is_free(family: socket.AddressFamily) -> None:
    port, _ = free_ports()
    with open_netns("") as here, KeptPorts(here, [port]), pytest.raises(OSError, match="in use"):
        bound(family, port)


def test_a_port_that_is_taken_is_passed_over() -> None:
    one, two = free_ports()
    with closing(bound(socket.AF_INET, one)), open_netns("") as here:
        with KeptPorts(here, (one, two)) as kept:
            assert not is_free(two)
            kept.let_go(one)
            assert not is_free(one)
        assert not is_free(one)


def test_programs_are_left_most_of_the_files_that_may_be_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = free_ports()
    monkeypatch.setattr(os, "sysconf", {"SC_OPEN_MAX": 15}.__getitem__)
    with open_netns("") as here, KeptPorts(here, (one, two)):
        assert (is_free(one), is_free(two)) == (False, True)


def test_where_any_number_of_files_may_be_open_all_ports_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = free_ports()
    monkeypatch.setattr(os, "sysconf", {"SC_OPEN_MAX": -1}.__getitem__)  # sysconf(3): no limit
    with open_netns("") as here, KeptPorts(here, (one, two)):
        assert (is_free(one), is_free(two)) == (False, False)
