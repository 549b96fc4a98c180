"""Which of babeld's interfaces are rait's to change, and what is to be assumed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from rait.domain.config.schema import MAX_IFNAME
from rait.domain.topology import Link, Topology

_NOT_IN_A_NAME = frozenset('/:"#\\')


class BabelInterface(Struct, frozen=True):
    """An interface that babeld has. It is not ``up`` either where the machine has none such."""

    name: str
    up: bool
    ipv6: str | None = None
    ipv4: str | None = None


def is_interface_name(name: str) -> bool:
    """Whether Linux could have an interface of this name (dev_valid_name in net/core/dev.c), and
    babeld could be told of it unquoted, which ``flush interface`` needs."""
    return (
        0 < len(name.encode(errors="replace")) <= MAX_IFNAME
        and name not in (".", "..")
        and name.isprintable()
        and not any(char.isspace() or char in _NOT_IN_A_NAME for char in name)
    )


def is_ours(name: str, ifprefixes: Iterable[str], remembered: Iterable[str]) -> bool:
    """Whether an interface in babeld is one that rait may flush.

    That is one named as our transports name their links, by prefix and a port (1 to 65535), or
    one that the journal remembers.
    """
    return name in remembered or any(
        name.startswith(prefix) and _is_port(name[len(prefix) :]) for prefix in ifprefixes
    )


def managed_interfaces(
    present: Iterable[str],
    remembered: Mapping[str, str],
    wanted: Mapping[str, str],
    *,
    ours: Callable[[str], bool],
    exclusive: bool = False,
) -> dict[str, str]:
    """Of the interfaces that babeld has, those that may be changed, with their parameters.

    babeld does not tell the parameters, so they are assumed: those that the journal remembers, or
    else those that are wanted, as the interface may be of babeld's own configuration file. Of
    others nothing is known (""). What differs from ``wanted`` is to be flushed and added (diff.py):
    an add alone would leave the old value of each parameter that the new ones do not name. With
    ``exclusive`` others' interfaces count as well, as far as babeld can be told their names.
    """
    return {
        name: remembered.get(name, wanted.get(name, ""))
        for name in present
        if (name in wanted or exclusive or ours(name)) and is_interface_name(name)
    }


class BabeldState(Struct, frozen=True, kw_only=True):
    """The interfaces that babeld has, and what makes one of ours of them.

    ``param`` are the parameters that ours shall have, and ``problem`` says why babeld could not be
    asked, None if it could.
    """

    present: tuple[str, ...] = ()
    problem: str | None = None
    param: str = ""
    ifprefixes: tuple[str, ...] = ()
    exclusive: bool = False

    def compare(
        self, known: Topology, links: Mapping[str, Link]
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """The interfaces that may be changed, and those that shall be, with their parameters.

        There shall be one for each link that is up. ``known`` is what the journal knows.
        """
        wanted = {name: self.param for name, link in links.items() if link.settings.up}
        remembered = remembered_interfaces(known)
        managed = managed_interfaces(
            self.present,
            known.babel,
            wanted,
            ours=lambda name: is_ours(name, self.ifprefixes, remembered),
            exclusive=self.exclusive,
        )
        return managed, wanted


def remembered_interfaces(known: Topology) -> frozenset[str]:
    """The interfaces that the journal knows as ours.

    Others' interfaces are in the journal too, with no parameters, where they were to be flushed and
    babeld did not do it: that makes none of them ours.
    """
    return frozenset(known.links).union(name for name, param in known.babel.items() if param)


def extra_commands(text: str) -> tuple[str, ...]:
    """The commands in ``extra_cmd``: one a line; blank lines and comments (#) are left out."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _is_port(text: str) -> bool:
    digits = text.isascii() and text.isdigit() and len(text) <= 5
    return digits and text[0] != "0" and int(text) <= 65535
