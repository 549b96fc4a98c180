"""What all commands share of the terminal: exit statuses, and a word to the user."""

from __future__ import annotations

import sys

DONE, FAILED, WRONG, PARTIAL, STOPPED = 0, 1, 2, 3, 4
"""Done; failed; wrong usage or configuration; partly done; too much would have been removed."""

CHANGES = 2
"""What ``plan --detailed-exitcode`` gives where there is something to do."""


def complain(text: str) -> None:
    """Tell the user something that is no result."""
    print(f"rait: {text}", file=sys.stderr)


def tell(text: str) -> None:
    """Print a result, at once."""
    print(text)
    sys.stdout.flush()
