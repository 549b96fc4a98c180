"""Signed lists, with the real minisign: what is refused, what is said, and what is remembered."""

from __future__ import annotations

import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from rait.app.signed import trust_in
from rait.domain.errors import ConfigError, SourceError
from rait.domain.signed import Signed, refusal
from tests.minisign import Signer
from tests.tiers import need

LIST = '[[Peers]]\nPublicKey = "AAAA"\n'
Change = Callable[[str], str]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signed")


@pytest.fixture(scope="module")
def signer(directory: Path) -> Signer:
    return Signer(directory)


@pytest.fixture(scope="module")
def another(directory: Path) -> Signer:
    return Signer(directory, "another")


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "peers.toml"


def check(signer: Signer, path: Path, signature: str, text: str = LIST) -> Signed:
    return trust_in([signer.key]).check(str(path), text, signature)


def test_what_minisign_signs_is_accepted(signer: Signer, path: Path) -> None:
    signature = signer.text(path, LIST)
    found = check(signer, path, signature)
    assert (found.key, found.kind) == (signer.number, "timestamp")
    assert found.number > 1_700_000_000
    assert signer.number in found.told
    assert trust_in([str(signer.public)]).check(str(path), LIST, signature) == found
    marked = signer.text(path, "\ufeff" + LIST)
    assert check(signer, path, marked).digest == found.digest, "a byte order mark is not the list"


@pytest.mark.parametrize(
    ("comment", "kind", "number"),
    [
        ("serial:7", "serial", 7),
        ("timestamp:5 serial:007\tby me", "serial", 7),
        ("made on timestamp:12", "timestamp", 12),
        ("the list of monday", "", 0),
        ("a-serial:7", "", 0),
        ("Köln", "", 0),
    ],
)
def test_the_trusted_comment_tells_which_list_it_is(
    signer: Signer, path: Path, comment: str, kind: str, number: int
) -> None:
    found = check(signer, path, signer.text(path, LIST, comment))
    assert (found.kind, found.number) == (kind, number)


@pytest.mark.parametrize(
    "comment",
    ["serial:", "serial:-1", "serial:1e3", "serial:٣", "serial:1 serial:2", f"serial:{10**18}"],
)
def test_a_number_that_is_none_is_refused(signer: Signer, path: Path, comment: str) -> None:
    with pytest.raises(SourceError, match="serial: is not followed by a whole number"):
        check(signer, path, signer.text(path, LIST, comment))


def line(number: int, change: Change) -> Change:
    """A change of one line of a signature, without its end."""

    def changed(text: str) -> str:
        lines = text.split("\n")
        lines[number] = change(lines[number])
        return "\n".join(lines)

    return changed


def raw(change: Callable[[bytes], bytes]) -> Change:
    return lambda text: b64encode(change(b64decode(text))).decode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: "", "cut off: copy it again"),
        (lambda text: text[: len(text) // 2], "cut off: copy it again"),
        (lambda text: text.rsplit("\n", 2)[0], "cut off: copy it again"),
        (lambda text: text + "more\n", "no signature of minisign"),
        (lambda text: text.replace("\n", "\r\n"), "line ends of Windows"),
        (line(2, lambda text: text + "0"), "a trusted comment that was changed"),
        (line(1, raw(lambda r: r[:2] + bytes(8) + r[10:])), "is by key 0, and only"),
        (line(1, raw(lambda r: r[:10] + bytes(64))), "is not one of this list"),
        (line(1, raw(lambda r: r[:10] + b"\xff" * 64)), "is not one of this list"),
        (line(1, raw(lambda r: r[:42] + b"\xff" * 32)), "is not one of this list"),
        (line(1, raw(lambda r: r[:10] + b"\xff" * 32 + r[42:])), "is not one of this list"),
        (line(1, raw(lambda r: b"XX" + r[2:])), "is damaged"),
        (line(1, raw(lambda r: r + b"\0")), "is damaged"),
        (line(1, lambda text: text + " "), "is damaged"),
        (line(3, lambda text: text[:-4]), "is damaged"),
        (line(3, raw(lambda r: r[::-1])), "a trusted comment that was changed"),
        (line(3, lambda _: "é"), "is damaged"),
    ],
)
def test_a_damaged_signature_is_refused(
    signer: Signer, path: Path, change: Change, says: str
) -> None:
    signature = signer.text(path, LIST)
    with pytest.raises(SourceError) as refused:
        check(signer, path, change(signature))
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"{path}.minisig: the signature ")


def test_a_signature_of_another_list_is_refused(signer: Signer, path: Path) -> None:
    with pytest.raises(SourceError, match="only one of the two files is new yet"):
        check(signer, path, signer.text(path, LIST + "#"))


def test_a_signature_by_somebody_else_is_refused(
    signer: Signer, another: Signer, path: Path
) -> None:
    signature = another.text(path, LIST)
    with pytest.raises(SourceError, match=f"key {another.number}, and only {signer.number} may"):
        check(signer, path, signature)
    assert trust_in([signer.key, another.key]).check(str(path), LIST, signature).number
    # Somebody else, under the number of the key that may sign.
    theirs, ours = (b64decode(each.key) for each in (another, signer))
    forged = b64encode(ours[:10] + theirs[10:]).decode()
    with pytest.raises(SourceError, match="is not one of this list"):
        trust_in([forged]).check(str(path), LIST, signer.text(path, LIST))


def test_the_former_format_is_refused_although_minisign_takes_it(
    signer: Signer, path: Path
) -> None:
    """The letters that tell the two apart are not signed."""
    signature = signer.text(path, LIST, None, "-l")
    command = [need("minisign", "minisign"), "-V", "-p", str(signer.public), "-m", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    with pytest.raises(SourceError, match="former format: sign the list again"):
        check(signer, path, signature)
    as_if_hashed = line(1, raw(lambda r: b"ED" + r[2:]))(signature)
    with pytest.raises(SourceError, match="is not one of this list"):
        check(signer, path, as_if_hashed)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "RW", "RW" + "A" * 54, "hello", "untrusted comment: x\n", "a\nb\nc", "é", "RW\0"],
)
def test_a_file_that_has_no_key_is_refused(directory: Path, text: str) -> None:
    file = directory / "no.pub"
    file.write_text(text)
    if text == "RW" + "A" * 54:
        file.write_text("RX" + "A" * 54)
    with pytest.raises(ConfigError, match=r"who signs the peers list: \S*no\.pub"):
        trust_in([str(file)])


def test_a_secret_key_is_told(signer: Signer, directory: Path) -> None:
    with pytest.raises(ConfigError, match="secret key, which must stay with who signs") as refused:
        trust_in([str(signer.secret)])
    assert signer.secret.read_text().splitlines()[1] not in str(refused.value)
    with pytest.raises(ConfigError, match="there is no such file"):
        trust_in([str(directory / "missing.pub")])


T5, T6, S1, S2, NONE = (
    Signed("K", "timestamp", 5, "x"),
    Signed("K", "timestamp", 6, "y"),
    Signed("K", "serial", 1, "x"),
    Signed("L", "serial", 2, "y"),
    Signed("K", digest="z"),
)


@pytest.mark.parametrize(
    ("new", "last"),
    [(T6, T5), (T5, T5), (S1, T6), (S2, S1), (NONE, NONE), (T5, NONE), (T5, None), (NONE, None)],
)
def test_a_newer_list_is_accepted_and_so_is_the_same(new: Signed, last: Signed | None) -> None:
    assert refusal(new, last) is None


@pytest.mark.parametrize(("new", "last"), [(T5, T6), (T6, S1), (S1, S2), (NONE, T5), (NONE, S1)])
def test_an_older_list_is_refused(new: Signed, last: Signed) -> None:
    why = refusal(new, last)
    assert why is not None
    assert "--accept-older" in why
    assert new.told in why
    assert last.told in why


def test_another_list_with_the_same_number_is_refused() -> None:
    why = refusal(Signed("K", "serial", 1, "other"), S1)
    assert why is not None
    assert "sign it again, with a higher number" in why
