"""rait, with a count of its netlink messages written to a file at its end.

Usage: counted.py FILE [ARGUMENT OF rait...]

``sent`` and ``received`` are messages, not datagrams; ``written`` are those of the sent ones that
change something.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rait.__main__ import run


def main() -> int:
    path = sys.argv.pop(1)
    counts = {"sent": 0, "received": 0, "written": 0}
    if "--version" in sys.argv:
        status = run()
    else:
        from rait.adapters import netlink

        perform = netlink.NetlinkSocket.perform

        def counting(
            self: netlink.NetlinkSocket, requests: Sequence[netlink.Request]
        ) -> list[netlink.NetlinkError | None]:
            counts["written"] += len(requests)
            return perform(self, requests)

        netlink.NetlinkSocket.perform = counting  # type: ignore[method-assign]
        status = run()
        counts |= {"sent": netlink.TRAFFIC.sent, "received": netlink.TRAFFIC.received}
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
        json.dump(counts, file)
    return status


if __name__ == "__main__":
    sys.exit(main())
