"""``rait down``: remove our tunnels, and nothing else."""

from __future__ import annotations

from argparse import Namespace

from rait.app import desired
from rait.app.options import Options
from rait.app.render import print_report


def run(options: Options, arguments: Namespace) -> int:
    return print_report(desired.down(options), arguments)
