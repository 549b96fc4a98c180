"""To test a registry, or a change of it, with pytest and hypothesis: ``rait[testing]``.

- strategies.py draws configurations, lists of peers, registries, and changes of a registry.
- laws.py has the laws, as functions that raise LawError with a readable counterexample.
- ``Machine`` is a model of a node's kernel: its links, their ports, and handshakes.
- ``FleetMachine`` is a state machine of nodes that sync, lag behind, crash, roll back and roam.

docs/testing.md has a worked example. rait's own property tests use this module. It stands on
``rait.domain`` alone: nothing here reads a file or touches the machine.
"""

from rait.domain.fleet_nodes import Member, fleet_of
from rait.testing.fleet_machine import FleetMachine
from rait.testing.laws import (
    Fleet,
    LawError,
    a_change_touches_only_its_own,
    every_pair_agrees,
    no_guard_stops,
    peers_of,
    ports_are_free,
    rollback_restores,
    rollout_interrupts_none_but,
    sync_is_idempotent,
)
from rait.testing.machine import Machine
from rait.testing.strategies import configs, edits, peers_lists, policy_lists, registries

__all__ = [
    "Fleet",
    "FleetMachine",
    "LawError",
    "Machine",
    "Member",
    "a_change_touches_only_its_own",
    "configs",
    "edits",
    "every_pair_agrees",
    "fleet_of",
    "no_guard_stops",
    "peers_lists",
    "peers_of",
    "policy_lists",
    "ports_are_free",
    "registries",
    "rollback_restores",
    "rollout_interrupts_none_but",
    "sync_is_idempotent",
]
