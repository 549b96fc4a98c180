"""Signatures of lists: by the real minisign, and by a few lines that make what minisign makes."""

from __future__ import annotations

import hashlib
import subprocess
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.tiers import need


class Signer:
    """Who signs with the real program; ``key`` is the public key, and ``public`` its file."""

    def __init__(self, directory: Path, name: str = "minisign") -> None:
        self.public = directory / f"{name}.pub"
        self.secret = directory / f"{name}.key"
        self._run("-G", "-W", "-p", str(self.public), "-s", str(self.secret))
        comment, self.key = self.public.read_text().splitlines()
        self.number = comment.split()[-1]

    def sign(self, path: Path, comment: str | None = None, *more: str) -> Path:
        """Sign a file; the file with the signature."""
        trusted = () if comment is None else ("-t", comment)
        self._run("-S", "-s", str(self.secret), "-m", str(path), *trusted, *more)
        return path.with_name(f"{path.name}.minisig")

    def text(self, path: Path, list_: str, comment: str | None = None, *more: str) -> str:
        """The signature of a text, which is written to the path first."""
        path.write_text(list_)
        return self.sign(path, comment, *more).read_text()

    def _run(self, *arguments: str) -> None:
        command = [need("minisign", "minisign"), *arguments]
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class QuickSigner:
    """Signs as minisign does, without a program."""

    def __init__(self, seed: bytes = bytes(32), number: bytes = b"12345678") -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._number = number
        raw = self._private.public_key().public_bytes_raw()
        self.key = b64encode(b"Ed" + number + raw).decode()

    def text(self, list_: str, comment: str, untrusted: str = "") -> str:
        """The signature of a text."""
        raw = self._private.sign(hashlib.blake2b(list_.encode()).digest())
        both = self._private.sign(raw + comment.encode())
        line = b64encode(b"ED" + self._number + raw).decode()
        return (
            f"untrusted comment: {untrusted}\n{line}\ntrusted comment: {comment}\n"
            f"{b64encode(both).decode()}\n"
        )
