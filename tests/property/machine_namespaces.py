"""A model of a machine whose target namespace is deleted, made anew, and used again.

A namespace that something refers to lives on without its name, with all its links: within sight
if rait can find what refers to it, else hidden. One that nothing refers to is destroyed with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct, structs

from rait.domain.backend import Observation
from rait.domain.events import Event, LinkAdded, LinkRemoved
from rait.testing.machine import Wire
from tests.property.machine import Machine


class Former(Struct):
    """A namespace that has lost its name."""

    wires: dict[str, Wire]
    others: dict[str, str]
    in_sight: bool


class MachineWithNamespaces(Machine):
    """``instance`` is the target's now, "" while there is none; ``former`` are by theirs."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._made = 0
        self.boot = 1
        self.instance = ""
        self.former: dict[str, Former] = {}
        self.make()

    def make(self) -> None:
        """``ip netns add``, where the name is free."""
        assert not self.instance
        self._made += 1
        self.instance = f"boot{self.boot}/{self._made}"
        self.others = {"lo": ""}

    def delete(self, *, kept: bool, in_sight: bool) -> None:
        """``ip netns del``, while something keeps the namespace, or nothing does."""
        if kept:
            self.former[self.instance] = Former(self.wires, self.others, in_sight)
        self.wires, self.others, self.instance = {}, {}, ""

    def take_back(self, instance: str) -> None:
        """Give a former namespace its name again; the one that has it now is kept, and in sight."""
        self.delete(kept=True, in_sight=True)
        found = self.former.pop(instance)
        self.wires, self.others, self.instance = found.wires, found.others, instance

    def restart(self) -> None:
        """Nothing outlives a restart; the namespace is made by something else than rait."""
        self.boot += 1
        self.wires, self.others, self.instance, self.former = {}, {}, "", {}
        self.make()

    def observe_among(self, remembered: Collection[str]) -> Observation:
        """What is seen of the target, and of the namespaces where links are remembered."""
        seen = self.observe()
        lost = {}
        for instance in sorted(self.former.keys() & {*remembered}):
            if not self.former[instance].in_sight:
                lost[instance] = "it is out of sight"
                continue
            with self._inside(instance):
                there = self.observe()
            seen = seen.with_traced(there.links.values(), there.unread)
        return structs.replace(seen, lost=lost)

    def happen(self, event: Event) -> None:
        if isinstance(event, LinkAdded):
            assert event.link.origin.instance == self.instance
        with self._inside(_instance_of(event)):
            super().happen(event)

    def half_happen(self, event: Event, part: int) -> None:
        with self._inside(_instance_of(event)):
            super().half_happen(event, part)

    @contextmanager
    def _inside(self, instance: str) -> Iterator[None]:
        """Make a former namespace the target for a moment."""
        if instance not in self.former:
            yield
            return
        there = self.former.pop(instance)
        here = Former(self.wires, self.others, in_sight=True)
        name, self.instance = self.instance, instance
        self.wires, self.others = there.wires, there.others
        if name:
            self.former[name] = here
        try:
            yield
        finally:
            self.former.pop(name, None)
            self.former[instance] = there
            self.wires, self.others, self.instance = here.wires, here.others, name

    def _everywhere(self) -> Iterable[tuple[str | None, Wire]]:
        yield from self.wires.items()
        for there in self.former.values():
            yield from ((None, wire) for wire in there.wires.values())


def _instance_of(event: Event) -> str:
    return event.link.origin.instance if isinstance(event, LinkRemoved) else ""
