"""`python -m lvae_min` is `python run.py` for an installed package."""

import sys

from lvae_min.cli import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:], "python -m lvae_min"))
