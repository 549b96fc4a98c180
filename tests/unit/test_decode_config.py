"""What a person may write in rait.conf, and what is said of what they may not."""

from __future__ import annotations

from typing import Any

import pytest

from rait.domain.config.decode_config import decode_config
from rait.domain.config.schema import MAX_MTU, SECOND, Babeld, Config, Isolation, Secret, Watch
from rait.domain.errors import Problem

KEY = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="


def transport(**changes: Any) -> dict[str, Any]:
    base = {"address_family": "ip4", "send_port": 50153, "mtu": 1420, "ifprefix": "rait4x"}
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def document(**changes: Any) -> dict[str, Any]:
    base = {"private_key": KEY, "transport": [transport()]}
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def decoded(**changes: Any) -> Config:
    """What is right in every way: nothing is said about it."""
    config, problems = decode_config(document(**changes))
    assert config is not None, problems
    assert problems == ()
    return config


def errors(**changes: Any) -> list[Problem]:
    config, problems = decode_config(document(**changes))
    found = [problem for problem in problems if problem.severity == "error"]
    assert (config is None) == bool(found)
    return found


def error(**changes: Any) -> Problem:
    (found,) = errors(**changes)
    return found


def transport_error(**changes: Any) -> Problem:
    return error(transport=[transport(**changes)])


def test_defaults_are_those_of_the_manual():
    config = decoded()
    assert config.peers == "/etc/rait/peers.conf"
    assert config.isolation == Isolation(type="netns", ifgroup=54, transit="", target="")
    assert config.babeld == Babeld()
    assert (config.babeld.socket_type, config.babeld.extra_cmd) == ("unix", "")
    assert config.babeld.sync is False
    assert config.babeld.socket_addr == "/run/babeld.ctl"
    assert config.babeld.param == (
        "type tunnel link-quality true split-horizon false rxcost 32 "
        "hello-interval 20 max-rtt-penalty 1024 rtt-max 1024"
    )
    assert (config.backend, config.journal) == ("auto", "/var/lib/rait/journal.db")
    assert (config.max_removals, config.max_links, config.command_timeout) == (None, 4096, 10)
    minute = 60 * 10**9
    assert config.watch == Watch(
        poll=minute, names=minute, look=minute, publish=False, lease=minute
    )
    (only,) = config.transports
    assert (only.fwmark, only.keepalive, only.dynamic_port) == (0, 0, False)
    assert (only.address, only.bind_addr) == (None, None)


def test_everything_that_can_be_said():
    config = decoded(
        private_key=...,
        private_key_file="key",
        transport=[
            transport(fwmark=54, dynamic_port=True, address="192.0.2.1"),
            transport(address_family="ip6", send_port=50154, ifprefix="rait6x"),
        ],
        isolation=[
            {"type": "vrf", "ifgroup": 7, "transit": "", "target": "mesh", "table": 100},
        ],
        babeld=[
            {
                "socket_type": "tcp",
                "socket_addr": "[::1]:33123",
                "param": "type wired",
                "extra_cmd": "redistribute local deny\nredistribute ip 192.0.2.0/24 allow\n",
                "sync": True,
            }
        ],
        peers="https://example.org/peers",
        name="a node",
        remarks=[{"where": "attic"}],
        backend="userspace",
        journal="/var/lib/x.db",
        max_removals=3,
    )
    assert config.private_key_file == "key"
    assert config.transports[0].fwmark == 54
    assert config.transports[1].address_family == "ip6"
    assert config.isolation == Isolation(type="vrf", ifgroup=7, target="mesh", table=100)
    assert config.babeld.socket_addr == "[::1]:33123"
    assert config.babeld.extra_cmd.count("\n") == 2
    assert config.remarks == {"where": "attic"}
    assert (config.backend, config.max_removals, config.name) == ("userspace", 3, "a node")


def test_keys_match_without_case_and_underscores():
    spelt = {"AddressFamily": "ip4", "SENDPORT": 1, "Mtu": 1420, "if_prefix": "r"}
    config = decoded(private_key=..., PrivateKey=KEY, transport=..., Transport=spelt)
    assert config.private_key == Secret(KEY)
    assert config.transports[0].send_port == 1


def test_a_key_in_two_spellings_is_an_error():
    found = error(PrivateKey=KEY)
    assert found.path == ("PrivateKey",)
    assert "given twice" in found.message


@pytest.mark.parametrize("name", ["transport", "transports"])
@pytest.mark.parametrize("many", [False, True])
def test_transports_are_one_block_or_several(name, many):
    value = [transport()] if many else transport()
    assert len(decoded(**{"transport": ..., name: value}).transports) == 1


def test_random_port_is_dynamic_port():
    assert decoded(transport=[transport(random_port=True)]).transports[0].dynamic_port
    both = [transport(random_port=True, dynamic_port=True)]
    assert decoded(transport=both).transports[0].dynamic_port
    found = transport_error(random_port=True, dynamic_port=False)
    assert 'contradicts "random_port"' in found.message


@pytest.mark.parametrize("absent", [..., []])
def test_no_transport_is_an_error(absent):
    assert "no transport" in error(transport=absent).message


@pytest.mark.parametrize("key", ["address_family", "send_port", "mtu", "ifprefix"])
def test_what_a_transport_needs(key):
    found = transport_error(**{key: ...})
    assert found.path == ("transport", 0)
    assert found.message.startswith(f"{key} is missing")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("send_port", 0, "a port from 1 to 65535 (to which this node sends), not 0"),
        ("send_port", 65536, "not 65536"),
        ("send_port", "50153", "leave out the quotes"),
        (
            "send_port",
            True,
            "must be a port from 1 to 65535 (to which this node sends), not true",
        ),
        ("send_port", 1.0, "not 1.0"),
        ("send_port", 10**4000, "a huge number"),
        ("mtu", 1279, "babeld needs IPv6"),
        ("mtu", MAX_MTU + 1, "to 65455 "),
        ("address_family", "ip5", 'must be ip4 or ip6, not "ip5"'),
        ("address_family", 4, "must be ip4 or ip6, not 4"),
        ("ifprefix", "", "must not be empty"),
        ("ifprefix", "a/b", "cannot name an interface"),
        ("ifprefix", "a b", "cannot name an interface"),
        ("ifprefix", "a:b", "cannot name an interface"),
        ("ifprefix", "..", "cannot name an interface"),
        ("ifprefix", "h1%d", "no '%'"),
        ("ifprefix", "a\0b", "control character"),
        ("ifprefix", "eleven-byte", "longer than 10 bytes"),
        ("ifprefix", "sixteen-bytes-xy", "longer than 15 bytes"),
        ("ifprefix", 7, "must be text in quotes"),
        ("fwmark", -1, 'must be a mark from 0 to 4294967295, or "off", not -1'),
        ("fwmark", 2**32, "must be a mark"),
        ("fwmark", "0x100000000", "must be a mark"),
        ("fwmark", "4294967296", "must be a mark"),
        ("fwmark", "mark", "must be a mark"),
        ("fwmark", True, "not true"),
        ("dynamic_port", "true", "leave out the quotes"),
        ("dynamic_port", 1, "must be true or false"),
        ("address", "2001:db8::1", "not an address of family ip4"),
        ("address", "no host", "neither an IP address nor a host name"),
        ("bind_addr", "example.org", "must be an IP address"),
    ],
)
def test_a_wrong_value_in_a_transport(key, value, says):
    found = transport_error(**{key: value})
    assert found.path == ("transport", 0, key)
    assert says in found.message


@pytest.mark.parametrize("prefix", ["a", "rait4x", "ten-bytes-"])
def test_prefixes_that_leave_room_for_a_port(prefix):
    assert decoded(transport=[transport(ifprefix=prefix)]).transports[0].ifprefix == prefix


def test_prefixes_are_measured_in_bytes():
    assert "bytes" in transport_error(ifprefix="ä" * 8).message


@pytest.mark.parametrize(
    ("given", "mark"),
    [(0, 0), (54, 54), ("54", 54), ("0x36", 54), ("off", 0), (2**32 - 1, 2**32 - 1)],
)
def test_fwmark_as_wg_takes_it(given, mark):
    assert decoded(transport=[transport(fwmark=given)]).transports[0].fwmark == mark


def test_keepalive_as_wg_takes_it():
    given = [decoded(transport=[transport(keepalive=each)]).transports[0] for each in ("off", 25)]
    assert [each.keepalive for each in given] == [0, 25]


def test_transports_must_differ_in_prefix():
    found = error(transport=[transport(), transport(address_family="ip6", send_port=1)])
    assert found.path == ("transport", 1, "ifprefix")


def test_transports_of_a_family_must_differ_in_port():
    found = error(transport=[transport(), transport(ifprefix="other")])
    assert found.path == ("transport", 1, "send_port")
    families = [transport(), transport(ifprefix="other", address_family="ip6")]
    assert errors(transport=families) == []
    families[1]["send_port"] = 50154
    assert len(decoded(transport=families).transports) == 2


def test_bind_addr_is_taken_with_a_warning():
    config, problems = decode_config(document(transport=[transport(bind_addr="192.0.2.1")]))
    assert config is not None
    assert config.transports[0].bind_addr == "192.0.2.1"
    (warning,) = problems
    assert (warning.severity, warning.path) == ("warning", ("transport", 0, "bind_addr"))
    assert "no effect" in warning.message


@pytest.mark.parametrize(
    ("spelt", "near"),
    [("privatkey", "private_key"), ("transprot", "transport"), ("babel", "babeld")],
)
def test_an_unknown_key_is_met_with_the_nearest_known(spelt, near):
    found = error(**{spelt: 1})
    assert found.path == (spelt,)
    assert found.message == f"unknown key; did you mean {near}?"


@pytest.mark.parametrize("spelt", ["color", "x", "wireguard", "keepalive", "dns", "q" * 500])
def test_an_unknown_key_that_is_like_none_gets_no_hint(spelt):
    assert error(**{spelt: 1}).message == "unknown key"


def test_after_a_hundred_mistakes_nobody_is_told_the_nearest_key():
    found = errors(**{f"private_ke{number}": 1 for number in range(150)})
    assert len(found) == 150
    assert [" did you mean " in problem.message for problem in found].count(True) == 100


def test_unknown_keys_inside_blocks():
    assert "did you mean send_port?" in transport_error(sendprt=1).message
    assert "did you mean ifgroup?" in error(isolation={"ifgrp": 1}).message
    assert "did you mean socket_addr?" in error(babeld={"socket_address": "x"}).message


def test_a_private_key_or_a_file_with_one():
    missing = error(private_key=...).message
    assert missing.startswith("private_key_file is missing")
    assert "rait genkey" in missing
    assert "both given" in error(private_key_file="x").message


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("A" * 43 + "=", "all-zero"),
        (KEY[:-1], "not valid base64"),
        (KEY + KEY, "not valid base64"),
        ("QUJD", "3 bytes instead of 32"),
        ("schlüssel", "not valid base64"),
        (5, "must be a key in base64"),
    ],
)
def test_a_bad_private_key_is_refused_and_not_shown(value, says):
    found = error(private_key=value)
    assert found.path == ("private_key",)
    assert says in found.message
    assert str(value) not in found.message or value == 5


def test_keys_get_one_spelling():
    # The last character holds two bits that base64 decoders overlook.
    assert decoded(private_key=KEY[:-2] + "J=").private_key == Secret(KEY)


@pytest.mark.parametrize(
    ("isolation", "path", "says"),
    [
        ({"type": "vlan"}, ("isolation", "type"), "must be netns or vrf"),
        ({"table": 100}, ("isolation", "table"), 'only with type = "vrf"'),
        ({"target": "a/b"}, ("isolation", "target"), "network namespace"),
        ({"target": "a b"}, ("isolation", "target"), "network namespace"),
        ({"transit": ".."}, ("isolation", "transit"), "network namespace"),
        ({"transit": "t" * 256}, ("isolation", "transit"), "longer than 255 bytes"),
        ({"type": "vrf", "target": "m%d", "table": 9}, ("isolation", "target"), "no '%'"),
        ({"ifgroup": 0}, ("isolation", "ifgroup"), "put in none"),
        ({"ifgroup": 0x7FFF0000}, ("isolation", "ifgroup"), "for rait itself"),
        ({"ifgroup": 2**31}, ("isolation", "ifgroup"), "must be a group from 1 to 2147418111"),
        ({"type": "vrf", "table": 9}, ("isolation",), "target is missing"),
        ({"type": "vrf", "target": "m"}, ("isolation",), "table is missing"),
        (
            {"type": "vrf", "target": "m", "table": 0},
            ("isolation", "table"),
            "from 1 to 4294967295, not",
        ),
        (
            {"type": "vrf", "target": "m", "table": 2**32},
            ("isolation", "table"),
            "from 1 to 4294967295, not",
        ),
        ({"type": "vrf", "target": "m", "table": 254}, ("isolation", "table"), "own table"),
        ({"type": "vrf", "target": "m", "table": 255}, ("isolation", "table"), "own table"),
        ({"type": "vrf", "target": "m" * 16, "table": 9}, ("isolation", "target"), "15 bytes"),
    ],
)
def test_a_wrong_isolation(isolation, path, says):
    found = error(isolation=isolation)
    assert found.path == path
    assert says in found.message


def test_the_last_group_before_ours():
    assert decoded(isolation={"ifgroup": 0x7FFEFFFF}).isolation.ifgroup == 0x7FFEFFFF


def test_a_vrf_as_transit_needs_marks():
    vrf = {"type": "vrf", "target": "mesh", "transit": "under", "table": 100}
    assert error(isolation=vrf).path == ("transport", 0)
    assert error(isolation=vrf, transport=[transport(fwmark=0)]).path == ("transport", 0, "fwmark")
    assert decoded(isolation=vrf, transport=[transport(fwmark=1)]).isolation.transit == "under"
    same = {**vrf, "transit": "mesh"}
    assert "nothing apart" in error(isolation=same, transport=[transport(fwmark=1)]).message


@pytest.mark.parametrize(
    ("babeld", "says"),
    [
        ({"socket_type": "udp"}, "must be unix or tcp"),
        ({"socket_type": "tcp"}, "socket_addr is missing"),
        ({"socket_type": "tcp", "socket_addr": ":33123"}, "HOST:PORT"),
        *(
            ({"socket_type": "tcp", "socket_addr": address}, "HOST:PORT")
            for address in ("65536", "babeld", "h:babeld", "h:", "h:033123", "h:-1")
        ),
        (
            {"socket_type": "tcp", "socket_addr": 65536},
            "must be a port from 1 to 65535, or HOST:PORT, not 65536",
        ),
        ({"socket_type": "tcp", "socket_addr": True}, "must be a port"),
        ({"socket_type": "unix", "socket_addr": 33123}, "must be one line of text in quotes"),
        ({"socket_type": "tcp", "socket_addr": "::1:33123"}, "brackets"),
        ({"socket_type": "tcp", "socket_addr": "[::1:33123"}, "brackets"),
        ({"socket_type": "tcp", "socket_addr": "::1]:33123"}, "brackets"),
        ({"socket_type": "tcp", "socket_addr": "h:0"}, "HOST:PORT"),
        ({"socket_addr": "/" + "x" * 107}, "107 bytes"),
        ({"param": "a\nflush"}, "one line"),
        ({"sync": "yes"}, "true or false"),
    ],
)
def test_a_wrong_babeld(babeld, says):
    assert says in error(babeld=babeld).message


@pytest.mark.parametrize("address", ["33123", 33123])
def test_a_port_alone_is_a_tcp_socket_of_babeld(address):
    babeld = decoded(babeld={"socket_type": "tcp", "socket_addr": address}).babeld
    assert (babeld.socket_type, babeld.socket_addr) == ("tcp", "33123")


@pytest.mark.parametrize(
    ("watch", "says"),
    [
        ({"poll": "0s"}, 'no span of time; write it as "60s"'),
        ({"poll": 60}, 'must be a span of time from "1s" to "1d", as "60s" or "5m", not 60'),
        ({"names": "2d"}, 'must be a span of time from "1s" to "1d"'),
        ({"look": "often"}, 'no span of time; write it as "60s"'),
        ({"max_peers_age": "old"}, 'no span of time; write it as "1d"'),
        ({"metrics": "node.example:9586"}, 'must be ADDRESS:PORT, as "127.0.0.1:9586"'),
        ({"metrics": "9586"}, 'must be ADDRESS:PORT, as "127.0.0.1:9586"'),
        ({"metrics": "::1:9586"}, "brackets"),
        ({"metrics": 9586}, "must be ADDRESS:PORT in quotes, as"),
        ({"pol": "60s"}, "did you mean poll?"),
    ],
)
def test_a_wrong_watch(watch, says):
    assert says in error(watch=watch).message


@pytest.mark.parametrize("address", [1, 65535, "1", "65535", "h:1", "[::1]:65535"])
def test_babeld_may_listen_on_any_port(address):
    babeld = decoded(babeld=[{"socket_type": "tcp", "socket_addr": address}]).babeld
    assert babeld.socket_addr == str(address)


def test_a_unix_socket_has_a_path_of_107_bytes():
    """One less than sun_path of unix(7), for the zero byte at its end."""
    path = "/" + "x" * 106
    assert decoded(babeld=[{"socket_addr": path}]).babeld.socket_addr == path


def test_how_a_node_is_watched():
    assert decoded().watch == Watch()
    assert decoded().watch.poll == 60 * SECOND
    watch = decoded(watch=[{"poll": "5m", "max_peers_age": "1d", "metrics": "[::1]:9586"}]).watch
    assert (watch.poll, watch.max_peers_age) == (300 * SECOND, 86400 * SECOND)
    assert (watch.names, watch.look, watch.metrics) == (60 * SECOND, 60 * SECOND, "[::1]:9586")


def test_a_node_publishes_itself_where_entries_are_taken():
    url = "ETCDS://me@192.0.2.1/rait?password_file=/p"
    watch = decoded(peers=url, watch=[{"publish": True, "lease": "5s"}]).watch
    assert (watch.publish, watch.lease) == (True, 5 * SECOND)
    for peers in ("/etc/rait/peers.conf", "https://example.org/peers", "-", ...):
        found = error(peers=peers, watch=[{"publish": True}])
        assert found.path == ("watch", 0, "publish")
        assert "set `peers` to one in etcd" in found.message
    for lease in ("4s", "2d"):
        found = error(peers=url, watch=[{"publish": True, "lease": lease}])
        assert (found.path, 'from "5s" to "1d"' in found.message) == (("watch", 0, "lease"), True)
    config, (problem,) = decode_config(document(watch=[{"lease": "60s"}]))
    assert config is not None
    assert (problem.severity, problem.path) == ("warning", ("watch", 0, "lease"))


def test_one_send_port_in_both_families_is_warned_of():
    transports = [transport(), transport(address_family="ip6", ifprefix="rait6x")]
    config, (problem,) = decode_config(document(transport=transports))
    assert config is not None
    assert (problem.severity, problem.path) == ("warning", ("transport", 1, "send_port"))
    assert "send_port of a transport of ip4 too" in problem.message
    assert "skip the other" in problem.message


def test_a_key_stands_nowhere_but_where_it_belongs():
    for changes in (
        {"peers": KEY},
        {"journal": KEY},
        {"isolation": [{"target": KEY}]},
        {"watch": {"metrics": KEY}},
    ):
        assert "is a key itself" in error(**changes).message
    assert "is a key itself" in transport_error(ifprefix=KEY).message
    assert decoded(name=KEY).name == KEY, "for people: it may be the public one"


def test_a_block_can_stand_once():
    found = error(isolation=[{}, {}])
    assert (found.path, found.message) == (
        ("isolation", 1),
        "there is more than one isolation block",
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backend": "user"}, "must be auto, kernel or userspace"),
        ({"max_removals": -1}, "must be a whole number from 0"),
        ({"max_removals": True}, "whole number"),
        ({"max_links": 0}, "must be a whole number from 1"),
        ({"max_links": "5"}, "leave out the quotes"),
        ({"command_timeout": 0}, "must be a number of seconds from 1 to 3600"),
        ({"command_timeout": "10s"}, "must be a number of seconds from 1 to 3600"),
        ({"peers": ""}, 'must be a path or a URL in quotes, not ""'),
        ({"peers": " "}, "not be blank"),
        ({"name": "\t"}, "not be blank"),
        ({"name": "one\ntwo"}, "one line of text"),
        ({"journal": 1}, "must be a path in quotes, not 1"),
        ({"isolation": "netns"}, "must be a block, not text"),
        ({"babeld": [1]}, "must be a block, not a whole number"),
        ({"remarks": "x"}, "must be a block"),
    ],
)
def test_wrong_values_at_the_top(changes, says):
    assert says in error(**changes).message


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        ("1024-65535", ((1024, 65535),)),
        (" 1024 - 65535 ", ((1024, 65535),)),
        (51820, ((51820, 51820),)),
        ("51820", ((51820, 51820),)),
        (["50000-50999", 51820, "1-2"], ((50000, 50999), (51820, 51820), (1, 2))),
    ],
)
def test_port_ranges(value, ranges):
    assert decoded(port_range=value).port_range == ranges


@pytest.mark.parametrize(
    "value",
    [
        0,
        65536,
        True,
        1.5,
        None,
        "",
        "any",
        "0-10",
        "2-1",
        "1-65536",
        "1--2",
        "-5",
        "1-2-3",
        "1,2",
        "\u0661-\u0662",
        "1" * 4301,
        [],
        [1, "x"],
        [[1]],
        {"from": 1},
    ],
)
def test_what_is_no_port_range_is_refused(value):
    found = error(port_range=value)
    assert found.path == ("port_range",)
    assert '"1024-65535"' in found.message


def with_value(block: str, key: str, value: int) -> dict[str, Any]:
    """What stands in rait.conf that has this number, in this block or at the top ("")."""
    blocks: dict[str, dict[str, Any]] = {
        "": {key: value},
        "transport": {"transport": [transport(**{key: value})]},
        "policy": {"policy": {key: value}},
        "isolation": {"isolation": {key: value}},
        "vrf": {"isolation": {"type": "vrf", "target": "m", "table": 9, key: value}},
        "watch": {"watch": {key: f"{value}s"}},
    }
    return blocks[block]


@pytest.mark.parametrize(
    ("block", "key", "least", "most"),
    [
        ("", "max_removals", 0, 2**32 - 1),
        ("", "max_links", 1, 2**32 - 1),
        ("", "command_timeout", 1, 3600),
        ("", "port_range", 1, 65535),
        ("transport", "send_port", 1, 65535),
        *((block, "mtu", 1280, 65455) for block in ("transport", "policy")),
        *((block, "fwmark", 0, 2**32 - 1) for block in ("transport", "policy")),
        *((block, "keepalive", 0, 65535) for block in ("transport", "policy")),
        ("isolation", "ifgroup", 1, 2147418111),
        ("vrf", "table", 1, 2**32 - 1),
        *(("watch", key, 1, 86400) for key in ("poll", "names", "look")),
        ("watch", "lease", 5, 86400),
    ],
)
def test_the_least_and_the_most_that_a_number_may_be(
    block: str, key: str, least: int, most: int
) -> None:
    for value in (least, most):
        assert errors(**with_value(block, key, value)) == []
    for value in (least - 1, most + 1):
        assert error(**with_value(block, key, value)).path[-1] == key


@pytest.mark.parametrize("table", [253, 256])
def test_the_tables_beside_those_of_the_machine(table: int) -> None:
    assert errors(**with_value("vrf", "table", table)) == []


def test_the_shortest_text_is_one_character() -> None:
    texts = {"private_key_file": "k", "name": "n", "peers": "p", "journal": "j"}
    config = decoded(private_key=..., babeld={"param": "x", "socket_addr": "/"}, **texts)
    assert {key: getattr(config, key) for key in texts} == texts
    assert (config.babeld.param, config.babeld.socket_addr) == ("x", "/")


def test_the_longest_name_of_a_namespace() -> None:
    assert errors(isolation={"transit": "t" * 255}) == []


def test_only_isolation_by_namespaces_has_namespaces():
    apart = {"transit": "under", "target": "over"}
    netns, vrf = Isolation(type="netns", **apart), Isolation(type="vrf", **apart)
    assert (netns.transit_netns, netns.target_netns) == ("under", "over")
    assert (vrf.transit_netns, vrf.target_netns) == ("", "")


def test_what_was_written_for_a_port_range_is_named():
    assert error(port_range=True).message.endswith(", not true")
    assert error(port_range=[1, "x"]).message.endswith(', not "x"')


@pytest.mark.parametrize("key", ["name", "max_removals", "journal_keep", "peers"])
def test_null_is_no_way_to_leave_a_key_out(key):
    found = error(**{key: None})
    assert found.path == (key,)
    assert found.message.endswith(", not null")
    assert transport_error(address=None).message.endswith(", not null")


def test_secrets_are_equal_if_their_texts_are():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_limits_have_defaults():
    config = decoded()
    assert config.max_links == 4096
    assert config.port_range == ()
    assert decoded(max_links=7).max_links == 7
    assert (decoded(max_links=1).max_links, decoded(max_removals=0).max_removals) == (1, 0)
    assert "from 1 to" in error(max_links=0).message


def test_standard_input_is_read_once():
    found = error(private_key=..., private_key_file="-", peers="-")
    assert found.path == ("peers",)


def test_all_errors_are_found_at_once():
    assert len(errors(backend="x", private_key=..., transport=[transport(mtu=1, send_port=0)])) == 4


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("365d", 365),
        ("2w", 14),
        ("24h", 1),
        ("2880m", 2),
        ("259200s", 3),
        ("1d", 1),
        ("forever", None),
        (..., 365),
    ],
)
def test_how_long_the_journal_keeps_its_runs(text: Any, days: int | None) -> None:
    expected = None if days is None else days * 86400 * 10**9
    assert decoded(journal_keep=text).journal_keep == expected
    assert decoded(JournalKeep=text).journal_keep == expected


@pytest.mark.parametrize("text", ["", "0d", "1y", "365", 365, "-1d", "90 d", KEY, ["1d"], "9" * 20])
def test_a_time_to_keep_runs_that_is_none(text: Any) -> None:
    problem = error(journal_keep=text)
    assert problem.path == ("journal_keep",)
    assert KEY not in problem.message
    if isinstance(text, str) and text not in ("", KEY):
        assert 'write it as "90d", "52w", or "forever"' in problem.message


@pytest.mark.parametrize(
    ("text", "hours"), [("24h", 24), ("7d", 168), ("always", "always"), (..., None)]
)
def test_how_old_a_list_may_be_that_stands_in(text: Any, hours: Any) -> None:
    expected = hours * 3600 * 10**9 if isinstance(hours, int) else hours
    assert decoded(peers="https://example.org/p", peers_fallback=text).peers_fallback == expected


@pytest.mark.parametrize("text", ["", "0h", "forever", 24, True, KEY, ["24h"], "-1h"])
def test_an_age_that_is_none(text: Any) -> None:
    problem = error(peers="https://example.org/p", peers_fallback=text)
    assert problem.path == ("peers_fallback",)
    assert KEY not in problem.message


@pytest.mark.parametrize("peers", ["/etc/rait/peers.conf", "-", ...])
def test_only_a_list_from_a_url_is_kept(peers: Any) -> None:
    config, (problem,) = decode_config(document(peers=peers, peers_fallback="24h"))
    assert config is not None
    assert (problem.path, problem.severity) == (("peers_fallback",), "warning")


SIGNER = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (SIGNER, (SIGNER,)),
        ([SIGNER, "keys/minisign.pub"], (SIGNER, "keys/minisign.pub")),
        ("/etc/rait/minisign.pub", ("/etc/rait/minisign.pub",)),
        ("RW-of-the-registry", ("RW-of-the-registry",)),
        (SIGNER[:39], (SIGNER[:39],)),
    ],
)
def test_who_signs_the_list(value: Any, meant: tuple[str, ...]) -> None:
    assert decoded(peers_public_key=value).peers_public_key == meant


@pytest.mark.parametrize(
    "value",
    [
        *("", [], 7, True, [7], "-", "https://example.org/k", KEY, [SIGNER, ""], [SIGNER, KEY]),
        *(
            SIGNER[:-1],
            SIGNER[:40],
            f"{SIGNER[:-1]}é",
            f"{SIGNER[:52]}====",
            f"comment: x\n{SIGNER}",
        ),
    ],
)
def test_who_cannot_sign_the_list(value: Any) -> None:
    problem = error(peers_public_key=value)
    assert problem.path == ("peers_public_key",)
    assert KEY not in problem.message


def test_standard_input_has_no_signature() -> None:
    problem = error(peers="-", peers_public_key=SIGNER)
    assert problem.path == ("peers",)
    assert "a signature is beside the list" in problem.message


@pytest.mark.parametrize("path", ["http://example.org/j", "-", "file:///var/lib/rait/journal.db"])
def test_a_journal_that_is_no_path(path: str) -> None:
    assert error(journal=path).message == "must be the path of a file on this machine"


@pytest.mark.parametrize(
    ("path", "meant"), [("j.db/", "j.db"), ("/x//j.db//", "/x//j.db"), ("/", "/"), ("..", "..")]
)
def test_a_journal_is_a_file_even_with_a_slash_at_its_end(path: str, meant: str) -> None:
    assert decoded(journal=path).journal == meant
