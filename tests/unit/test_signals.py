"""Signals that wait, also where another thread is the one that the kernel interrupts."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from rait.adapters.signals import held


@pytest.fixture
def interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done: list[str] = []

    def block() -> None:
        with held():
            # The kernel may give a signal to any thread; the main thread runs its handler.
            other = threading.Thread(target=signal.raise_signal, args=[signal.SIGINT])
            other.start()
            other.join()
            done.append("all of the block")
        done.append("what follows")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["all of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupts")
def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_threads_that_run_no_handlers_may_hold_signals_too() -> None:
    seen: list[bool] = []

    def other() -> None:
        with held():
            seen.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [True]
