"""Whether this command may keep anything for the next one.

A command that promises to write nothing anywhere may read caches of earlier commands, but it
neither adds to them nor makes a directory for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_keeping = ContextVar("rait_keeping", default=True)


def may_be_written() -> bool:
    """Whether anything may be kept now."""
    return _keeping.get()


@contextmanager
def left_alone() -> Iterator[None]:
    """Within this block nothing is kept."""
    token = _keeping.set(False)
    try:
        yield
    finally:
        _keeping.reset(token)
