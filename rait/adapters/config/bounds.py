"""The most that rait reads of a text, so that no text costs more than seconds or 500 MB.

No real registry exceeds these bounds, as a node has fewer links than there are UDP ports.
docs/configuration.md lists them.
"""

from __future__ import annotations

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of a peers list: some 50,000 peers in TOML, or 25,000 in HCL."""

MAX_CONFIG_BYTES = 1024 * 1024
"""Bytes of rait.conf."""

MAX_KEY_BYTES = 4096
"""Bytes of a file with a private key: far more than such a file has."""

MAX_SIGNATURE_BYTES = 16 * 1024
"""Bytes of a signature of minisign, whose comments have 9 KiB at the most."""

MAX_STATE_BYTES = 32 * 1024 * 1024
"""Bytes of a state from `rait export-state`: 8,000 links and more."""

MAX_ITEMS = 500_000
"""In HCL: keys, blocks, values, lines of heredocs and escapes in text, in all. In TOML and JSON:
lines, commas and opening brackets, which are no fewer."""

MAX_DOTS = 200_000
"""Dots between the parts of keys in TOML: each part is a table."""

MAX_PARTS = 16
"""Parts of one key in TOML; ``a.b.c`` has three. tomli goes through them for each key below."""

MAX_DEPTH = 64
"""Depth of blocks, lists and objects in HCL, and of an entry in etcd."""

MAX_LEVELS = 100
"""Depth of tables, lists and objects in TOML and JSON. Libraries bound it too, some by how deep the
stack is then: so `rait check` could read a list that each `rait watch` refuses."""

MAX_PLACED = 16
"""Parts of a path whose line is kept; what lies deeper has the line of what holds it."""

MAX_DIGITS = 1000
"""Characters of a number."""
