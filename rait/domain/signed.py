"""Signed peers lists: which list a node acted on, and which of two is the older one.

In the trusted comment of a signature its signer says which of his lists it is. No clock is asked,
as it may be wrong: a list is older than another by what its signer wrote.
"""

from typing import Literal, get_args

from msgspec import Struct

SIGN_IT = "sign it with `minisign -Sm LIST`, and put LIST.minisig beside it"
UNORDERED = (
    "the signature's trusted comment has neither serial: nor timestamp:, so nobody can tell "
    "whether an older list was put in its place"
)

Kind = Literal["", "timestamp", "serial"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
"""Of two lists of different kinds, that of the later one is newer."""


class Signed(Struct, frozen=True):
    """Which list of which signer: ``key`` is the number of the key.

    The trusted comment had ``kind:number``; ``kind`` is "" if it had neither. ``digest`` is the
    SHA-256 of the list in hex.
    """

    key: str
    kind: Kind = ""
    number: int = 0
    digest: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """What is greater in a newer list.

        Who gives serials may have had timestamps before: a list with a serial is newer than all
        with a timestamp, and one with neither is older than all. So no list from before such a
        change comes back.
        """
        return _KINDS.index(self.kind), self.number

    @property
    def told(self) -> str:
        """In words."""
        which = f"{self.kind} {self.number}" if self.kind else "neither serial nor timestamp"
        return f"{which}, signed by key {self.key}"


def which_list(source: str, revision: int, signed: Signed | None) -> str:
    """Which peers list a run acted on, in words; "" for none. ``revision`` is 0 if it has none."""
    at = f"at revision {revision}" if revision else ""
    by = f"with {signed.told}" if signed is not None else ""
    return " ".join(filter(None, (source, at, by)))


def refusal(new: Signed, last: Signed | None) -> str | None:
    """Why a list is not accepted after the last one that was; None if it is."""
    if last is None or not last.kind or new.order > last.order:
        return None
    if new.order == last.order:
        if new.digest == last.digest:
            return None
        return (
            f"it has {new.told}, as the last list that was accepted, but it is another list: sign "
            "it again, with a higher number"
        )
    return (
        f"it is older than the last list that was accepted: it has {new.told}, and that one had "
        f"{last.told}. Somebody may have put an old list in its place; if it is meant to be used, "
        "sign it again, or run `rait up --accept-older`"
    )
