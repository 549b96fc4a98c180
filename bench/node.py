"""A node to measure: its configuration, and peers lists of any length, in HCL and in TOML."""

from __future__ import annotations

import random
from base64 import b64encode
from pathlib import Path

FIRST_PORT = 10000

_HCL = """\
private_key = "{key}"
transport {{
  address_family = "ip4"
  send_port      = 50153
  mtu            = 1420
  ifprefix       = "{prefix}"
  fwmark         = 54
}}
isolation {{
  type     = "netns"
  ifgroup  = 54
  transit  = "{transit}"
  target   = "{target}"
}}
journal = "journal.db"
peers   = "{peers}"
"""

_TOML = """\
private_key = "{key}"
journal = "journal.db"
peers = "{peers}"

[[transport]]
address_family = "ip4"
send_port = 50153
mtu = 1420
ifprefix = "{prefix}"
fwmark = 54

[isolation]
type = "netns"
ifgroup = 54
transit = "{transit}"
target = "{target}"
"""

_HCL_PEER = """\
peers {{
  public_key = "{key}"
  name       = "node{i}"
  endpoint {{
    address_family = "ip4"
    send_port      = {port}
    address        = "{address}"
  }}
}}
"""

_TOML_PEER = """\
[[Peers]]
PublicKey = "{key}"
AddressFamily = "ip4"
SendPort = {port}
Endpoint = "{address}"
"""


def key(seed: str) -> str:
    """The same 32 bytes for the same seed."""
    return b64encode(random.Random(seed).randbytes(32)).decode("ascii")  # noqa: S311


def write_config(
    directory: Path, form: str, *, prefix: str, target: str, transit: str = ""
) -> Path:
    """``rait.hcl`` or ``rait.toml``, which names peers of the same form."""
    text = (_HCL if form == "hcl" else _TOML).format(
        key=key("own"), prefix=prefix, target=target, transit=transit, peers=f"peers.{form}"
    )
    path = directory / f"rait.{form}"
    path.write_text(text)
    path.chmod(0o600)
    return path


def write_peers(directory: Path, form: str, count: int, changed: int = 0) -> Path:
    """A list of ``count`` peers; the first ``changed`` of them have moved to another address."""
    template = _HCL_PEER if form == "hcl" else _TOML_PEER
    peers = (
        template.format(
            key=key(f"peer {i}"),
            i=i,
            port=FIRST_PORT + i,
            address=f"10.{1 if i < changed else 2}.{i >> 8}.{i & 255}",
        )
        for i in range(count)
    )
    path = directory / f"peers.{form}"
    path.write_text("".join(peers) or "peers = []\n")
    return path
