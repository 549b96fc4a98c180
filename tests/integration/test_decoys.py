"""Other users' processes and interfaces neither stop rait nor pass for its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rait.adapters.netlink import rtnl
from rait.adapters.netns import open_netns
from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.strangers import link_of, links_of, strangers, sync, write_peers

pytestmark = pytest.mark.userspace

A, B = strangers(1, 2)
NO_TEXT = b"\xff\xfe\x80"
ROOT, NOBODY = 0, 65534

# TUNSETIFF with IFF_TUN | IFF_NO_PI (linux/if_tun.h), and then a user like any other, who may still
# hold the tun; or, without a name, a file whose path is longer than the kernel tells (PAGE_SIZE).
DECOY = """
import fcntl, os, struct, sys, time
name, user = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
if name:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name, 0x1001))
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
if not name:
    for _ in range(25):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    deep = os.open("deep", os.O_CREAT | os.O_RDWR)
print("ready", flush=True)
time.sleep(600)
"""

Decoy = Callable[[bytes, int], "subprocess.Popen[str]"]


@pytest.fixture
def decoy(tmp_path: Path) -> Iterator[Decoy]:
    """A function that has another user's process hold a tun in a namespace of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(name: bytes, user: int) -> subprocess.Popen[str]:
        directory = tmp_path / f"decoy{len(started)}"
        directory.mkdir()
        os.chown(directory, user, user)
        words = ["unshare", "--net", sys.executable, "-S", "-c", DECOY, name.hex(), str(user)]
        process = subprocess.Popen(words, text=True, stdout=subprocess.PIPE, cwd=directory)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def node(make_mesh: MakeMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node whose programs go to the background, so that rait has to look for them in /proc."""
    wrapper = tmp_path / "daemon"
    wrapper.write_text('#!/bin/sh\nunset WG_PROCESS_FOREGROUND; wireguard-go "$1"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("WG_USERSPACE_IMPLEMENTATION", str(wrapper))
    return make_mesh(1).nodes[0]


@pytest.mark.parametrize("name", [b"", NO_TEXT, b"tun\xc2\x85\xe2\x80\xa8"])
def test_what_another_user_holds_stops_no_run(node: Node, decoy: Decoy, name: bytes) -> None:
    decoy(name, NOBODY)
    sync(node, A, B)
    assert set(node.listed()) == links_of(node, A, B)
    assert node.rait("up", "--json").json["status"] == "unchanged"
    node.down()
    assert node.leftovers() == []


@pytest.mark.parametrize("user", [ROOT, NOBODY])
def test_a_decoy_is_not_taken_for_a_links_program(node: Node, decoy: Decoy, user: int) -> None:
    name = link_of(node, A)
    process = decoy(name.encode(), user)
    sync(node, A)
    assert set(node.listed()) == {name}
    assert node.rait("up", "--json").json["status"] == "unchanged"
    sync(node, A, B)
    node.down()
    assert node.leftovers() == []
    assert process.poll() is None, "it was hit in the place of the program"


def names_in(netns: str) -> set[str]:
    with open_netns(netns) as ns:
        return set(rtnl.interfaces(ns)) - {"lo"}


def test_an_interface_whose_name_is_no_text_is_one_like_any_other(node: Node) -> None:
    sync(node, A)
    tun = [b"tuntap", b"add", b"mode", b"tun", b"dev"]
    for words in ([b"link", b"add", NO_TEXT, b"type", b"bridge"], [*tun, b"t" + NO_TEXT]):
        machine.run(["ip", *map(os.fsdecode, words)], node.target)
    machine.run(["ip", "link", "set", os.fsdecode(b"t" + NO_TEXT), "group", "54"], node.target)
    foreign = {r"\xff\xfe\x80", r"t\xff\xfe\x80"}
    assert names_in(node.target) == {link_of(node, A)} | foreign

    assert set(node.listed()) == links_of(node, A)
    sync(node, A, B)
    assert node.rait("plan", "--json").json["status"] == "unchanged"
    exported = node.rait("export-state")
    assert foreign <= json.loads(exported.out)["observation"]["others"].keys()
    state = node.directory / "state.json"
    state.write_text(exported.out)
    assert node.rait("plan", "--against", str(state), "--json").json["status"] == "unchanged"
    node.down()
    assert names_in(node.target) == foreign


@pytest.fixture
def odd(node: Node) -> str:
    """A WireGuard link of our group whose name is no text, made by hand, as rait names it."""
    name = node.tag.encode() + NO_TEXT
    sync(node, A)
    machine.run(["wireguard-go", os.fsdecode(name)], node.target)
    machine.run(["ip", "link", "set", os.fsdecode(name), "group", "54"], node.target)
    words = ["set", os.fsdecode(name), "private-key", "/dev/stdin"]
    machine.wg(*words, netns=node.target, stdin=node.private_key)
    return node.tag + r"\xff\xfe\x80"


def test_a_link_whose_name_is_no_text_is_seen_removed_and_journaled(node: Node, odd: str) -> None:
    assert set(node.listed()) == {link_of(node, A), odd}
    assert odd in node.rait("list").out
    write_peers(node, A)
    removed = node.up("--json", "--yes").json
    assert [event["type"] for event in removed["events"]] == ["LinkRemoved"]
    assert names_in(node.target) == links_of(node, A)
    assert f"- {odd}" in node.rait("log").out

    back = node.rait("rollback")
    assert back.status == 0, back
    assert names_in(node.target) == {link_of(node, A), odd}
    node.rait("down")
    assert names_in(node.target) == set()
