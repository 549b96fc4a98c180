"""The program rait, as its installed script starts it."""

import sys

from rait.__main__ import run

if __name__ == "__main__":
    sys.exit(run())
