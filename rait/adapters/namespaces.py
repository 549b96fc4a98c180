"""The network namespaces of one run, each opened once and told apart by its instance."""

from __future__ import annotations

from rait.adapters.netns import Netns, describe, find_netns
from rait.domain.errors import MachineError


class Namespaces:
    """Open namespaces by spelling and instance.

    What was looked at stays open, so that a run changes the very namespace that it has seen,
    whatever takes its name meanwhile, or whether it has a name at all. They are closed together.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Netns] = {}

    def close(self) -> None:
        """Close all of them."""
        for ns in self._kept.values():
            ns.close()
        self._kept.clear()

    def keep(self, ns: Netns) -> Netns:
        """Hold an open namespace from now on; return the one held before it, if it is the same."""
        held = self._kept.setdefault((ns.spec, ns.instance), ns)
        if held is not ns:
            ns.close()
        return held

    def find(self, spec: str, instance: str = "") -> Netns | None:
        """The namespace; None if it does not exist, or its spelling names a different one now.

        Without an instance, take whichever namespace has the spelling now. Raises
        MachineError if it must not be opened.
        """
        if instance and (held := self._kept.get((spec, instance))) is not None:
            return held
        found = find_netns(spec)
        if found is None:
            return None
        held = self.keep(found)
        return held if instance in ("", held.instance) else None

    def is_gone(self, spec: str, instance: str) -> bool:
        """Whether neither the instance nor any other namespace of this spelling can be found.

        Raises MachineError where it must not be opened.
        """
        return self.find(spec) is None and self.find(spec, instance) is None

    def open(self, spec: str, instance: str = "") -> Netns:
        """The namespace that ``find`` finds. Raises MachineError if there is none."""
        ns = self.find(spec, instance)
        if ns is not None:
            return ns
        if instance and self.find(spec) is not None:
            raise MachineError(
                f"{describe(spec)} was replaced since rait looked at it; run rait again"
            )
        raise MachineError(f"{describe(spec)} does not exist")
