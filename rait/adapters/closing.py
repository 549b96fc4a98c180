"""How what is open gets closed: at the end of a ``with`` block, or after an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self


class Closing:
    """A context manager that is closed at the end of its block."""

    __slots__ = ()

    def close(self) -> None:
        """Close it; harmless when it is closed already."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def closed(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def on_error(undo: Callable[[], object]) -> Iterator[None]:
    """Call this if the block raises anything, Ctrl-C too."""
    try:
        yield
    except BaseException:
        undo()
        raise
