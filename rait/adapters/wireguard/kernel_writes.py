"""What an event writes to an interface that is there: no more than what changes."""

from __future__ import annotations

from typing import TypeVar

from msgspec import structs

from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import Request
from rait.domain.events import LinkUpdated

_T = TypeVar("_T")


def changed(before: _T, after: _T) -> _T | None:
    """The new value, or None where it is the old one."""
    return after if after != before else None


def link_requests(index: int, event: LinkUpdated, master: int | None) -> list[Request]:
    """The messages that change an interface, in order.

    ``master`` is the index of the new one, 0 for none, and None where it does not change.
    """
    before, after = event.before, event.after
    requests = []
    if before.address is not None and after.address != before.address:
        requests.append(rtnl.delete_address(index, before.address))
    if structs.replace(after, address=before.address) != before:
        requests.append(
            rtnl.set_link(
                index,
                up=changed(before.up, after.up),
                mtu=changed(before.mtu, after.mtu),
                group=changed(before.group, after.group),
                master=master,
            )
        )
    # Going down takes the address away, and a link that is up goes down to change its VRF.
    lost = master is not None or before.up != after.up
    if after.address is not None and (lost or after.address != before.address):
        requests.append(rtnl.add_address(index, after.address))
    return requests
