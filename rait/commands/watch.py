"""``rait watch``: look after this node until it is stopped."""

from __future__ import annotations

from argparse import Namespace

from rait.app.options import Options
from rait.app.watch import watch
from rait.terminal import DONE, FAILED


def run(options: Options, arguments: Namespace) -> int:
    return DONE if watch(options, down_on_exit=arguments.down_on_exit) else FAILED
