"""Colour black-and-white photographs and films, at their own resolution, lightness untouched."""

import sys

from colorjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
