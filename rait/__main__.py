"""``python -m rait`` is ``rait``."""

import sys

from rait.cli import main

if __name__ == "__main__":
    sys.exit(main())
