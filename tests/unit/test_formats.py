"""Texts of all formats become plain documents, and findings lead back to lines."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import pytest

from rait.adapters.config import formats
from rait.domain.config.decode_config import decode_config
from rait.domain.config.decode_peers import decode_peers
from rait.domain.config.schema import Babeld, Isolation, Secret, Transport
from rait.domain.errors import SourceError
from rait.domain.replica import Replica

DATA = Path(__file__).parent.parent / "data"
KEY = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="


def data(text: str, name: str = "x.conf") -> object:
    return formats.parse(text, name).data


def refused(text: str, name: str = "x.conf") -> str:
    with pytest.raises(SourceError) as caught:
        formats.parse(text, name)
    return str(caught.value)


def test_the_manuals_configuration():
    document = formats.parse((DATA / "rait.conf").read_text(), "rait.conf")
    config, problems = decode_config(document.data)
    assert problems == ()
    assert config is not None
    assert config.private_key == Secret(KEY)
    assert config.transports == (
        Transport(address_family="ip4", send_port=50153, mtu=1420, ifprefix="rait4x", fwmark=54),
        Transport(
            address_family="ip6",
            send_port=50154,
            mtu=1420,
            ifprefix="rait6x",
            fwmark=54,
            dynamic_port=True,
        ),
    )
    assert config.isolation == Isolation(type="netns", ifgroup=54, transit="", target="raitns")
    assert config.babeld == Babeld(socket_type="unix", socket_addr="/run/babeld.ctl")
    assert config.peers == "/etc/rait/peers.conf"


def test_the_manuals_peers():
    document = formats.parse((DATA / "peers.toml").read_text(), "peers.conf")
    (peer,), problems = decode_peers(document.data)
    assert problems == ()
    assert peer.public_key == "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
    (endpoint,) = peer.endpoints
    assert (endpoint.address_family, endpoint.send_port) == ("ip4", 50221)
    assert endpoint.address == "example.org"


def test_nested_peers():
    document = formats.parse((DATA / "peers.hcl").read_text(), "peers.conf")
    peers, problems = decode_peers(document.data)
    assert problems == ()
    assert [(p.name, len(p.endpoints)) for p in peers] == [("first", 2), (None, 1)]
    assert peers[1].endpoints[0].address == "example.org"


def test_nested_peers_on_one_line():
    text = (
        f'peers {{ public_key = "{KEY}" name = "n" endpoint {{ address_family = "ip4" '
        'send_port = 50180 address = "1.1.1.1" } endpoint { address_family = "ip6" '
        "send_port = 1 } remarks { a = 1 } }\n"
    )
    ((peer,), problems) = decode_peers(formats.parse(text, "peers.conf").data)
    assert problems == ()
    assert [e.send_port for e in peer.endpoints] == [50180, 1]


def test_one_meaning_in_three_formats():
    toml = 'peers = "p"\n[[transport]]\nmtu = 1420\nsync = true\n'
    block = 'peers = "p"\ntransport {\n  mtu = 1420\n  sync = true\n}\n'
    json = '{"peers": "p", "transport": [{"mtu": 1420, "sync": true}]}'
    assert data(toml) == data(block) == data(json)
    assert data(toml, "x.toml") == data(block, "x.hcl") == data(json, "x.JSON")


def test_a_name_tells_the_format_whatever_the_text():
    assert "not valid TOML" in refused("a {\n}\n", "x.toml")
    assert "not valid JSON" in refused("a = 1\n", "x.json")
    assert "not valid HCL" in refused("[[a]]\n", "x.hcl")


@pytest.mark.parametrize(
    "text",
    [
        '// remark\nname = "x"\n',
        '# only attributes\nname = "x" # TOML and HCL\n',
        '/* remark\n*/\nname = "x"',
    ],
)
def test_attributes_alone(text):
    assert data(text) == {"name": "x"}


def test_toml_that_shows_a_block_in_its_text():
    assert data('name = """\nblock {\n"""\n[isolation]\n') == {"name": "block {\n", "isolation": {}}


def test_hcl_values():
    text = r"""
a = "q\" \\ \n \u00e9 $${x} %%{y}"
b = -5
c = 1.5
d = null
e = [1, "x", # remark
  true, {in = 1, "k" : [], z = false}]
f = <<EOT
two
  lines
EOT
g = <<-EOT
    less
      indent
    EOT
h {}
"""
    assert data(text) == {
        "a": 'q" \\ \n é ${x} %{y}',
        "b": -5,
        "c": 1.5,
        "d": None,
        "e": [1, "x", True, {"in": 1, "k": [], "z": False}],
        "f": "two\n  lines\n",
        "g": "less\n  indent\n",
        "h": [{}],
    }


@pytest.mark.parametrize(
    "value",
    [
        "foo",
        '"a${b}c"',
        '"%{ if x }y%{ endif }"',
        'upper("x")',
        "1 + 2",
        "-x",
        "(1)",
        "a.b",
        "a[0]",
        "true ? 1 : 2",
        "[for x in y : x]",
        "[1, x]",
        "<<EOT\n${x}\nEOT",
    ],
)
def test_expressions_are_refused_by_name_and_line(value):
    message = refused(f"block {{\n  first = 1\n  wanted = {value}\n}}\n", "rait.conf")
    assert message.startswith("rait.conf:3:")
    assert '"wanted" is an expression' in message


def test_object_values_that_are_expressions_name_their_own_key():
    assert '"inner" is an expression' in refused("a {\n  outer = { inner = x }\n}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {}\nx = 1\nx = 2\n", 'x.conf:3:1: "x" is given twice'),
        ("b {}\nx = 1\nx {\n}\n", 'x.conf:3:1: "x" is given as a value and as a block'),
        ('a "label" {\n}\n', 'x.conf:1:1: the block "a" has a label'),
        ("a label {\n}\n", 'x.conf:1:1: the block "a" has a label'),
        ("a {}\nx = { k = 1, k = 2 }\n", 'x.conf:2:14: "k" is given twice'),
        ("a {\n  x = 1\n", "ends too early"),
        ('a {\n  x = "open\n}\n', "ends too early"),
        ("a {\n  x = = 1\n}\n", "x.conf:2:7: this is not valid HCL here"),
        ("a {}\nx = " + "9" * 5000 + "\n", '"x" is a huge number'),
        ("a {\n" * 3000 + "}\n" * 3000, "nested too deep"),
        ("a {}\nx = " + "[" * 3000 + "]" * 3000 + "\n", "nested too deep"),
        ("[a]\nx = \n", "x.conf:2:5: not valid TOML: Invalid value"),
        ("[a]\nx = 1\nx = 2\n", "x.conf:3:"),
        ("[a]\nx = " + "[" * 3000 + "]" * 3000 + "\n", "nested too deep"),
        ('{"a": 1', "x.conf:1:8: not valid JSON"),
        ('{"a": ' + "[" * 100000, "nested too deep"),
    ],
)
def test_syntax_errors_name_the_place(text, says):
    assert says in refused(text)


OPEN = "the line ends too early: the quote here is not closed"
DECIMAL = '"x" has a hexadecimal number, which HCL does not have: write it in decimal'
EXPRESSION = '"x" is an expression; write out its value (text in quotes)'
QUOTES = '"x" has a value that is not valid HCL: text belongs in double quotes'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('x = "open\na {\n}\nb = "c"\n', f"1:5: {OPEN}"),
        ('x = "one"\na {\n  b = "open # no comment\n  c = "d"\n}\ne = "f"\n', f"3:7: {OPEN}"),
        ('a {\r\n  x = "open\r\n  c = "d"\r\n}\r\n', f"2:7: {OPEN}"),
        ('a {\n  x = open"\n}\n', f"2:11: {OPEN}"),
        ('a {\n  x = "open\\"\n}\n', f"2:7: {OPEN}"),
        ('a {\n  x = "good\\\\"\n  y = "open\n}\n', f"3:7: {OPEN}"),
        ('# "\n// "\n/* "\n" */\na {\n  x = "open\n}\n', f"6:7: {OPEN}"),
        ('a {\n  x = <<EOT\n  "\n  EOT\n  y = "open\n}\n', f"5:7: {OPEN}"),
        ('a {\n  x = "${"y"}"\n  z = "open\n}\n', f"2:7: {EXPRESSION}"),
        ('a {\n  x = = 1\n  y = "open\n}\n', "2:7: this is not valid HCL here"),
        ('a {\n  x = "${"y"}"\n  z = }\n', f"2:7: {EXPRESSION}"),
        ("a {\n  x = 0x58c\n}\n", f"2:7: {DECIMAL}"),
        ("a {\n  w = 1\n  x = 0X58C # 1420\n  y = 2\n}\n", f"3:7: {DECIMAL}"),
        (f"x = {KEY}\na {{\n}}\n", f"1:5: {QUOTES}"),
        ("a {\n  x = /etc/peers\n}\n", f"2:7: {QUOTES}"),
        ("a {\n  x = 'y'\n}\n", f"2:7: {QUOTES}"),
        ("a {\n  x = two words\n  y = 1\n}\n", f"2:7: {QUOTES}"),
        ("a {\n  x = 2001:db8::1\n}\n", f"2:7: {QUOTES}"),
        ('a {\n  x = y # y = "\n  b c\n}\n', f"2:7: {EXPRESSION}"),
        ("a {\n  x = 1,\n}\n", "2:8: this is not valid HCL here"),
        ("a {\n  x: 1\n}\n", "2:3: this is not valid HCL here: after a key comes =, not :"),
        ("a {\n  x = 1;\n}\n", "2:8: this is not valid HCL here: a line ends without a ;"),
        ("a {\n  x = -1.5e3\n  y = true\n  z = [1}\n}\n", "4:9: this is not valid HCL here"),
        ('a {\n  x = "y = z"\n  b = }\n', "3:7: this is not valid HCL here"),
        ("[a]\nx = 1\ny = 2\nx = 3\n", '4: not valid TOML: "x" is given twice'),
        ('[a]\nx = 1\nx = """\ny = 1\n"""\n', '3: not valid TOML: "x" is given twice'),
        ("[a]\nx.y = 1\nx.y = 2\n", '3: not valid TOML: "x.y" is given twice'),
    ],
)
def test_a_mistake_is_told_where_it_is(text, says):
    assert refused(text).startswith(f"x.conf:{says}")


@pytest.mark.parametrize(
    "text",
    [
        "private_key = {key}\n",
        'private_key = "{key}\n',
        'private_key = "{key}" "{key}"\n',
        "private_key {key}\n",
        "transport {{\n}}\nprivate_key = {key}\n",
        'transport {{\n}}\nprivate_key = "{key}\n',
        'transport {{\n}}\nprivate_key = upper("{key}")\n',
        'transport {{\n}}\n"{key}" = 1\n',
        '["{key}"]\n["{key}"]\n',
        '["{key}"]\nx = {{"{key}" = 1, "{key}" = 2}}\n',
        '{{"private_key": "{key}"',
        'a {{}}\nx = {{"{key}" = y}}\n',
    ],
)
def test_syntax_errors_show_no_key(text):
    assert KEY[:20] not in refused(text.format(key=KEY))


def test_lines_of_hcl():
    text = "a = 1\nb {\n  c = 2\n  d {\n  }\n}\nb {\n\n  c = 3\n}\n"
    locate = formats.parse(text, "x").locate
    assert locate(("a",)) == 1
    assert locate(("b",)) == locate(("b", 0)) == 2
    assert locate(("b", 0, "c")) == 3
    assert locate(("b", 0, "d", 0)) == 4
    assert locate(("b", 1, "c")) == 9
    assert locate(("b", 1, "not there")) == 7
    assert locate(("not there",)) is None


def test_lines_of_toml():
    text = (
        'a = 1\n"q.r" = 2\n[b]\nc = 3\nd.e = 4\n[[f]]\ng = """\nc = 5\n"""\nh = 6\n'
        "[[f.i]]\nj = 7\n[[f]] # again\ng = 8\n[[f.i]]\nj = 9\n[[ f . i ]]\n j=10\n[f.k]\nl=1\n"
    )
    document = formats.parse(text, "x.toml")
    expected = {
        ("a",): 1,
        ("q.r",): 2,
        ("b", "c"): 4,
        ("b", "d", "e"): 5,
        ("f", 0): 6,
        ("f", 0, "h"): 10,
        ("f", 0, "i", 0, "j"): 12,
        ("f", 1, "g"): 14,
        ("f", 1, "i", 0, "j"): 16,
        ("f", 1, "i", 1, "j"): 18,
        ("f", 1, "k", "l"): 20,
        ("b", "missing"): 3,
    }
    assert {path: document.locate(path) for path in expected} == expected


def test_lines_of_lists_and_objects_in_hcl():
    text = "a = [\n  1, {\n  # x\n  b = 2\n}, [\n3]\n]\nc = { d = 1\n e = [1,\n2]}\n"
    locate = formats.parse(text, "x.hcl").locate
    assert locate(("a", 0)) == locate(("a", 1)) == 2
    assert locate(("a", 1, "b")) == 4
    assert locate(("a", 2)) == 5
    assert locate(("a", 2, 0)) == 6
    assert locate(("c", "d")) == 8
    assert locate(("c", "e", 1)) == 10


def test_lines_of_lists_and_objects_in_toml():
    text = (
        "a = [ # x [\n  ['a\\'],\n  {b = 1, c.d = [1, \"]\"]},\n"
        "  {e = '''x\n]'''},\n 1\n]\nf = 1\n[[g]]\nh = {i = [\n1]}\nj = 1\n"
    )
    locate = formats.parse(text, "x.toml").locate
    assert locate(("a", 0, 0)) == 2
    assert locate(("a", 1, "b")) == locate(("a", 1, "c", "d", 1)) == 3
    assert locate(("a", 2, "e")) == 4
    assert locate(("a", 3)) == 6
    assert locate(("f",)) == 8
    assert locate(("g", 0, "h", "i", 0)) == 11
    assert locate(("g", 0, "j")) == 12


def test_a_string_within_brackets_that_spans_lines():
    locate = formats.parse('a = ["""x\n[b]\ny = 1""",\n2]\nc = 1\n', "x.toml").locate
    assert locate(("a", 0)) == 1
    assert locate(("a", 1)) == 4
    assert locate(("c",)) == 5


@pytest.mark.parametrize("name", ["x.json", "x.toml", "x.hcl"])
def test_what_lies_very_deep_has_the_line_of_what_holds_it(name):
    """A line for each item, far down, would take gigabytes."""
    deep = "[" * 50 + "\n" + "1,\n" * 9 + "1" + "]" * 50
    text = f'{{"a": {deep}}}' if name == "x.json" else f"a = {deep}"
    document = formats.parse(text, name)
    assert max(map(len, document.lines())) <= 17
    assert document.locate(("a", *[0] * 49, 9)) == 1


@pytest.mark.parametrize("name", ["x.json", "x.toml"])
def test_how_deep_a_list_may_be_is_the_same_whoever_reads_it(name):
    """Else a list that `rait check` read could be one that the nodes refuse."""

    def deep(levels: int) -> str:
        value = "[" * (levels - 1) + "]" * (levels - 1)
        return f'{{"a": {value}}}' if name == "x.json" else f"a = {value}"

    assert data(deep(100), name)
    assert refused(deep(101), name) == f"{name}: lists or blocks are nested too deep"


def test_toml_is_that_of_version_1_1_on_all_nodes():
    """A list that some nodes refuse and others read would part a fleet."""
    text = 'peers = [{\n  name = "\\e\\x41", # remark\n  remarks = {\n    at = 07:32,\n  },\n}]\n'
    document = formats.parse(text, "peers.toml")
    assert document.data == {"peers": [{"name": "\x1bA", "remarks": {"at": time(7, 32)}}]}
    assert document.locate(("peers", 0, "remarks", "at")) == 4


def test_lines_of_json():
    text = '{\n"a": [\n1, {"b": "]\\"}",\n"c": null}\n], "d":\n {"e":\n{}\n}, "f": 1}'
    locate = formats.parse(text, "x.json").locate
    assert locate(("a",)) == 2
    assert locate(("a", 0)) == locate(("a", 1, "b")) == 3
    assert locate(("a", 1, "c")) == 4
    assert locate(("d",)) == 5
    assert locate(("d", "e")) == 6
    assert locate(("f",)) == 8
    assert locate(("missing",)) is None


def test_windows_line_ends():
    assert data('a = "x"\r\nb {\r\n  c = 1\r\n}\r\n') == {"a": "x", "b": [{"c": 1}]}


@pytest.mark.parametrize("text", ['{"peers": [1], "peers": []}', '{"a": {"b": 1, "b": 2}}'])
def test_a_key_that_is_there_twice_in_json_is_an_error(text):
    """Of two values programs take one or the other: a list that is read twice must be one list."""
    with pytest.raises(SourceError, match="is given twice"):
        formats.parse(text, "x.json")


def test_a_place_in_a_list_of_many_keys_is_one_of_them():
    """Its text, which rait made, is nothing that anybody has seen."""
    key = "OYZ3yXLTXE5z6zLcHYY8v1vcH4hLnX+TlIZ6pPQ3dWM="
    lines = {key: f'{{"public_key":"{key}","endpoint":[{{"send_port":1}}]}}', "x": '{"a":1}'}
    document = formats.parse(Replica(1, 1, lines).text, "etcd://h/peers.toml")
    path = ("peers", 0, "endpoint", 0, "send_port")
    assert document.location(path) == f"etcd://h/peers.toml/{key}: endpoint[0].send_port"
    assert document.location(path[:2]) == f"etcd://h/peers.toml/{key}"
    for nowhere in ((), ("peers",), ("peers", 1), ("peers", 1, "a")):
        assert document.location(nowhere) == "etcd://h/peers.toml"


@pytest.mark.parametrize("name", ["etcd", "etcds"])
def test_a_file_called_as_a_registry_has_lines_as_any_other(name: str) -> None:
    document = formats.parse('{"peers": [\n{"SendPort": 1}\n]}\n', name)
    assert document.location(("peers", 0, "SendPort")) == f"{name}:2: peers[0].SendPort"


@pytest.mark.parametrize("name", ["x.conf", "x.toml", "https://example.org/x.hcl"])
def test_a_web_page_in_the_place_of_a_file_is_named_as_one(name: str) -> None:
    page = "\n<!DOCTYPE html><html><head><title>Sign in</title><style>p { x }</style></head></html>"
    assert refused(page, name).startswith(f"{name}:1: this is a web page")


def test_a_text_in_two_formats_is_told_so():
    toml, hcl = "[[Peers]]\nSendPort = 1\n", "peers {\n  send_port = 2\n}\n"
    for text in (toml + hcl, hcl + toml):
        assert "tables of TOML and blocks of HCL" in refused(text)
    for text in (toml + "x = }\n", hcl + "x = [\n  [1]\n]\ny = }\n"):
        assert "tables of TOML" not in refused(text)
