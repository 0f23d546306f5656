"""Train L-VAE or one of its five rivals: `python run.py --help` is the manual, lvae_min/cli.py the code."""

import sys

if __name__ == "__main__":
    from lvae_min.cli import command  # not above: processes that score and draw import this file too

    sys.exit(command(sys.argv[1:], "python run.py"))
