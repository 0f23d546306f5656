"""Train L-VAE or one of its five rivals: `python run.py --help` is the manual, lvae_min/cli.py the code."""

import sys

from lvae_min.cli import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:], "python run.py"))
