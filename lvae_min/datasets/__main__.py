"""`python -m lvae_min.datasets prepare NAME`: make a data set of its published archive."""

import sys

from lvae_min.datasets.prepare import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
