"""Whom a node trusts to sign its peers list, and whether a list is signed so."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from rait.adapters import minisign
from rait.adapters.config import source
from rait.adapters.config.bounds import MAX_KEY_BYTES
from rait.adapters.config.source import Read, display_name
from rait.domain.digests import fast_sha256
from rait.domain.errors import ConfigError, SourceError
from rait.domain.minisign import PublicKey, Signature, looks_like_key, public_key, signature, signed
from rait.domain.signed import SIGN_IT, Signed, refusal

BOM = "\ufeff"


class Trust(Struct, frozen=True):
    """Who may sign a list, and the list that was accepted last, which none may be older than."""

    keys: tuple[PublicKey, ...]
    last: Signed | None = None

    def check(self, url: str, text: str, signed_by: str) -> Signed:
        """Which list the text from this URL is, by the text of its signature.

        Raises SourceError, which says what to do, for a list that is not to be used.
        """
        try:
            found = signature(signed_by)
            self._verify(text, found)
            which = signed(found, fast_sha256()(text.encode()).hexdigest())
        except ValueError as error:
            name = display_name(source.signature_of(url))
            raise SourceError(f"{name}: the signature {error}") from None
        if (why := refusal(which, self.last)) is not None:
            raise SourceError(f"{display_name(url)}: the list is refused: {why}")
        return which

    def _verify(self, text: str, found: Signature) -> None:
        key = next((key for key in self.keys if key.number == found.key), None)
        if key is None:
            known = ", ".join(key.number for key in self.keys)
            raise ValueError(
                f"is by key {found.key}, and only {known} may sign: sign the list with that key, "
                "or, if the signer has a new one, put its public key into peers_public_key"
            )
        content = text.encode()
        # A byte order mark is no part of the text, but perhaps of the file that was signed.
        if not any(minisign.is_signed(c, found, key) for c in (content, BOM.encode() + content)):
            raise ValueError(
                f"is not one of this list by key {found.key}: the list was changed after it was "
                f"signed, or only one of the two files is new yet. If the list is right, {SIGN_IT}"
            )
        if not minisign.is_trusted(found, key):
            raise ValueError("has a trusted comment that was changed: copy it again")


def trust_in(keys: Iterable[str], last: Signed | None = None, *, read: Read = source.read) -> Trust:
    """The trust in these keys, each a key or the path of a file that has one.

    Raises ConfigError where one of them is no key.
    """
    return Trust(tuple(_key(key, read) for key in keys), last)


def _key(spelt: str, read: Read) -> PublicKey:
    name = "it" if looks_like_key(spelt) else display_name(spelt)
    try:
        return public_key(spelt if looks_like_key(spelt) else read(spelt, limit=MAX_KEY_BYTES))
    except SourceError as error:
        raise ConfigError(f"the public key of who signs the peers list: {error}") from None
    except ValueError as error:
        raise ConfigError(f"the public key of who signs the peers list: {name} {error}") from None
