"""Signals that wait until what they must not interrupt is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of the block, which is short.

    For a block that a handler's exception, such as KeyboardInterrupt, would leave half done. Only
    the main thread runs handlers, and it runs them whichever thread the kernel gives the signal to:
    so to block the signal in the main thread (pthread_sigmask(3)) would not do.
    """
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, lambda which, _: came.append(which))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for which in came:
            signal.raise_signal(which)
