"""Whether the tunnel between two nodes carries traffic, whatever versions of a fleet they run.

A node decides alone what its link to another one is: its own key, where it listens, and where it
sends. So a tunnel is two ends that know nothing of each other, and may be of different versions,
as nodes sync at different times. The rules:

1. An end *reaches* the other if it sends to an address that the other has, and to the port at which
   the other listens for it, and if each has the other's key.
2. WireGuard answers to where packets came from. So the tunnel carries traffic in both directions
   once one end reaches the other and sends something. A node without an address is reached by
   nobody, and only begins. What an end learned of where the other is does not count: it is lost
   with the link, a NAT forgets it, and it may be where the other was.
3. An end is *fresh* if its link was made, or made again, by its last sync: it has no session. The
   other end may still hold one, and what it sends then is lost, until WireGuard has waited for an
   answer for 15 s (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, WireGuard whitepaper, section 6.4) and shakes
   hands anew. A fresh end shakes hands at once when it sends.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from rait.domain.topology import Endpoint, Family

Grade = Literal["at once", "once one end sends", "after WireGuard's timers", "never"]
"""How a tunnel carries traffic, from best to worst.

At once, whichever end sends. Once one end sends, the one that ``wakes`` the tunnel: until then what
the other sends is lost.
After WireGuard's timers: some 16 s after an end that reaches the other has sent.
"""


class End(Struct, frozen=True):
    """One end of a tunnel: what one node's link to the other is, over one address family.

    ``key`` is the node's own public key and ``peer`` the one that it has of the other. ``listens``
    is 0 for a port of the kernel's choice, which nobody knows. ``sends_to`` is None where the node
    has no address of the other. ``addresses`` are those at which the node itself can be reached.
    """

    family: Family
    key: str
    peer: str
    listens: int
    sends_to: Endpoint | None
    addresses: frozenset[str] = frozenset()
    fresh: bool = False

    def reaches(self, other: End) -> bool:
        """Whether what this end sends arrives at the other."""
        return (
            self.sends_to is not None
            and self.family == other.family
            and self.peer == other.key
            and other.peer == self.key
            and self.sends_to.port == other.listens
            and self.sends_to.address in other.addresses
        )

    def wakes(self, other: End) -> bool:
        """Whether this end shakes hands at once where the tunnel has no session."""
        return self.reaches(other) and (self.fresh or not other.fresh)


def grade(one: End | None, other: End | None) -> Grade:
    """How the tunnel of two ends carries traffic; None where a node has no link to the other."""
    if one is None or other is None or not (one.reaches(other) or other.reaches(one)):
        return "never"
    wakers = one.wakes(other) + other.wakes(one)
    if wakers == 2:
        return "at once"
    return "once one end sends" if wakers else "after WireGuard's timers"
