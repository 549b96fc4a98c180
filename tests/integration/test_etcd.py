"""etcd as the source of the peers list, against three members of Debian's."""

from __future__ import annotations

import json

import pytest

from rait.adapters.config import source
from tests.integration import machine
from tests.integration.etcd import Cluster

pytestmark = pytest.mark.userspace

PREFIX = "/rait/peers"


def entry(key: str, port: int = 1) -> str:
    return json.dumps({"public_key": key, "port": port})


def test_what_is_under_the_prefix_is_the_list(etcd: Cluster) -> None:
    keys = sorted(machine.genkey()[1] for _ in range(3))
    for key in keys:
        etcd.put(f"{PREFIX}/{key}", entry(key))
    etcd.put(f"{PREFIX}-other/{keys[0]}", entry(keys[0], 2))
    found = json.loads(source.read(etcd.url(PREFIX)))["peers"]
    assert [each["public_key"] for each in found] == keys
