"""One-line messages about an input, whatever the input holds."""

import argparse

MISTAKES = (ValueError, OSError, FloatingPointError, MemoryError)  # of a user or a machine, not of the code


def one_line(text) -> str:
    """A text without line breaks and control characters: it may come out of any file."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def brief(error: BaseException) -> str:
    """An error's message in one short line, or its type where it has none."""
    return one_line(error)[:120] or type(error).__name__


class Parser(argparse.ArgumentParser):
    """A command line whose error messages are one line, with exit code 2."""

    def __init__(self, **settings):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {one_line(message)[:300]}; {self.prog} --help lists all\n")
