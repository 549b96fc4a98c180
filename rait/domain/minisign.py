"""What minisign's files say (https://jedisct1.github.io/minisign/).

A key and a signature are each a line of base64: two letters for the algorithm, the number of the
key, and the key or the signature itself. A second signature covers the first one and the trusted
comment.

1. Only signatures of the list's BLAKE2b-512 count (``ED``). minisign made others (``Ed``) before
   0.10. The letters themselves are not signed: with both, a list could pass for the digest of one.
2. What the format has in one spelling is read in that spelling alone.

This is apart from signed.py, as few lists are signed, and every run has to load that one.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

from msgspec import Struct

from rait.domain.signed import Kind, Signed

_KEY, _HASHED, _LEGACY = b"Ed", b"ED", b"Ed"
_NUMBER_BYTES, _KEY_BYTES, _SIGNATURE_BYTES = 8, 32, 64
_UNTRUSTED, _TRUSTED = "untrusted comment: ", "trusted comment: "
_LINES = 4
_MOST_DIGITS = 18
"""So many digits of a number fit into 64 bits."""

_KINDS: tuple[Kind, ...] = ("serial", "timestamp")


class PublicKey(Struct, frozen=True):
    """Who may sign. ``number`` tells the key from others, spelt as minisign spells it."""

    number: str
    raw: bytes


class Signature(Struct, frozen=True):
    """What is in a signature's file: who signed, the signature, the trusted comment, and the
    signature that covers these two.
    """

    key: str
    raw: bytes
    comment: str
    of_both: bytes


def public_key(text: str) -> PublicKey:
    """The key in minisign's line of base64, or in a file with a comment above that line.

    Raises ValueError with a text to follow the name of the key or file.
    """
    comment, _, line = text.strip().rpartition("\n")
    if "secret key" in comment:
        raise ValueError(
            "is minisign's secret key, which must stay with who signs: give the public one (.pub)"
        )
    raw = _decoded(line.strip(), _NUMBER_BYTES + _KEY_BYTES) if "\n" not in comment else b""
    if raw[:2] != _KEY:
        raise ValueError(
            "is no public key of minisign: that is a line of 56 characters that begins with RW, as "
            "`minisign -G` prints it and writes it to minisign.pub"
        )
    return PublicKey(_number(raw), raw[2 + _NUMBER_BYTES :])


def looks_like_key(text: str) -> bool:
    """Whether a text that says who may sign is meant to be a key, and not the path of a file."""
    return text.startswith("RW") and len(text) >= 40 and "." not in text


def signature(text: str) -> Signature:
    """What a signature's file says.

    Raises ValueError with a text to follow the name of the file.
    """
    if "\r" in text:
        raise ValueError(
            "has line ends of Windows (CRLF), so it was changed after minisign wrote it"
        )
    lines = text.removesuffix("\n").split("\n")
    first = lines[0].startswith(_UNTRUSTED)
    if len(lines) != _LINES or not first or not lines[2].startswith(_TRUSTED):
        raise ValueError("is no signature of minisign, or it is cut off: copy it again")
    raw = _decoded(lines[1], _NUMBER_BYTES + _SIGNATURE_BYTES)
    of_both = _decoded(lines[3], _SIGNATURE_BYTES - 2)
    if raw[:2] == _LEGACY:
        raise ValueError(
            "is of minisign's former format: sign the list again with minisign 0.10 or later, "
            "without -l"
        )
    if raw[:2] != _HASHED or not of_both:
        raise ValueError("is damaged: what should be a signature is none; copy it again")
    return Signature(_number(raw), raw[2 + _NUMBER_BYTES :], lines[2][len(_TRUSTED) :], of_both)


def signed(found: Signature, digest: str) -> Signed:
    """Which list a signature that was verified is of. ``digest`` is as in Signed.

    Raises ValueError as ``signature`` does, for a comment that cannot be understood.
    """
    for kind in _KINDS:
        marks = [w for w in found.comment.split() if w.startswith(f"{kind}:")]
        if marks:
            number = marks[0].partition(":")[2]
            whole = number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS
            if not whole or len(marks) > 1:
                raise ValueError(
                    f"has a trusted comment in which {kind}: is not followed by a whole number, or "
                    "is there twice: sign the list again"
                )
            return Signed(found.key, kind, int(number), digest)
    return Signed(found.key, digest=digest)


def _decoded(line: str, size: int) -> bytes:
    """The bytes of a line of base64: two letters and ``size`` more; b"" for anything else."""
    try:
        raw = a2b_base64(line.encode("ascii"))
    except (Error, UnicodeEncodeError):
        return b""
    # Other characters, and bits that are left over, are skipped above.
    is_canonical = b2a_base64(raw, newline=False).decode("ascii") == line
    return raw if is_canonical and len(raw) == 2 + size else b""


def _number(raw: bytes) -> str:
    return f"{int.from_bytes(raw[2 : 2 + _NUMBER_BYTES], 'little'):X}"
