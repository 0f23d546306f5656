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

from lvae_min import files, metrics, plots, report, train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["faults"])
ARGUMENTS = ["--threads", "1", "--batch-size", "8", "--iterations", "60"]
NAME = "dsprites-lvae-iterations60-batch-size8"
small_run.small_images()                                        # drawn once, by the server


def start(out, said, fault=None, *given):
    """A process that trains in `out`, writes what it says to `said`, and meets with `fault`."""
    process = CONTEXT.Process(target=child, args=(out, said, fault, *given))
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):      # for the server
        process.start()
    return process


def child(out, said, fault, *given):
    with open(said, "w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    metrics.score = quick_scores
    if fault:
        fault(Path(out) / NAME, *given)
    sys.exit(small_run.command([*ARGUMENTS, "--out", str(out)]))


def quick_scores(factors, codes):
    columns = np.resize(codes.T, (len(report.SCORES), len(codes)))
    return {name: float(column.std()) for name, column in zip(report.SCORES, columns, strict=True)}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner, name, number, act):
    """Let `act` happen instead of call `number`, from 1, of a function; it may go on with the call."""
    real, calls = getattr(owner, name), []

    def counted(*given, **named):
        calls.append(given)
        if len(calls) == number:
            act(*given)
        return real(*given, **named)

    mock.patch.object(owner, name, counted).start()


def at_file(owner, name, wanted, act):
    """Let `act` happen at the first call of a function of which an argument is a file called `wanted`."""
    real = getattr(owner, name)

    def watched(*given, **named):
        if any(Path(each).name == wanted for each in given if isinstance(each, (str, Path))):
            act(*given)
        return real(*given, **named)

    mock.patch.object(owner, name, watched).start()


def half_written(file, content):
    """Write the first half of a file to its .part and die."""
    file.with_name(file.name + ".part").write_bytes(bytes(content)[:len(content) // 2])
    die()


def half_a_line(file, *_):
    """Write a log line's first half and die."""
    with builtins.open(file, "ab") as log:
        log.write(b'{"step": 2')
    die()


# ------------------------------------------------------------------------- where a run is killed, by name

def before_settings(folder):
    at_file(files, "write_whole", "config.json", half_written)
    train.write_whole = files.write_whole


def in_the_first_step(folder):
    at_call(train.Step, "__call__", 1, die)


def in_a_step(folder):
    at_call(train.Step, "__call__", 40, die)


def in_an_evaluation(folder):
    at_call(metrics, "score", 4, die)


def in_a_picture(folder):
    at_call(plots, "traversals", 1, die)


def while_a_picture_is_written(folder):
    at_file(plots, "write_whole", "curves.png", half_written)


def in_a_log_line(folder):
    at_call(train.Run, "write_log", 5, lambda run, _: half_a_line(run.folder / "log.jsonl"))


def between_log_and_checkpoint(folder):
    at_call(train.Run, "checkpoint", 3, die)


def while_the_selected_network_is_written(folder):
    at_file(files, "write_whole", "best.pt", half_written)


def while_a_checkpoint_is_written(folder):
    at_file(files, "write_whole", "last.pt", half_written)


def before_a_checkpoint_has_its_name(folder):
    calls = []
    at_file(os, "replace", "last.pt", lambda *_: calls.append(1) or len(calls) == 3 and die())


def in_the_last_evaluation(folder):
    at_call(train.Run, "finish", 1, die)


def while_results_are_written(folder):
    at_file(train, "write_whole", "results.json", half_written)


MOMENTS = [before_settings, in_the_first_step, in_a_step, in_an_evaluation, in_a_picture,
           while_a_picture_is_written, in_a_log_line, between_log_and_checkpoint,
           while_the_selected_network_is_written, while_a_checkpoint_is_written,
           before_a_checkpoint_has_its_name, in_the_last_evaluation, while_results_are_written]


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
