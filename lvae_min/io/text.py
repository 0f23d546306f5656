"""One-line messages about an input, whatever the input holds."""

import argparse
import atexit
import errno
import io
import os
import sys
from collections.abc import Callable

MISTAKES = (ValueError, OSError, FloatingPointError, MemoryError)  # of a user or a machine, not of the code


def one_line(text) -> str:
    """A text without line breaks and control characters: it may come out of any file."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def brief(error: BaseException, place=None) -> str:
    """An error's message in one short line, or its type where it has none.

    A file that it names is not cut. It is named from `place`, the file or folder that the message begins
    with, and not at all if it is that.
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        name = str(error.filename)
        if name == str(place) or name.startswith(f"{place}{os.sep}"):
            name = name[len(str(place)) + 1 :]
        return one_line(f"{name}: {error.strerror}" if name else error.strerror)
    return one_line(error)[:120] or type(error).__name__


def of_the_system(error: BaseException) -> bool:
    """Whether an error is the system's: no memory, no such file, no right to read it, a failing disk.

    Not damage that leads to places that a file does not have (EINVAL).
    """
    number = error.errno if isinstance(error, OSError) else None
    return isinstance(error, MemoryError) or number not in (None, errno.EINVAL)


def open_streams() -> None:
    """Make stdout and stderr safe to print to.

    Characters that the encoding lacks are escaped, and a closed stream becomes the null device.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started the command
            nowhere = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
            atexit.register(nowhere.close)
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """A command line whose error messages are one line, with exit code 2."""

    def __init__(self, **settings):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        open_streams()

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {one_line(message)[:300]}; {self.prog} --help lists all\n")


def drop_output() -> None:
    """Let stdout, which cannot be written to, be the null device: Python would fail again on it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def carry_out(
    main: Callable[[list[str]], int | None], arguments: list[str], name: str, stopped: str = "stopped"
) -> int:
    """The exit code of `main`, or 0 where it returns none.

    A mistake is one line of error message and code 2, an interruption one line and code 130.
    """
    try:
        code = main(arguments) or 0
        sys.stdout.flush()  # now, where a full disk or a closed pipe is still an error with a message
    except MISTAKES as error:
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()
        print(f"{name}: {one_line(error) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: {stopped}", file=sys.stderr)
        return 130
    return code
