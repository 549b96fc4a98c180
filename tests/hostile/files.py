"""Peers lists, and configurations, that are wrong in a way that takes long or much memory to find.

Each is a file's name, which tells the format or leaves it to be found out, what makes its text, and
what is to come of it: a part of the error, or how many peers there are. They are as large as rait's
bounds allow, and larger.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256

from rait.adapters.config.bounds import (
    MAX_BYTES,
    MAX_CONFIG_BYTES,
    MAX_DOTS,
    MAX_ITEMS,
    MAX_STATE_BYTES,
)

Case = tuple[str, Callable[[], str], str | int]

UNKNOWN = "peers.conf"
OWN = b64encode(b"\1" * 32).decode()


def key(number: int) -> str:
    return b64encode(sha256(b"%d" % number).digest()).decode()


def hcl_peer(number: int) -> str:
    return (
        f'peers {{\n  public_key = "{key(number)}"\n  name = "node{number}"\n'
        f'  endpoint {{\n    address_family = "ip4"\n    send_port = {number % 65535 + 1}\n'
        f'    address = "192.0.2.{number % 256}"\n  }}\n'
        f'  endpoint {{\n    address_family = "ip6"\n    send_port = {number % 65535 + 1}\n'
        f'    address = "2001:db8::{number % 9999}"\n  }}\n}}\n'
    )


def toml_peer(number: int) -> str:
    return (
        f'[[Peers]]\nPublicKey = "{key(number)}"\nAddressFamily = "ip4"\n'
        f'SendPort = {number % 65535 + 1}\nEndpoint = "10.2.{number % 256}.{number % 251}"\n\n'
    )


def json_peer(number: int) -> str:
    return (
        f'{{"PublicKey": "{key(number)}", "AddressFamily": "ip4", '
        f'"SendPort": {number % 65535 + 1}, "Endpoint": "h{number}.example.org"}}'
    )


def filled(
    unit: str, *, start: str = "", end: str = "", size: int = MAX_BYTES
) -> Callable[[], str]:
    """The unit repeated up to a size."""
    return lambda: start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def times(unit: str, count: int, *, start: str = "", end: str = "") -> Callable[[], str]:
    return lambda: start + unit * count + end


def each(
    unit: Callable[[int], str], count: int, between: str = "", start: str = "", end: str = ""
) -> Callable[[], str]:
    """The units of the numbers below ``count``."""

    def text() -> str:
        return start + between.join(map(unit, range(count))) + end

    return text


def _cut(text: Callable[[], str], size: int) -> Callable[[], str]:
    return lambda: text()[:size]


LARGE = "the most that rait reads"
MANY = f"more than {MAX_ITEMS} "
DEEP = "nested too deep"
QUOTES = "text belongs in double quotes"
OPEN = "the quote here is not closed"
NOT_HCL = "this is not valid HCL here"
NO_LIST = "this is not a peers list"

PEERS: dict[str, Case] = {
    # What a registry may be, at its largest
    "HCL, 20,000 peers": (UNKNOWN, each(hcl_peer, 20_000), 20_000),
    "TOML, 50,000 peers": (UNKNOWN, each(toml_peer, 50_000), 50_000),
    "JSON, 40,000 peers": (UNKNOWN, each(json_peer, 40_000, ",", '{"peers": [', "]}"), 40_000),
    "HCL, too many peers": (UNKNOWN, each(hcl_peer, 40_000), LARGE),
    "TOML, too many peers": (UNKNOWN, each(toml_peer, 80_000), LARGE),
    # Wrong in every entry, and wrong in every one but the first: as many warnings
    "TOML, all but one wrong": (UNKNOWN, times("[[Peers]]\n", 60_000, start=toml_peer(1)), 1),
    "TOML, all but one with a wrong address": (
        UNKNOWN,
        each(lambda n: toml_peer(n).replace("10.2", "10.999"), 49_000, start=toml_peer(0)),
        1,
    ),
    "HCL, all but one wrong": (UNKNOWN, times("peers{}\n", 240_000, start=hcl_peer(1)), 1),
    "HCL, all but one endpoint wrong": (
        UNKNOWN,
        times("endpoint {}\n", 240_000, start=hcl_peer(1).rstrip("}\n") + "}\n", end="}\n"),
        1,
    ),
    "JSON, all but one wrong": (
        "x.json",
        times("{},", 240_000, start='{"peers":[', end=json_peer(1) + "]}"),
        1,
    ),
    "HCL, many remarks of one peer": (
        UNKNOWN,
        each(
            lambda n: f'remarks {{\nr{n} = "{n}"\n}}\n',
            100_000,
            start=hcl_peer(1).rstrip("}\n") + "}\n",
            end="}\n",
        ),
        1,
    ),
    "TOML, many entries of one peer with remarks": (
        UNKNOWN,
        each(
            lambda n: (
                toml_peer(1).rstrip().replace("SendPort = 2", f"SendPort = {n}")
                + f"\nRemarks = {{ r{n} = {n} }}\n"
            ),
            40_000,
        ),
        1,
    ),
    "TOML, remarks that are no lines": (
        UNKNOWN,
        lambda: toml_peer(1).rstrip() + "\nRemarks = { a = " + '"' + "x=" * 2_000_000 + '" }\n',
        1,
    ),
    "peers that are there many times": (UNKNOWN, times(toml_peer(1), 50_000), 1),
    "TOML, wrong entries": (UNKNOWN, times("[[Peers]]\n", 60_000), ""),
    "TOML, wrong addresses": (
        UNKNOWN,
        each(lambda n: toml_peer(n).replace("10.2", "10.999"), 50_000),
        "",
    ),
    "HCL, wrong endpoints": (
        UNKNOWN,
        times("endpoint {}\n", 250_000, start=f'peers {{ public_key = "{OWN}"\n', end="}"),
        "",
    ),
    "JSON, wrong endpoints": (
        UNKNOWN,
        times(
            '{"sendport":0},',
            200_000,
            start=f'{{"peers":{{"public_key":"{OWN}","endpoint":[',
            end="0]}}",
        ),
        "",
    ),
    "JSON, wrong entries": ("x.json", times("{},", 65_000, start='{"peers":[', end="{}]}"), ""),
    "JSON, entries of nothing": ("x.json", times("0,", 65_000, start='{"peers":[', end="0]}"), ""),
    "JSON, too many entries": ("x.json", times("0,", 300_000, start='{"peers":[', end="0]}"), ""),
    "a list with a long name": (
        "x.json",
        lambda: '{"p' + "_" * 4_000_000 + 'eers":[' + "{}," * 60_000 + "{}]}",
        "",
    ),
    "long names of peers": (
        "x.toml",
        each(lambda n: toml_peer(n) + f'name="{"x" * 8000}"\n', 900),
        900,
    ),
    "long keys": ("x.toml", times(f'[[Peers]]\nPublicKey = "{"a+" * 4000}"\n', 900), ""),
    # HCL
    "one word": (UNKNOWN, filled("x", start="a {\nb = "), "is an expression"),
    "one word, 80 KB": (UNKNOWN, times("x", 80_000, start="a {\nb = "), "is an expression"),
    "many words": (UNKNOWN, filled("word ", start="a {\nb = "), QUOTES),
    "many words of keys": (UNKNOWN, filled("a" * 39 + " ", start="a {\n"), NOT_HCL),
    "one word in HCL": ("x.hcl", filled("x"), NOT_HCL),
    "words in HCL": ("x.hcl", filled("a "), NOT_HCL),
    "lines of words in HCL": ("x.hcl", filled("a a a a a a a a\n"), NOT_HCL),
    "labels": (UNKNOWN, filled('"b" ', start="a ", end="{\n}\n"), "not valid"),
    "labels without end": ("x.hcl", filled('"b" ', start="a "), NOT_HCL),
    "a heredoc of blank lines": (UNKNOWN, filled("\n", start="a {\nb = <<E\n", end="E\n}\n"), MANY),
    "a heredoc of spaces": (UNKNOWN, filled(" ", start="a {\nb = <<-E\n", end="\nE\n}\n"), NO_LIST),
    "an open heredoc": (UNKNOWN, times("\n \n", 200_000, start="a {\nb = <<E\n"), "heredoc here"),
    "open heredocs": (UNKNOWN, times("b = <<E\n", 400_000, start="a {\n"), "heredoc here"),
    "heredocs": ("x.hcl", each(lambda n: f"b{n}=<<E{n}\n\nE{n}\n", 200_000), NO_LIST),
    "blank lines": ("x.hcl", filled("\n"), "is empty"),
    "white space": ("x.hcl", filled(" \t\r\n"), "is empty"),
    "comments": ("x.hcl", filled("#\n"), "is empty"),
    "comments in a row": ("x.hcl", filled("/**/"), "is empty"),
    "a comment of stars": ("x.hcl", filled("*", start="/*", end="*/"), "is empty"),
    "an open comment": ("x.hcl", filled("* /", start="/*"), "comment here is not closed"),
    "open comments": ("x.hcl", filled("/*"), NOT_HCL),
    "comments before a value": ("x.hcl", filled("/**/", start="a = "), NOT_HCL),
    "an open quote": ("x.hcl", filled("x", start='a = "'), OPEN),
    "open quotes": ("x.hcl", filled('a = "\n'), OPEN),
    "backslashes": ("x.hcl", filled("\\\\", start='a = "', end='"'), MANY),
    "backslashes in an open quote": ("x.hcl", filled("\\\\", start='a = "'), MANY),
    "dollars": ("x.hcl", filled("$", start='a = "', end='"'), NO_LIST),
    "doubled dollars": ("x.hcl", filled("$${", start='a = "', end='"'), MANY),
    "templates": ("x.hcl", filled("${a}", start='a = "', end='"'), "is an expression"),
    "text": ("x.hcl", filled("é\U0001f600", start='a = "', end='"', size=MAX_BYTES // 3), NO_LIST),
    "digits in HCL": ("x.hcl", filled("9", start="a = "), "is a huge number"),
    "digits of a fraction": ("x.hcl", filled("9", start="a = 0."), "is a huge number"),
    "minus signs": ("x.hcl", filled("-", start="a = "), "is an expression"),
    "operators": ("x.hcl", filled("+1", start="a = 1"), "is an expression"),
    "blocks": ("x.hcl", filled("a{}"), MANY),
    "peers of nothing": ("x.hcl", times("peers{}", MAX_ITEMS // 8), ""),
    "attributes": ("x.hcl", each(lambda n: f"a{n}=1\n", MAX_ITEMS - 1), NO_LIST),
    "attributes, and one twice": (
        "x.hcl",
        each(lambda n: f"a{n}=1\n", MAX_ITEMS - 2, end="a0=1"),
        "twice",
    ),
    "attributes in blocks": ("x.hcl", times("a{b=1 c=2 d=3}", MAX_ITEMS // 4 - 1), NO_LIST),
    "a list": ("x.hcl", times("1,", MAX_ITEMS - 2, start="a=[", end="]"), NO_LIST),
    "a long list": ("x.hcl", filled("1,", start="a=[", end="]"), MANY),
    "lists": ("x.hcl", times("[],", MAX_ITEMS - 2, start="a=[", end="]"), NO_LIST),
    "objects": ("x.hcl", times("{},", MAX_ITEMS - 2, start="a=[", end="]"), NO_LIST),
    "an object": ("x.hcl", each(lambda n: f"a{n}=1", MAX_ITEMS - 2, ",", "a={", "}"), NO_LIST),
    "an open list": ("x.hcl", filled("[", start="a="), DEEP),
    "open lists": ("x.hcl", filled("a=[\n"), QUOTES),
    "open blocks": ("x.hcl", filled("a{"), DEEP),
    "open objects": ("x.hcl", filled("a={"), DEEP),
    "closing braces": ("x.hcl", filled("}"), NOT_HCL),
    "parentheses": ("x.hcl", filled("(", start="a="), "is an expression"),
    "a loop": ("x.hcl", filled("for x in ", start="a=["), "is an expression"),
    "a list of peers cut off": (UNKNOWN, _cut(each(hcl_peer, 20_000), 5_000_000), "too early"),
    # TOML
    "digits": (UNKNOWN, times("9", 5_000_000, start="a = "), "more than 1000 digits"),
    "digits, hexadecimal": (UNKNOWN, filled("9", start="a = 0x"), "more than 1000 digits"),
    "digits, of a fraction": (UNKNOWN, filled("9", start="a = 1."), "more than 1000 digits"),
    "digits and lines": (UNKNOWN, filled("_9", start="a = [\n9"), "more than 1000 digits"),
    "many large numbers": (UNKNOWN, filled("9" * 999 + ",", start="a = [", end="]"), NO_LIST),
    "tables": (UNKNOWN, each(lambda n: f"[a{n}]\n", MAX_ITEMS // 2 - 1), NO_LIST),
    "lists of tables": (UNKNOWN, times("[[a]]\n", MAX_ITEMS // 3 - 1), NO_LIST),
    "lists of tables in tables": (UNKNOWN, times("[[a]]\n[[a.b]]\n", MAX_ITEMS // 6 - 1), NO_LIST),
    "keys": (UNKNOWN, each(lambda n: f"a{n}=1\n", MAX_ITEMS - 1), NO_LIST),
    "keys, and one twice": (
        UNKNOWN,
        each(lambda n: f"a{n}=1\n", MAX_ITEMS - 1, end="a0=1"),
        "twice",
    ),
    "a table twice": (UNKNOWN, times("[" + "x" * 4_000_000 + "]\n", 2), "Cannot declare"),
    "keys below a deep table": (
        UNKNOWN,
        each(lambda n: f"a{n}=1\n", MAX_ITEMS - 3, start="[" + "b." * 15 + "b]\n"),
        NO_LIST,
    ),
    "keys below a very deep table": (
        UNKNOWN,
        each(lambda n: f"a{n}=1\n", MAX_ITEMS - 3, start="[" + "b." * 900 + "b]\n"),
        "a key of more than 16 parts",
    ),
    "deep tables": (UNKNOWN, each(lambda n: f"[a{n}{'.b' * 15}]\n", MAX_DOTS // 15 - 1), NO_LIST),
    "too many deep tables": (
        UNKNOWN,
        each(lambda n: f"[a{n}{'.b' * 15}]\n", MAX_DOTS // 15 + 9),
        "dots in keys",
    ),
    "deep keys": (UNKNOWN, each(lambda n: f"a{n}.b=1\n", MAX_DOTS - 1), NO_LIST),
    "a very deep key": (UNKNOWN, filled(".a", start="a", end="=1"), "a key of more than 16 parts"),
    "a very deep key in quotes": (UNKNOWN, filled('."."', start='"b"', end="=1"), "16 parts"),
    "keys in one line": (
        UNKNOWN,
        each(lambda n: f"a{n}=1", MAX_ITEMS - 2, ",", "a={", "}"),
        NO_LIST,
    ),
    "inline tables": (UNKNOWN, times("{a={}},", MAX_ITEMS // 3 - 1, start="a=[", end="]"), NO_LIST),
    "a long list in TOML": (UNKNOWN, filled("1,", start="a=[", end="]"), MANY),
    "open lists in TOML": (UNKNOWN, times("[", 400_000, start="a="), DEEP),
    "open tables in TOML": ("x.toml", times("{a=", 400_000, start="a="), DEEP),
    "escapes": ("x.toml", filled("\\n", start='a="', end='"'), NO_LIST),
    "open texts": (UNKNOWN, times('"""\n', 400_000, start="[a]\nb="), "not valid TOML"),
    "quotes": (UNKNOWN, filled('""x', start='a="""', end='"""'), NO_LIST),
    "dates": (UNKNOWN, filled("1979-05-27T00:32:00.999999-07:00,", start="a=[", end="]"), NO_LIST),
    "equals signs": (UNKNOWN, filled("x=x"), "not valid TOML"),
    "lines of TOML": ("x.toml", filled("\n"), MANY),
    "carriage returns": (UNKNOWN, filled("\r"), "is empty"),
    "words of TOML": (UNKNOWN, filled("a "), "not valid TOML"),
    "spaces before a word": (UNKNOWN, filled(" ", end="x"), "not valid TOML"),
    "a list of TOML cut off": (UNKNOWN, _cut(each(toml_peer, 40_000), 5_000_011), "not valid TOML"),
    # JSON
    "digits in JSON": (UNKNOWN, filled("9", start='{"a":', end="}"), "a number is too large"),
    "a fraction in JSON": (UNKNOWN, filled("9", start='{"a":1.', end="}"), NO_LIST),
    "open lists in JSON": (UNKNOWN, times("[", 400_000, start='{"a":'), DEEP),
    "open objects in JSON": (UNKNOWN, times('{"a":', 400_000), DEEP),
    "a long list in JSON": (UNKNOWN, filled("0,", start='{"a":[', end="0]}"), MANY),
    "keys in JSON": (UNKNOWN, each(lambda n: f'"a{n}":0', MAX_ITEMS - 2, ",", "{", "}"), NO_LIST),
    "keys in JSON, and one twice": (
        UNKNOWN,
        each(lambda n: f'"a{n}":0', MAX_ITEMS - 2, ",", "{", ',"a0":0}'),
        "is given twice",
    ),
    "escapes in JSON": (UNKNOWN, filled("\\u0041", start='{"a":"', end='"}'), NO_LIST),
    # What is none of them
    "a page": (UNKNOWN, filled("<p>Not found</p>\n"), "this is a web page"),
    "too large": (UNKNOWN, times("#\n", MAX_BYTES), f"larger than {MAX_BYTES} bytes"),
}

CONFIGS: dict[str, Case] = {
    "unknown keys": (UNKNOWN, each(lambda n: f"a{n}=1\n", 90_000), "unknown key"),
    "unknown keys in HCL": ("x.hcl", each(lambda n: f"a{n}=1\n", 90_000), "unknown key"),
    "long unknown keys": (UNKNOWN, each(lambda n: f"{'peers' * 200}{n}=1\n", 900), "unknown key"),
    "unknown blocks": ("x.hcl", each(lambda n: f"a{n}{{}}\n", 90_000), "unknown key"),
    "transports": (UNKNOWN, times("[[transport]]\n", 70_000), "is missing"),
    "transports in HCL": (UNKNOWN, times("transport {\n}\n", 70_000), "is missing"),
    "words": (UNKNOWN, filled("word ", start="a {\nb = ", size=MAX_CONFIG_BYTES), QUOTES),
    "numbers": (UNKNOWN, filled("9", start="a {}\nmax_removals = ", size=MAX_CONFIG_BYTES), "huge"),
    "too large": (UNKNOWN, times("#\n", MAX_CONFIG_BYTES), f"larger than {MAX_CONFIG_BYTES} bytes"),
}


def _state(field: str) -> tuple[str, str]:
    """The beginning and the end of a state whose field is to be filled."""
    return f'{{"format":"rait-state-1","{field}":[', "0]}"


NO_STATE = "not a state that rait exported"

STATES: dict[str, Case] = {
    "open lists": ("state.json", times("[", 400_000, start='{"a":'), NO_STATE),
    "open objects": ("state.json", times('{"a":', 400_000), NO_STATE),
    "digits": ("state.json", filled("9", start='{"exported_at":', end="}"), NO_STATE),
    "more than there should be": (
        "state.json",
        filled("0,", start=_state("x")[0], end=_state("x")[1], size=MAX_STATE_BYTES),
        NO_STATE,
    ),
    "objects": (
        "state.json",
        filled('{"a":[]},', start=_state("x")[0], end=_state("x")[1], size=MAX_STATE_BYTES),
        NO_STATE,
    ),
    "a list for links": (
        "state.json",
        filled("{},", start=_state("observation")[0], end=_state("observation")[1]),
        NO_STATE,
    ),
    "too large": ("state.json", times("[]\n", MAX_STATE_BYTES), f"larger than {MAX_STATE_BYTES}"),
}
