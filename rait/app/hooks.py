"""The commands for links, called after a run's events: where, with what, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing

from rait.adapters import hooks
from rait.adapters.hooks import Job
from rait.adapters.lock import HELD_VARIABLE
from rait.adapters.netns import Namespaces, describe
from rait.domain.errors import MachineError
from rait.domain.hooks import Call, CallResult, environment, last_lines
from rait.terminal import clean


def make(
    calls: Sequence[Call], namespaces: Namespaces, seconds: float, lock: str, own_key: str
) -> Generator[CallResult, None, None]:
    """Make the calls, several at once, those of one link in their order; the results as they come.

    ``own_key`` is the node's public key, and ``lock`` the path of the lock that this run holds.
    """
    queues: dict[str, list[tuple[Call, Job]]] = {}
    for call in calls:
        try:
            job = Job(call.command, _variables(call, lock), _place(call, namespaces))
        except MachineError as error:
            yield call.result(error=f"it cannot be run: {error}")
        else:
            queues.setdefault(call.link.name, []).append((call, job))
    jobs = [[job for _, job in queue] for queue in queues.values()]
    made = [iter([call for call, _ in queue]) for queue in queues.values()]
    with closing(hooks.run(jobs, seconds)) as ends:
        for index, ended in ends:
            call = next(made[index])
            public = {own_key, *(peer.public_key for peer in call.link.peers)}
            lines = last_lines(ended.output, public, is_cut=ended.cut)
            yield call.result(ended.status, ended.error, tuple(map(clean, lines)))


def _variables(call: Call, lock: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {"PATH": os.defpath} | kept | environment(call) | {HELD_VARIABLE: lock}


def _place(call: Call, namespaces: Namespaces) -> int | None:
    """A descriptor of the namespace to call a command in, None for the one that rait runs in.

    The namespace of a link that went may have been replaced since. Raises MachineError.
    """
    if call.link.notes.command_netns == "current":
        return None
    origin = call.link.origin
    found = namespaces.find(origin.netns, origin.instance) or namespaces.find(origin.netns)
    if found is None:
        raise MachineError(f"{describe(origin.netns)} does not exist")
    return found.fd
