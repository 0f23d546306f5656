"""`python -m lvae_min.explore`: see `server`."""

import sys

from lvae_min.explore.server import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
