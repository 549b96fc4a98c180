"""WireGuard keys as text: base64 of 32 bytes (wg(8)), and how to quote text that may hold a key.

No message made here quotes a key: a key in the place of a public one may be private.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Container, Iterator, Mapping

from rait.domain.errors import counted

KEY_BYTES = 32
_HEX_KEY = r"\b[0-9A-Fa-f]{64}\b"
_KEYLIKE = rf"[A-Za-z0-9+/_-]{{40,}}=*|{_HEX_KEY}"
_WHOLE_KEY = r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
_EITHER_KEY = rf"{_WHOLE_KEY}|{_HEX_KEY}"
_LONGEST_SHOWN = 80
MORE_THAN_A_KEY = 100
"""More characters than a key has, in base64 or hex."""

_KEY_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-="


def canonical_key(value: object) -> str:
    """The one base64 spelling of a key.

    Raises ValueError with a text to follow the key's name in a sentence; the text never holds the
    value. The all-zero key is refused: WireGuard takes it as "no key".
    """
    if not isinstance(value, str):
        raise ValueError(f"must be a key in base64, not {kind_of(value)}")
    try:
        raw = a2b_base64(value.strip().encode("ascii"), strict_mode=True)
    except (Error, UnicodeEncodeError):
        raise ValueError("is not a WireGuard key: it is not valid base64") from None
    if len(raw) != KEY_BYTES:
        raise ValueError(
            f"is not a WireGuard key: {counted(len(raw), 'byte')} instead of {KEY_BYTES}"
        )
    if not any(raw):
        raise ValueError("is the all-zero key, which WireGuard takes as no key")
    return b2a_base64(raw, newline=False).decode("ascii")


def key_or_none(value: object) -> str | None:
    """The one base64 spelling of a key; None for what is no key."""
    try:
        return canonical_key(value)
    except ValueError:
        return None


def is_key(text: str) -> bool:
    """Whether a text is a key and nothing else."""
    return key_or_none(text) is not None


def without_keys(text: str) -> str:
    """Leave out of a text all that could be a key, in base64 or hex."""
    return re.sub(_KEYLIKE, "(left out)", text)


def without_whole_keys(text: str) -> str:
    """Leave out of a text each WireGuard key in base64; a long path, which may look so, stays."""
    return text if "=" not in text else re.sub(_WHOLE_KEY, "(left out)", text)


def without_keys_but(public: Container[str], text: str) -> str:
    """Leave out of a text each key in base64 or hex, but those that are known to be public."""
    return re.sub(_EITHER_KEY, lambda m: m[0] if m[0] in public else "(left out)", text)


def whole_keys(text: str) -> Iterator[tuple[int, str]]:
    """Each key in a text, in base64 or hex: where it is, and itself in base64."""
    for found in re.finditer(_EITHER_KEY, text):
        is_hex = len(found[0]) == 2 * KEY_BYTES
        raw = bytes.fromhex(found[0]) if is_hex else a2b_base64(found[0])
        yield found.start(), b2a_base64(raw, newline=False).decode("ascii")


def brief(text: str, most: int) -> str:
    """The first ``most`` characters of a text without its keys, however long the text is."""
    window = text[: most + MORE_THAN_A_KEY]
    clean = without_keys(window)
    if len(window) < len(text):
        # What the window ends in may be the beginning of a key.
        clean = clean.rstrip(_KEY_CHARACTERS)
    return clean if len(window) == len(text) and len(clean) <= most else clean[:most] + "…"


def shown(value: object) -> str:
    """A value fit for a message: quoted, printable, short, and never a key."""
    text = brief(value if isinstance(value, str) else _short(value), _LONGEST_SHOWN)
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return f'"{printable}"' if isinstance(value, str) else printable


def _short(value: object) -> str:
    if isinstance(value, bool | float):
        return str(value).lower()
    if isinstance(value, int):
        # Digits of a huge number take long to work out, and Python refuses them past 4300.
        return str(value) if value.bit_length() <= 64 else "a huge number"
    return kind_of(value)


_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "true or false",  # comes before int, which it is too
    int: "a whole number",
    float: "a number with a fraction",
    str: "text",
    dict: "a block",
    list: "a list",
    tuple: "a list",
}


def kind_of(value: object) -> str:
    """The type of a value, in the words of a person who writes configuration."""
    fitting = (words for kind, words in _KINDS.items() if isinstance(value, kind))
    return next(fitting, "a date or time")
