"""`python -m colorjax.web` does what `colorjax web` does."""

import sys

from colorjax.cli import main

sys.exit(main(["web", *sys.argv[1:]]))
