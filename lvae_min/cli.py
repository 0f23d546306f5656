"""The command, `python run.py` or `python -m lvae_min`: train one run or a grid, score and draw each.

What reads the command line does without PyTorch, which takes a second to import: `runs` does the rest.
"""

import argparse
import atexit
import dataclasses
import gc
import itertools
import math
import os
import shlex
import signal
import sys
from pathlib import Path
from threading import Event

from lvae_min.config import MOVABLE, Config
from lvae_min.datasets import dsprites
from lvae_min.io.text import Parser, carry_out

CALLED = "python run.py"
MANUAL = """Train L-VAE or one of its five rivals, select a checkpoint, score it and draw it.

    {command} --dataset dsprites --model lvae                      10,000 iterations, minutes
    {command} --dataset dsprites --model lvae --paper              the paper's 300,000 (Sec. 6.3), hours
    {command} --model lvae --paper --iterations 50000              the first 50,000 of them
    {command} --model vae lvae --seed 0 1 2 --jobs 2               a grid of six runs, two at once
    torchrun --nproc-per-node 8 {launched} --model vae lvae --seed 0 1 2   the same, shared by eight processes

A run is a folder under --out, named by the settings that differ from the defaults. The same command continues
a run that was stopped, and skips one that is finished. It holds results.json, log.jsonl, best.pt (for
lvae_min.load) and the pictures curves.png, reconstructions.png, traversal.png and traversal.gif.
"""
MOST_RUNS = 10_000  # of a grid


def named(called: str) -> str:
    """The command's name before its error messages: run.py, or python -m lvae_min."""
    return called.removeprefix("python ") if called.endswith(".py") else called


def parse(arguments: list[str], called: str = CALLED) -> tuple[list[Config], argparse.Namespace]:
    """The runs asked for, and the other flags: out, data, jobs; `called` is how the command was started."""
    manual = MANUAL.format(command=called, launched=called.removeprefix("python "))
    parser = Parser(prog=named(called), description=manual)
    for field in dataclasses.fields(Config):
        kind = next((kind for kind in (int, float) if field.type in (kind, kind | None)), str)
        default = "" if field.default is None else f" (default: {field.default})"
        flag = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            parser.add_argument(
                flag, action="store_const", const=[True], default=[False], help=field.metadata["help"]
            )
            continue
        several = 1 if field.name in MOVABLE else "+"
        parser.add_argument(
            flag,
            type=kind,
            nargs=several,
            default=[field.default],
            metavar=field.name.upper(),
            help=field.metadata["help"] + default,
        )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of archives and prepared sets (default: data)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs at once, in one process (default: 1); on a "
        "CPU as many as it has cores are fastest, on one thread each",
    )
    given = parser.parse_args(arguments)
    if not 1 <= given.jobs <= 1024:
        raise ValueError(f"--jobs {given.jobs}: expected 1 to 1024")
    names = [field.name for field in dataclasses.fields(Config)]
    runs = math.prod(len(getattr(given, name)) for name in names)
    if runs > MOST_RUNS:
        raise ValueError(f"a grid of {runs:,} runs: expected at most {MOST_RUNS:,}; give fewer values a flag")
    configs = [
        Config(**dict(zip(names, values, strict=True)))
        for values in itertools.product(*(getattr(given, name) for name in names))
    ]
    return list(dict.fromkeys(configs)), given


def stop_on_signals() -> Event:
    """An event that Ctrl-C and SIGTERM set from now on; the second signal ends the process at once."""
    stop = Event()

    def on_signal(*_):
        stop.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def start(configs: list[Config], given: argparse.Namespace):
    """The module `runs`, which imports PyTorch; dSprites is drawn in the meantime if a run will need that."""
    needed = not os.path.exists(given.data / dsprites.ARCHIVE) and any(
        config.dataset == "dsprites" and not os.path.exists(given.out / config.name / "results.json")
        for config in configs
    )
    if needed and "torch" not in sys.modules:
        dsprites.AHEAD.begin()
    from lvae_min import runs

    return runs


def main(arguments: list[str], called: str) -> int:
    configs, given = parse(arguments, called)
    from lvae_min import launch  # not above: its ValueError is a user's mistake

    configs = configs[launch.RANK :: launch.WORLD]
    stop = stop_on_signals()
    runs = start(configs, given)
    atexit.register(gc.freeze)  # otherwise Python looks for garbage among all of PyTorch at its end: 0.5 s
    code = runs.Runs(configs, given, stop, named(called)).run_all()
    if code == 130:
        again = f"continue with\n    {called} {shlex.join(arguments)}"
        print("stopped; " + ("the same command continues" if launch.LAUNCHED else again), flush=True)
    return code


def command(arguments: list[str], called: str = CALLED) -> int:
    """Carry out a command line; the exit code. A user's mistake is one line of error message, and code 2."""
    os.environ.pop("MPLBACKEND", None)  # figures are only written to files, for which it could name none
    return carry_out(lambda words: main(words, called), arguments, named(called))
