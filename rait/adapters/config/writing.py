"""Writes entries of a peers list as text in HCL, TOML or JSON, which ``formats`` reads back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from rait.domain.entry import Entry, flat

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*+")
_BARE = re.compile(r"[A-Za-z0-9_-]++")
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_BEYOND_16_BITS = 0x10000


def hcl(entry: Entry) -> str:
    """An entry in the nested spelling, as a block ``peers``."""
    return "\n".join(["peers {", *_body(entry), "}", ""])


def _body(block: Mapping[str, object]) -> Iterator[str]:
    for key, value in block.items():
        if key == "endpoint" and isinstance(value, list):
            for endpoint in value:
                yield from _block(key, endpoint)
        elif isinstance(value, Mapping) and all(map(_NAME.fullmatch, value)):
            yield from _block(key, value)
        else:
            yield f"  {key} = {_value(value, _hcl_text, _hcl_text)}"


def _block(key: str, block: Mapping[str, object]) -> Iterator[str]:
    yield f"  {key} {{"
    yield from (f"    {k} = {_value(v, _hcl_text, _hcl_text)}" for k, v in block.items())
    yield "  }"


def toml(entry: Entry) -> str:
    """An entry in the flat spelling, as tables ``[[Peers]]``. What is null is left out."""
    return "\n".join(line for part in flat(entry) for line in _table(part))


def _table(entry: Entry) -> Iterator[str]:
    yield "[[Peers]]"
    for key, value in entry.items():
        if value is not None:
            yield f"{key} = {_value(_without_null(value), _text, _toml_key)}"
    yield ""


def _without_null(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value if item is not None]
    return value


def json(entry: Entry) -> str:
    """An entry in the nested spelling, in a list ``peers``."""
    from msgspec import json

    return json.format(json.encode({"peers": [entry]}), indent=2).decode() + "\n"


def _value(value: object, text: Callable[[str], str], name: Callable[[str], str]) -> str:
    if isinstance(value, Mapping):
        items = ", ".join(f"{name(k)} = {_value(v, text, name)}" for k, v in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item, text, name) for item in value)}]"
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _text(text: str) -> str:
    """Text in quotes, by the escapes that HCL and TOML have in common."""
    return f'"{"".join(map(_character, text))}"'


def _character(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    if character.isprintable():
        return character
    point = ord(character)
    return f"\\u{point:04x}" if point < _BEYOND_16_BITS else f"\\U{point:08x}"


def _hcl_text(text: str) -> str:
    """A text in which no template begins; readers differ in what they make of ``$${``."""
    return _text(text).replace("${", "\\u0024{").replace("%{", "\\u0025{")


def _toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


WRITERS: Mapping[str, Callable[[Entry], str]] = {"hcl": hcl, "toml": toml, "json": json}
