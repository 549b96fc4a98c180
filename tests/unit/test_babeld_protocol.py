"""The conversation with babeld, byte by byte, and what a sync tells it."""

from __future__ import annotations

import pytest

from rait.domain.babel import (
    MAX_COMMAND,
    Answer,
    BabeldError,
    BabelInterface,
    Banner,
    Conversation,
    Limits,
    add_command,
    believed,
    encode_command,
    extra_commands,
    flush_command,
    interfaces_from_dump,
    is_interface_name,
    is_ours,
)
from rait.domain.events import BabelInterfaceAdded, BabelInterfaceFlushed
from tests.babel_sync import babel_events

BANNER = b"BABEL 1.0\nversion babeld-1.12.1\nhost a\nmy-id 60:96:2a:d9:a5:63:32:d9\nok\n"


def greeted(limits: Limits | None = None) -> Conversation:
    conversation = Conversation(limits or Limits())
    conversation.receive(BANNER)
    assert conversation.next_answer() is not None
    return conversation


def answered(data: bytes, command: str = "dump", keep: str = "") -> Answer | None:
    conversation = greeted()
    conversation.send(command, keep)
    conversation.receive(data)
    return conversation.next_answer()


def test_the_banner_is_read_to_its_ok() -> None:
    conversation = Conversation()
    conversation.receive(BANNER[:-3])
    assert conversation.next_answer() is None
    conversation.receive(BANNER[-3:])
    assert conversation.next_answer() is not None
    assert conversation.banner == Banner("1.0", "babeld-1.12.1", "a", "60:96:2a:d9:a5:63:32:d9")
    assert not conversation.waiting


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"ok\n", Answer("ok")),
        (b"bad\n", Answer("bad")),
        (b"no\n", Answer("no")),
        (b"no No such interface\n", Answer("no", "No such interface")),
        (b"add interface v0 up false\nok\n", Answer("ok", "", ("add interface v0 up false",))),
        (b"notable\nok\n", Answer("ok", "", ("notable",))),
        (b"o", None),
        (b"ok", None),
    ],
)
def test_answers(data: bytes, answer: Answer | None) -> None:
    assert answered(data) == answer


def test_only_the_lines_asked_for_are_kept() -> None:
    data = b"add interface v0 up false\nadd neighbour 5 address fe80::1 if v0\nok\n"
    answer = answered(data, keep="add interface ")
    assert answer == Answer("ok", "", ("add interface v0 up false",))


def test_freed_memory_in_a_line_that_nobody_needs_does_no_harm() -> None:
    data = b"add interface v0 up false\nadd neighbour 5 address fe80::1 if \x01\xff\x7f\nok\n"
    answer = answered(data, keep="add interface ")
    assert answer == Answer("ok", "", ("add interface v0 up false",))


def test_each_answer_belongs_to_its_own_command() -> None:
    conversation = greeted()
    for data, verdict in [(b"x y\nok\n", "ok"), (b"bad\n", "bad"), (b"no way\n", "no")]:
        assert conversation.send("dump") == b"dump\n"
        conversation.receive(data)
        answer = conversation.next_answer()
        assert answer is not None
        assert answer.verdict == verdict
        assert len(answer.lines) == (verdict == "ok")


def test_a_second_command_has_to_wait_for_the_first_answer() -> None:
    conversation = greeted()
    conversation.send("dump")
    with pytest.raises(BabeldError, match=r"before the answer to 'dump'"):
        conversation.send("flush interface v0")


def test_no_command_goes_out_before_the_banner_is_in() -> None:
    with pytest.raises(BabeldError, match="before its banner"):
        Conversation().send("dump")


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next() -> None:
    conversation = greeted()
    conversation.receive(b"ok\n")
    with pytest.raises(BabeldError, match="nobody had asked"):
        conversation.send("flush interface v0")


def test_notifications_between_commands_are_no_answer() -> None:
    conversation = greeted()
    conversation.receive(b"change interface v0 up true\nchange neigh")
    conversation.send("unmonitor")
    conversation.receive(b"bour 5 address fe80::1\nok\n")
    answer = conversation.next_answer()
    assert answer is not None
    assert answer.verdict == "ok"


def test_quit_is_answered_by_the_end_of_the_connection() -> None:
    conversation = greeted()
    conversation.send("quit")
    assert conversation.next_answer() is None
    conversation.receive_end()
    assert conversation.next_answer() == Answer("closed")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no text|not babeld"),
        (b"220 mail.example.org ESMTP\n", "not babeld: it greets with '220 mail"),
        (b"ok\n", "not babeld"),
        (b"BABEL 1.0\nno more\n", "turned us away: its banner ends in 'no more'"),
        (b"BABEL 1.0\nbad\n", "turned us away"),
        (b"\x00\x01\x02\n", r"no text in its banner: b'\\x00"),
        (b"x" * 5000, "line of over 4096 bytes in its banner"),
    ],
)
def test_what_is_not_a_banner(data: bytes, message: str) -> None:
    conversation = Conversation()
    conversation.receive(data)
    with pytest.raises(BabeldError, match=message):
        conversation.next_answer()


def test_binary_in_an_answer_names_the_command() -> None:
    with pytest.raises(BabeldError, match=r"no text in the answer to 'dump': b'\\x7fELF"):
        answered(b"\x7fELF\n")


def test_a_foreign_name_that_is_no_utf8_is_not_held_against_babeld() -> None:
    answer = answered(b"add interface \xff0 up false\nok\n")
    assert answer is not None
    assert interfaces_from_dump(answer.lines) == (BabelInterface("\\xff0", up=False),)


def test_an_answer_without_end_is_cut_off() -> None:
    conversation = greeted(Limits(line=100, answer=1000))
    conversation.send("dump", keep="nothing ")
    conversation.receive(b"add route 1\n" * 100)
    with pytest.raises(BabeldError, match="over 1000 bytes for the answer to 'dump'"):
        conversation.next_answer()


def test_many_small_answers_are_not_one_large_one() -> None:
    conversation = greeted(Limits(line=100, answer=100))
    for _ in range(20):
        conversation.send("dump")
        conversation.receive(b"add interface v0 up false\nok\n")
        assert conversation.next_answer() is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "closed the connection before its banner was complete$"),
        (BANNER[:-5], "in mid-line after b'my-id 60:"),
    ],
)
def test_a_banner_cut_short(data: bytes, message: str) -> None:
    conversation = Conversation()
    conversation.receive(data)
    conversation.receive_end()
    with pytest.raises(BabeldError, match=message):
        conversation.next_answer()


def test_an_answer_cut_short_in_mid_line() -> None:
    conversation = greeted()
    conversation.send("dump")
    conversation.receive(b"add interface v0 up true\nadd interf")
    conversation.receive_end()
    with pytest.raises(BabeldError, match=r"before the answer to 'dump'.* after b'add interf'"):
        conversation.next_answer()


@pytest.mark.parametrize(
    "command",
    [
        "interface v0\nflush interface eth0",
        "interface v0\rflush interface eth0",
        "interface v0\x00",
        "interface v0\u2028dump",
        "interface \ud800",
        'interface "v0',
        'interface "v0\\"',
        "#" * MAX_COMMAND,
    ],
)
def test_commands_that_must_not_be_sent(command: str) -> None:
    with pytest.raises(BabeldError):
        greeted().send(command)


def test_commands_that_may_be_sent() -> None:
    assert encode_command('key id x type hmac-sha256 value "a\\"b"').endswith(b'"a\\"b"\n')
    assert len(encode_command("#" * (MAX_COMMAND - 1))) == MAX_COMMAND


def test_add_and_flush_commands() -> None:
    assert add_command("rait4x50153", "type tunnel rxcost 32") == (
        "interface rait4x50153 type tunnel rxcost 32"
    )
    assert add_command("rait4x50153", "") == "interface rait4x50153"
    assert flush_command("rait4x50153") == "flush interface rait4x50153"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a b", "a\tb", "a\nb", "a/b", "a:b", '"a"', "a#b", "a\\b", "é" * 8, "x" * 16],
)
def test_what_is_no_interface_name(name: str) -> None:
    assert not is_interface_name(name)
    with pytest.raises(BabeldError, match="no interface name"):
        add_command(name, "")
    with pytest.raises(BabeldError, match="no interface name"):
        flush_command(name)


def test_extra_commands_are_one_a_line() -> None:
    text = "\n  redistribute local deny\r\n# why: none of it\n\ndefault type tunnel\n"
    assert extra_commands(text) == ("redistribute local deny", "default type tunnel")
    assert extra_commands("") == ()


def test_interfaces_from_a_dump() -> None:
    lines = (
        "add interface lo up false",
        "add interface v0 up true ipv6 fe80::1 ipv4 192.0.2.1",
        "add interface v1 up true ipv6 fe80::2",
        "add interface  up false",  # babeld can be talked into a nameless one
        "add neighbour 55d0 address fe80::2 if v0 reach ffff ureach 0000 rxcost 96 cost 96",
        "add xroute ::/0-::/0 prefix ::/0 from ::/0 metric 0",
    )
    assert interfaces_from_dump(lines) == (
        BabelInterface("lo", up=False),
        BabelInterface("v0", up=True, ipv6="fe80::1", ipv4="192.0.2.1"),
        BabelInterface("v1", up=True, ipv6="fe80::2"),
        BabelInterface("", up=False),
    )


@pytest.mark.parametrize("line", ["add interface v0", "add interface v0 up maybe"])
def test_an_interface_told_in_an_unknown_way(line: str) -> None:
    with pytest.raises(BabeldError, match="unknown way: 'add interface v0"):
        interfaces_from_dump([line])


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("rait4x50153", True),
        ("rait6x1", True),
        ("rait4x65535", True),
        ("rait4x65536", False),
        ("rait4x0", False),
        ("rait4x050153", False),
        ("rait4x", False),
        ("rait4xabc", False),
        ("rait4x50153a", False),
        ("rait4x\u0665", False),
        ("eth0", False),
        ("remembered0", True),
    ],
)
def test_ours_by_name(name: str, ours: bool) -> None:
    assert is_ours(name, ("rait4x", "rait6x"), {"remembered0"}) is ours


def ours(name: str) -> bool:
    return name.startswith("rait")


def test_missing_ones_are_added_and_gone_ones_flushed() -> None:
    current = {"rait4x1": "p", "rait4x2": "p", "eth0": ""}
    events = babel_events(current, {"rait4x2": "p", "rait4x3": "p"}, ours=ours)
    assert events == (BabelInterfaceFlushed("rait4x1", "p"), BabelInterfaceAdded("rait4x3", "p"))


def test_exclusive_flushes_others_too_as_far_as_they_can_be_named() -> None:
    current = {"rait4x1": "p", "eth0": "", "": "", "a b": ""}
    events = babel_events(current, {"rait4x1": "p"}, ours=ours, exclusive=True)
    assert events == (BabelInterfaceFlushed("eth0", ""),)


def test_changed_parameters_take_a_flush_and_an_add() -> None:
    current = believed(["rait4x1"], {"rait4x1": "rxcost 32"}, {"rait4x1": "rxcost 96"})
    assert babel_events(current, {"rait4x1": "rxcost 96"}, ours=ours) == (
        BabelInterfaceFlushed("rait4x1", "rxcost 32"),
        BabelInterfaceAdded("rait4x1", "rxcost 96"),
    )


def test_one_that_babeld_had_by_itself_is_believed_to_be_as_wanted() -> None:
    wanted = {"rait4x1": "rxcost 96"}
    assert babel_events(believed(["rait4x1"], {}, wanted), wanted, ours=ours) == ()


def test_one_that_babeld_lost_is_added_again_whatever_is_remembered() -> None:
    wanted = {"rait4x1": "rxcost 96"}
    current = believed([], {"rait4x1": "rxcost 32"}, wanted)
    added = BabelInterfaceAdded("rait4x1", "rxcost 96")
    assert babel_events(current, wanted, ours=ours) == (added,)
