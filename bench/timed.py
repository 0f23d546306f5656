"""run.py with the time of its parts: python -m bench.timed FILE, then what run.py takes.

FILE gets, as JSON, the seconds of each part, and the moment of the first iteration as time.perf_counter() has
it, which is one clock for all processes of a machine. On a CPU a call is finished when it returns.
"""

import functools
import json
import pkgutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from lvae_min import cli

PARTS = {
    "iterations": "lvae_min.step.Step.__call__",
    "evaluations": "lvae_min.evaluation.begin_evaluation",
    "pictures": "lvae_min.train.Run.draw",
    "checkpoints": "lvae_min.train.Run.checkpoint",
}


def watched(function: Callable, calls: list[tuple[float, float]]) -> Callable:
    """The function; `calls` gets the moments of begin and end of each of its calls."""

    @functools.wraps(function)
    def call(*given, **named):
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            calls.append((began, time.perf_counter()))

    return call


def main(arguments: list[str]) -> int:
    file, *words = arguments
    calls, start = {part: [] for part in PARTS}, cli.start
    with ExitStack() as patches:

        def started(*given):
            runs = start(*given)  # imports PyTorch, as late as run.py does
            for part, name in PARTS.items():
                patches.enter_context(mock.patch(name, watched(pkgutil.resolve_name(name), calls[part])))
            return runs

        patches.enter_context(mock.patch.object(cli, "start", started))
        code = cli.command(words)
    seconds = {part: sum(end - began for began, end in calls[part]) for part in PARTS}
    if code == 0:
        Path(file).write_text(json.dumps({"first": calls["iterations"][0][0], "seconds": seconds}))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
