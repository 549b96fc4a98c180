"""rait, with a count of its netlink messages written to a file at its end.

Usage: counted.py FILE [ARGUMENT OF rait...]

``sent`` and ``received`` are messages, not datagrams; ``written`` are those of the sent ones that
change something, and ``writing`` is the seconds from the first of these to the answer to the last.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from rait.__main__ import run


def main() -> int:
    path = sys.argv.pop(1)
    counts = {"sent": 0, "received": 0, "written": 0, "writing": 0.0}
    if "--version" in sys.argv:
        status = run()
    else:
        from rait.adapters.netlink import socket as netlink

        own = netlink.NetlinkSocket
        perform, send, receive = own.perform, own._send, own._receive
        times: list[float] = []

        def counting(
            self: netlink.NetlinkSocket, requests: Sequence[netlink.Request]
        ) -> list[netlink.NetlinkError | None]:
            counts["written"] += len(requests)
            times.append(time.perf_counter())
            try:
                return perform(self, requests)
            finally:
                times.append(time.perf_counter())

        def sending(self: netlink.NetlinkSocket, messages: Sequence[bytes]) -> None:
            counts["sent"] += len(messages)
            send(self, messages)

        def receiving(self: netlink.NetlinkSocket) -> list[netlink.Reply]:
            replies = receive(self)
            counts["received"] += len(replies)
            return replies

        own.perform = counting  # type: ignore[method-assign]
        own._send = sending  # type: ignore[method-assign]
        own._receive = receiving  # type: ignore[method-assign]
        status = run()
        if times:
            counts["writing"] = max(times) - min(times)
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
        json.dump(counts, file)
    return status


if __name__ == "__main__":
    sys.exit(main())
