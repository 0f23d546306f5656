"""A small run in a process of its own that something goes wrong in: what test_faults.py kills and starves.

Processes are forked from a server that has imported all, so that one starts in milliseconds.
"""

import builtins
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import small_run
import torch._dynamo  # noqa: F401 which the first optimizer imports: a second

from lvae_min import metrics, plots, report, train
from lvae_min.io import atomic as files

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["faults"])
ARGUMENTS = ["--batch-size", "8", "--iterations", "60", "--select", "beta_vae", "--device", "cpu"]
NAME = "dsprites-lvae-iterations60-batch-size8-selectbeta_vae"
small_run.small_images()  # drawn once, by the server


def start(out, output, fault=None, *given):
    """A process that trains in `out`, writes what it prints to `output`, and meets with `fault`."""
    process = CONTEXT.Process(target=child, args=(out, output, fault, *given))
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # for the server
        process.start()
    return process


def child(out, output, fault, *given):
    with open(output, "w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    metrics.score = quick_scores
    if fault:
        fault(Path(out) / NAME, *given)
    threads = [] if fault is one_core else ["--threads", "1"]
    sys.exit(small_run.command([*ARGUMENTS, *threads, "--out", str(out)]))


def quick_scores(factors, codes, **_):
    columns = np.resize(codes.T, (len(report.SCORES), len(codes)))
    return {name: float(column.std()) for name, column in zip(report.SCORES, columns, strict=True)}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner, name, number, act):
    """Let `act` happen instead of call `number`, from 1, of a function; it may continue the call."""
    real, calls = getattr(owner, name), []

    def counted(*given, **named):
        calls.append(given)
        if len(calls) == number:
            act(*given)
        return real(*given, **named)

    mock.patch.object(owner, name, counted).start()


def at_replace(wanted, number):
    """Die before a written file gets its name for the time `number`."""
    real, calls = os.replace, []

    def watched(source, target):
        if Path(target).name == wanted:
            calls.append(target)
            if len(calls) == number:
                die()
        return real(source, target)

    mock.patch.object(os, "replace", watched).start()


class Torn:
    """A file that is written half before the process dies: of a long one the first 10,000 bytes."""

    def __init__(self, stream):
        self.stream, self.left = stream, 10_000

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def write(self, content):
        content = bytes(content)
        if len(content) < self.left and Path(self.stream.name).suffixes[0] == ".pt":  # more is to come
            self.left -= len(content)
            return self.stream.write(content)
        self.stream.write(content[: min(len(content) // 2, self.left)])
        self.stream.flush()
        die()


def at_write(wanted, number=1):
    """Die in the middle of writing a file for the time `number`, under its name or a passing one."""
    calls = []

    def opened(file, mode="r"):
        stream = builtins.open(file, mode)
        if "w" in mode and Path(file).name.removesuffix(".part") == wanted:
            calls.append(file)
            return Torn(stream) if len(calls) == number else stream
        return stream

    mock.patch.object(files, "open", opened, create=True).start()


def half_a_line(file, *_):
    """Write a log line's first half and die."""
    with builtins.open(file, "ab") as log:
        log.write(b'{"step": 2')
    die()


# ------------------------------------------------------------------------- where a run is killed, by name


def before_settings(folder):
    at_write("config.json")


def in_the_first_step(folder):
    at_call(train.Step, "__call__", 1, die)


def in_a_step(folder):
    at_call(train.Step, "__call__", 40, die)


def in_an_evaluation(folder):
    at_call(metrics, "score", 4, die)


def in_a_picture(folder):
    at_call(plots, "traversals", 1, die)


def while_a_picture_is_written(folder):
    at_write("curves.png", 2)


def in_a_log_line(folder):
    at_call(train.Run, "write_log", 5, lambda run, _: half_a_line(run.folder / "log.jsonl"))


def before_the_first_checkpoint(folder):
    at_call(train.Run, "checkpoint", 1, lambda run: (assert_no_checkpoint(run.folder), die()))


def assert_no_checkpoint(folder):
    assert (folder / "log.jsonl").stat().st_size and not list(folder.glob("*.pt"))


def between_log_and_checkpoint(folder):
    at_call(train.Run, "checkpoint", 3, die)


def while_the_selected_network_is_written(folder):
    at_write("best.pt", 2)


def while_a_checkpoint_is_written(folder):
    at_write("last.pt", 3)


def before_a_checkpoint_has_its_name(folder):
    at_replace("last.pt", 3)


def between_two_evaluations_of_one_checkpoint(folder):
    """best.pt and last.pt come late, at the third evaluation; it dies between the two files."""
    at_call(train.Run, "checkpoint", 1, lambda _: setattr(train, "EVALUATED_SECONDS", 3600))
    at_call(train.Run, "write_log", 3, lambda run, _: run.checkpoint())
    at_write("last.pt", 2)


def in_the_last_evaluation(folder):
    at_call(train.Run, "finish", 1, die)


def while_results_are_written(folder):
    at_write("results.json")


TEARING = [
    while_the_selected_network_is_written,
    while_a_checkpoint_is_written,
    before_a_checkpoint_has_its_name,
    between_two_evaluations_of_one_checkpoint,
]
MOMENTS = [
    before_settings,
    in_the_first_step,
    in_a_step,
    in_an_evaluation,
    in_a_picture,
    while_a_picture_is_written,
    in_a_log_line,
    before_the_first_checkpoint,
    between_log_and_checkpoint,
    *TEARING,
    in_the_last_evaluation,
    while_results_are_written,
]


# ------------------------------------------------------------------------------------ what a run lacks


def fill(folder):
    """Take all that is left of the disk."""
    with open(folder.parent / "filler", "wb", buffering=0) as stream:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                pass


def full_at(folder, moment):
    owner = plots if moment == "draw" else train.Run
    at_call(owner, moment, 1 if moment in ("draw", "finish") else 4, lambda *_: fill(folder))


def removed_at(folder, number):
    at_call(train.Step, "__call__", number, lambda *_: shutil.rmtree(folder))


def one_core(folder):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
