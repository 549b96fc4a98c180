"""The program rait, as its installed script starts it."""

from rait.__main__ import main

if __name__ == "__main__":
    main()
