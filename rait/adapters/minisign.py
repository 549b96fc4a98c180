"""Whether a signature of minisign is good: Ed25519 (RFC 8032), from a library that loads slowly."""

from __future__ import annotations

from rait.domain.minisign import PublicKey, Signature


def is_signed(content: bytes, signature: Signature, key: PublicKey) -> bool:
    """Whether the key has signed this content (what minisign 0.10 and later make)."""
    import hashlib

    return _is_good(key, signature.raw, hashlib.blake2b(content).digest())


def is_trusted(signature: Signature, key: PublicKey) -> bool:
    """Whether the key has signed the trusted comment, as one of this signature."""
    comment = signature.comment.encode("utf-8", "surrogatepass")
    return _is_good(key, signature.of_both, signature.raw + comment)


def _is_good(key: PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, message)
    except InvalidSignature:
        return False
    return True
