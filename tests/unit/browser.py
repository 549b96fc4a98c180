"""A headless Chromium, asked by the DevTools protocol over a pipe, which needs no library."""

from __future__ import annotations

import json
import os
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tiers import need

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)


class Tab:
    """One page that is open. ``events`` are those of the protocol that have come."""

    def __init__(self, asks: int, answers: int) -> None:
        self._asks = asks
        self._answers = os.fdopen(answers, "rb")
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: deque[dict[str, Any]] = deque()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._number += 1
        call = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            call["sessionId"] = self._session
        os.write(self._asks, json.dumps(call).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._answers.read1()
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def wait(self, method: str) -> None:
        """Wait for an event of the protocol that has not come yet."""
        while (event := self._next())["method"] != method:
            self.events.append(event)
        self.events.append(event)

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page, which may be a promise."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def told(self, method: str) -> list[dict[str, Any]]:
        """What events of this name said."""
        return [event["params"] for event in self.events if event["method"] == method]


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A browser with one tab, whose files are in this directory."""
    program = need("chromium", "chromium")
    asks, answers = os.pipe(), os.pipe()

    def as_it_expects() -> None:  # it reads from 3 and writes to 4
        read, write = os.dup(asks[0]), os.dup(answers[1])
        os.dup2(read, 3)
        os.dup2(write, 4)

    process = subprocess.Popen(
        [program, *_OPTIONS, f"--user-data-dir={profile}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=as_it_expects,
        env={"PATH": os.environ["PATH"], "HOME": str(profile), "LANG": "C.UTF-8"},
    )
    os.close(asks[0])
    os.close(answers[1])
    try:
        yield Tab(asks[1], answers[0])
    finally:
        process.kill()
        process.wait()
        os.close(asks[1])
