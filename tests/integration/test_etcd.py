"""etcd as the source of the peers list: what a read gives, and how it fails.

The members are three of Debian's. How changes are told is in test_etcd_follow.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rait.adapters.config import source
from rait.adapters.config.etcd import client
from rait.domain.errors import SourceError
from tests.integration import machine
from tests.integration.etcd import Cluster, RefusedError, cluster, doors, free_port
from tests.integration.following import following
from tests.integration.tls import Authority
from tests.integration.watching import until

pytestmark = pytest.mark.userspace

PREFIX = "/rait/peers"
KEYS = sorted(machine.genkey()[1] for _ in range(3))


def entry(key: str, port: int = 1) -> str:
    return json.dumps({"public_key": key, "send_port": port})


def put(etcd: Cluster, *keys: str) -> None:
    for key in keys:
        etcd.put(f"{PREFIX}/{key}", entry(key))


def read(url: str) -> list[str]:
    """The public keys in a list."""
    return [each["public_key"] for each in json.loads(source.read(url))["peers"]]


def problem(url: str) -> str:
    """Why a list cannot be read."""
    with pytest.raises(SourceError) as caught:
        source.read(url)
    text = str(caught.value)
    name = source.display_name(url)
    assert text.startswith(f"{name}: ")
    return text.removeprefix(f"{name}: ")


def test_what_is_under_the_prefix_is_the_list(etcd: Cluster) -> None:
    put(etcd, *KEYS)
    etcd.put(f"{PREFIX}-other/{KEYS[0]}", entry(KEYS[0], 2))
    assert read(etcd.url(PREFIX)) == KEYS


def test_nothing_under_the_prefix_is_no_list(etcd: Cluster) -> None:
    put(etcd, *KEYS)
    assert "there is no key under this prefix" in problem(etcd.url("/rait/peer"))


def test_a_member_that_is_gone_is_passed_over(etcd: Cluster) -> None:
    put(etcd, *KEYS)
    etcd.members[0].kill()
    nobody = f"127.0.0.1:{free_port()},no-such-host.invalid,{etcd.hosts}"
    assert read(etcd.url(PREFIX)) == read(etcd.url(PREFIX, nobody)) == KEYS


def test_a_member_that_is_paused_is_passed_over(etcd: Cluster) -> None:
    put(etcd, *KEYS)
    etcd.leader.pause()
    assert read(etcd.url(PREFIX)) == KEYS


def test_a_minority_of_members_gives_no_list(etcd: Cluster, monkeypatch) -> None:
    put(etcd, *KEYS)
    for member in etcd.members[:2]:
        member.kill()
    monkeypatch.setattr(client, "MEMBER_SECONDS", 1.0)
    why = problem(etcd.url(PREFIX))
    assert "Connection refused" in why
    assert "a member answers only while most of the cluster is there" in why


def test_a_member_by_its_name_and_in_ipv6(etcd: Cluster) -> None:
    put(etcd, *KEYS)
    assert read(etcd.url(PREFIX, f"localhost:{etcd.members[0].port}")) == KEYS
    with doors(etcd, host="::1") as ways:
        assert "[::1]:" in ways.hosts
        assert read(etcd.url(PREFIX, ways.hosts)) == KEYS


def test_no_proxy_of_the_environment_is_asked(etcd: Cluster, monkeypatch) -> None:
    put(etcd, *KEYS)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert read(etcd.url(PREFIX)) == KEYS


def test_one_wrong_value_costs_its_node_alone(etcd: Cluster) -> None:
    put(etcd, *KEYS[:2])
    etcd.put(f"{PREFIX}/{KEYS[2]}", b"\xff\0")
    etcd.put(f"{PREFIX}/{KEYS[1]}/more", entry(KEYS[1]))
    peers = json.loads(source.read(etcd.url(PREFIX)))["peers"]
    assert [each.get("public_key") for each in peers] == [*KEYS[:2], None, KEYS[2]]
    assert "not text in UTF-8" in peers[3]["unreadable"]


def fill(etcd: Cluster) -> None:
    for number in range(100):
        etcd.put("/fill", f"{number}" * 20_000)


def test_a_full_disk_ends_writes_but_no_reads() -> None:
    with cluster(size=1, quota=200_000) as etcd:
        put(etcd, *KEYS)
        with pytest.raises(RefusedError, match="database space exceeded"):
            fill(etcd)
        url = etcd.url(PREFIX)
        assert read(url) == KEYS
        with following([url]) as (follower,):
            follower.has(lambda found: set(found) == set(KEYS))
            etcd.delete(f"{PREFIX}/{KEYS[0]}")
            follower.has(lambda found: set(found) == set(KEYS[1:]))
            assert not follower.errors


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def sealed(authority: Authority) -> Iterator[Cluster]:
    """A member that speaks TLS, and has an entry."""
    with cluster(size=1, authority=authority) as etcd:
        put(etcd, KEYS[0])
        yield etcd


def test_tls(sealed: Cluster, authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.certificate("node")
    ours = {"cert": cert, "key": key}
    assert read(sealed.url(PREFIX, ca=authority.path, **ours)) == KEYS[:1]
    name = f"localhost:{sealed.members[0].port}"
    assert read(sealed.url(PREFIX, name, ca=authority.path, **ours)) == KEYS[:1]

    other = Authority(tmp_path, "other")
    not_trusted = "its certificate is not trusted: unable to get local issuer certificate"
    assert not_trusted in problem(sealed.url(PREFIX, **ours))
    assert not_trusted in problem(sealed.url(PREFIX, ca=other.path, **ours))
    plain = sealed.url(PREFIX).replace("etcds:", "etcd:")
    assert "a member that speaks TLS wants etcds://" in problem(plain)
    theirs = dict(zip(("cert", "key"), other.certificate("node"), strict=True))
    for what in ({}, theirs):
        why = problem(sealed.url(PREFIX, ca=authority.path, **what))
        assert "look at cert and key" in why or "and maybe cert and key" in why


def test_tls_of_another_name(authority: Authority) -> None:
    wrong = Authority(authority.path.parent / "wrong")
    wrong.certificate("server", "192.0.2.1")
    with cluster(size=1, authority=wrong) as etcd:
        cert, key = wrong.certificate("node")
        why = problem(etcd.url(PREFIX, ca=wrong.path, cert=cert, key=key))
    assert "certificate is not valid for '127.0.0.1'" in why


def test_tls_to_a_member_without(etcd: Cluster) -> None:
    assert "any other wants etcd://" in problem(etcd.url(PREFIX).replace("etcd:", "etcds:"))


def copied(sources: tuple[Path, ...], places: tuple[Path, ...]) -> None:
    for path, place in zip(sources, places, strict=True):
        place.write_bytes(path.read_bytes())


def test_following_takes_renewed_certificates(tmp_path: Path, monkeypatch) -> None:
    """A member with all new certificates is followed on, once the files of the URL are new too."""
    monkeypatch.setattr("rait.domain.follower.PATIENCE", machine.PATIENCE)
    old, new = (Authority(tmp_path / name) for name in ("old", "new"))
    mine = tmp_path / "ca", tmp_path / "cert", tmp_path / "key"
    copied((old.path, *old.certificate("node")), mine)
    with cluster(size=1, authority=old) as etcd:
        put(etcd, KEYS[0])
        url = etcd.url(PREFIX, **dict(zip(("ca", "cert", "key"), mine, strict=True)))
        with following([url]) as (follower,):
            follower.has(lambda found: KEYS[0] in found)
            etcd.members[0].end()
            copied((new.path, *new.certificate("node")), mine)
            copied((new.path,), (old.path,))
            copied(new.certificate("server", "127.0.0.1"), old.certificate("server"))
            copied(new.certificate("admin"), old.certificate("admin"))
            etcd.heal()
            put(etcd, KEYS[1])
            follower.has(lambda found: KEYS[1] in found)
            assert not follower.errors


@pytest.fixture
def guarded() -> Iterator[Cluster]:
    """Three members with users: "node" may read the entries, "other" may not."""
    with cluster() as etcd:
        put(etcd, KEYS[0])
        etcd.enable_auth()
        etcd.add_user("node", "secret", read=f"{PREFIX}/")
        etcd.add_user("other", "secret", read="/other/")
        yield etcd


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def test_users(guarded: Cluster, password: Path, tmp_path: Path) -> None:
    assert read(guarded.url(PREFIX, user="node", password_file=password)) == KEYS[:1]
    assert "etcd wants a user" in problem(guarded.url(PREFIX))
    other = guarded.url(PREFIX, user="other", password_file=password)
    assert "the role of the user does not allow it" in problem(other)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong-secret\n")
    why = problem(guarded.url(PREFIX, user="node", password_file=wrong))
    assert "look at the user and at the password_file" in why
    assert "wrong-secret" not in why


def test_a_user_of_a_cluster_without_users(etcd: Cluster, password: Path) -> None:
    put(etcd, KEYS[0])
    why = problem(etcd.url(PREFIX, user="node", password_file=password))
    assert "run `etcdctl auth enable`" in why


def test_following_by_a_user_whose_rights_and_password_change(
    guarded: Cluster, password: Path, monkeypatch
) -> None:
    monkeypatch.setattr("rait.adapters.config.etcd.registry.HEARTBEAT", 0.5)
    with following([guarded.url(PREFIX, user="node", password_file=password)]) as (follower,):
        follower.has(lambda found: KEYS[0] in found)
        # The token of before is of no use any more, which no follower shows.
        guarded.allow("node", "read", "/more/")
        guarded.call("/v3/auth/user/changepw", {"name": "node", "password": "new"})
        password.write_text("new")
        guarded.log_in()
        put(guarded, KEYS[1])
        follower.has(lambda found: KEYS[1] in found)
        seen = len(follower.told)
        until(lambda: len(follower.told) > seen + 1, lambda: follower.errors)
        assert not follower.errors
        # Taken its right, it hears nothing more, and says so.
        guarded.call("/v3/auth/user/revoke", {"name": "node", "role": "node"})
        follower.says("permission denied")
        guarded.call("/v3/auth/user/grant", {"user": "node", "role": "node"})
        put(guarded, KEYS[2])
        follower.has(lambda found: KEYS[2] in found)


def test_following_while_users_come_and_go(etcd: Cluster, monkeypatch) -> None:
    monkeypatch.setattr("rait.adapters.config.etcd.registry.HEARTBEAT", 0.5)
    put(etcd, KEYS[0])
    with following([etcd.url(PREFIX)]) as (follower,):
        follower.has(lambda found: KEYS[0] in found)
        etcd.enable_auth()
        try:
            follower.says("etcd wants a user")
        finally:
            etcd.disable_auth()
        put(etcd, KEYS[1])
        follower.has(lambda found: KEYS[1] in found)


def test_a_token_that_expires_is_renewed(password: Path, monkeypatch) -> None:
    monkeypatch.setattr("rait.adapters.config.etcd.registry.HEARTBEAT", 3.0)
    with cluster(size=1, options=["--auth-token-ttl", "1"]) as etcd:
        put(etcd, KEYS[0])
        etcd.enable_auth()
        etcd.add_user("node", "secret", read=f"{PREFIX}/")
        with following([etcd.url(PREFIX, user="node", password_file=password)]) as (follower,):
            until(lambda: len(follower.told) > 2, lambda: follower.errors)
        assert not follower.errors


def test_an_entry_whose_lease_ends_by_itself_is_gone(etcd: Cluster) -> None:
    put(etcd, KEYS[0])
    with following([etcd.url(PREFIX)]) as (follower,):
        follower.has(lambda found: list(found) == [KEYS[0]])
        etcd.put_for(10, f"{PREFIX}/{KEYS[1]}", entry(KEYS[1]))
        until(lambda: any(KEYS[1] in (news.text or "") for news in follower.told))
        follower.has(lambda found: list(found) == [KEYS[0]])
