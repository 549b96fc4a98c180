"""Which of babeld's interfaces are rait's to change, and with which parameters.

babeld tells the names of its interfaces, and not their parameters. So ``BabeldState.compare`` makes
two mappings of name to parameters for ``diff``:

- wanted: one for each link that is up, with the parameters of its notes, else of rait.conf;
- managed: of the interfaces that babeld has, those that rait may change. Their parameters are those
  that the journal knows, else the wanted ones, else "" (of an interface that is to be flushed).

An interface in both with equal parameters is left alone. One that is wanted and missing is added;
one that is managed and not wanted is flushed; one whose parameters differ is flushed and added. An
add alone would leave the old value of each parameter that the new ones do not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from rait.domain.config.schema import MAX_IFNAME, MAX_PORT
from rait.domain.topology import Link, Topology

_NOT_IN_A_NAME = frozenset('/:"#\\')


class BabelInterface(Struct, frozen=True):
    """An interface that babeld has; not ``up`` also if the machine has no such interface."""

    name: str
    up: bool
    ipv6: str | None = None
    ipv4: str | None = None


class BabelNeighbour(Struct, frozen=True):
    """A neighbour of babeld's, with an IPv6 link-local address on one of its interfaces.

    ``reach`` has a bit for each of the last 16 hellos, the latest highest: 0xffff if all came.
    ``rxcost``, ``txcost`` and ``cost`` are Babel's metrics, 65535 for infinity (RFC 8966, section
    3.4.3). ``rtt`` is in milliseconds, None if babeld does not measure it.
    """

    interface: str
    address: str
    reach: int
    rxcost: int
    txcost: int
    cost: int
    rtt: float | None = None


def is_interface_name(name: str) -> bool:
    """Whether Linux and babeld both take this name for an interface.

    Linux's rules are dev_valid_name in net/core/dev.c; babeld's ``flush interface`` takes no
    quotes, so no character that needs them.
    """
    return (
        0 < len(name.encode(errors="replace")) <= MAX_IFNAME
        and name not in (".", "..")
        and name.isprintable()
        and not any(char.isspace() or char in _NOT_IN_A_NAME for char in name)
    )


def is_ours(name: str, ifprefixes: Iterable[str], remembered: Iterable[str]) -> bool:
    """Whether rait may flush an interface of babeld.

    It may if the interface has a name that our transports give to links, a prefix and a port (1 to
    65535), or if the journal remembers it.
    """
    return name in remembered or any(
        name.startswith(prefix) and _is_port(name[len(prefix) :]) for prefix in ifprefixes
    )


class BabeldState(Struct, frozen=True):
    """The interfaces that babeld has, and the settings that decide which of them are ours.

    ``param`` are the parameters of ours for which no policy sets others. ``problem`` says why
    babeld could not be asked; None if it could.
    """

    present: tuple[str, ...] = ()
    problem: str | None = None
    param: str = ""
    ifprefixes: tuple[str, ...] = ()
    exclusive: bool = False

    def compare(
        self, known: Topology, links: Mapping[str, Link]
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """The managed interfaces and the wanted ones, each with its parameters; see above.

        ``known`` is the topology that the journal knows, and ``links`` are the desired ones. With
        ``exclusive``, interfaces of others are managed too, if babeld takes their names in a
        command.
        """
        wanted = {
            name: link.notes.babeld_param or self.param
            for name, link in links.items()
            if link.settings.up
        }
        remembered = remembered_interfaces(known)
        managed = {
            # One that only babeld's own configuration file may name is assumed to be as wanted.
            name: known.babel.get(name, wanted.get(name, ""))
            for name in self.present
            if (name in wanted or self.exclusive or is_ours(name, self.ifprefixes, remembered))
            and is_interface_name(name)
        }
        return managed, wanted


def remembered_interfaces(known: Topology) -> frozenset[str]:
    """The interfaces that the journal knows as ours.

    An interface of others is in the journal without parameters, if it was to be flushed and babeld
    did not flush it. That does not make it ours.
    """
    return frozenset(known.links).union(name for name, param in known.babel.items() if param)


def extra_commands(text: str) -> tuple[str, ...]:
    """The commands in ``extra_cmd``: one a line; blank lines and comments (#) are left out."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _is_port(text: str) -> bool:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_PORT))
    return digits and text[0] != "0" and int(text) <= MAX_PORT
