"""Whatever is changed in a list, its signature or the key: refused; what is signed: accepted."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rait.app.signed import trust_in
from rait.domain.errors import RaitError
from rait.domain.signed import Kind, Signed, refusal
from tests.minisign import QuickSigner

SIGNER = QuickSigner()
LIST = '[[Peers]]\nPublicKey = "x"\n'
SIGNATURE = SIGNER.text(LIST, "timestamp:1795687156\tfile:peers.toml\thashed")
URL = "/lists/peers.toml"

texts = st.text(st.characters(codec="utf-8"))
lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=60)
letters = st.characters(codec="utf-8") | st.sampled_from("AB+/=\n\r \t:\ufeff0")


@st.composite
def changed(draw: st.DrawFn, text: str, first: int = 0) -> str:
    """The text with a part cut out at ``first`` or later, and others put in its place."""
    begin = draw(st.integers(first, len(text)))
    end = draw(st.integers(begin, min(len(text), begin + 3)) | st.just(len(text)))
    new = text[:begin] + draw(st.text(letters, max_size=3)) + text[end:]
    assume(new != text)
    return new


def accepted(text: str, signature: str, key: str = SIGNER.key) -> Signed:
    return trust_in([key]).check(URL, text, signature)


@given(texts, lines, lines, st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8))
def test_what_is_signed_is_accepted(
    text: str, comment: str, untrusted: str, seed: bytes, number: bytes
) -> None:
    assume("serial:" not in comment and "timestamp:" not in comment)
    signer = QuickSigner(seed, number)
    found = accepted(text, signer.text(text, comment, untrusted), signer.key)
    spelt = f"{int.from_bytes(number, 'little'):X}"
    assert found == Signed(spelt, digest=sha256(text.encode()).hexdigest())


@given(changed(LIST))
@example(LIST.replace("\n", "\r\n"))
def test_a_changed_list_is_refused(text: str) -> None:
    assert accepted(LIST, SIGNATURE).number == 1795687156
    with pytest.raises(RaitError, match=r"peers\.toml\.minisig: the signature is not one of this"):
        accepted(text, SIGNATURE)


@given(changed(SIGNATURE, SIGNATURE.index("\n")))
@example(SIGNATURE.replace("\n", "\r\n"))
@example(SIGNATURE.replace("1795687156", "1795687157"))
@example(SIGNATURE.replace("=\n", "\n"))
def test_a_changed_signature_is_refused(signature: str) -> None:
    assume(signature != SIGNATURE.removesuffix("\n"))  # minisign takes that, too
    # A longer untrusted comment: nobody has signed it.
    assume(signature.split("\n")[1:] != SIGNATURE.split("\n")[1:])
    with pytest.raises(RaitError, match=r"peers\.toml\.minisig: the signature "):
        accepted(LIST, signature)


@given(changed(SIGNER.key))
def test_a_changed_key_accepts_nothing(key: str) -> None:
    assume(key.strip() != SIGNER.key)
    with pytest.raises(RaitError):
        accepted(LIST, SIGNATURE, key)


@given(texts)
def test_any_text_in_the_place_of_a_signature_is_refused(signature: str) -> None:
    with pytest.raises(RaitError):
        accepted(LIST, signature)


kinds = st.sampled_from(("", "timestamp", "serial"))


@st.composite
def lists(draw: st.DrawFn) -> Signed:
    kind: Kind = draw(kinds)
    number = draw(st.integers(0, 4)) if kind else 0
    return Signed(draw(st.sampled_from("KL")), kind, number, draw(st.sampled_from("xyz")))


@given(st.lists(lists(), max_size=12))
def test_no_list_comes_back(offers: list[Signed]) -> None:
    """As a node is offered lists, each that it accepts is newer than all before, or the same."""
    last: Signed | None = None
    past: list[Signed] = []
    for offer in offers:
        if refusal(offer, last) is not None:
            assert last is not None
            continue
        for old in past:
            assert offer.order >= old.order
            assert offer.order > old.order or offer.digest == old.digest or not offer.kind
        past.append(offer)
        last = offer
        assert refusal(offer, last) is None, "the same list is accepted again"


@given(lists(), lists())
def test_of_two_lists_one_can_follow_the_other(one: Signed, other: Signed) -> None:
    assume(one.order != other.order)
    follows = [refusal(new, old) is None for new, old in ((one, other), (other, one))]
    assert any(follows)
    assert sum(follows) == 1 or "" in (one.kind, other.kind)
