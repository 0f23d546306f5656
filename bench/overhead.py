"""What a run does outside its iterations: it starts, evaluates, draws and writes checkpoints."""

import json
import tempfile
import time
from pathlib import Path

import torch

from bench import common, grid
from lvae_min import data, train
from lvae_min.losses import OBJECTIVES

ITERATIONS = 1000  # of one run on a CPU
AT_ONCE = 3000  # of each of the six on a GPU


def one_run(device: torch.device) -> dict:
    """A run of the default MLP in a process of its own, and the share of each part in its time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "parts.json")
        words = ["--iterations", str(ITERATIONS), "--device", str(device), "--out", f"{folder}/runs"]
        began = time.perf_counter()
        common.python("-m", "bench.timed", str(file), *words)
        whole = time.perf_counter() - began
        found = json.loads(file.read_text())
    seconds = {"start": found["first"] - began, **found["seconds"]}
    seconds["rest"] = whole - sum(seconds.values())
    return {
        "iterations": ITERATIONS,
        "all, s": whole,
        **{f"{part}, %": 100 * taken / whole for part, taken in seconds.items()},
        "outside iterations, %": 100 * (1 - seconds["iterations"] / whole),
    }


def six_runs(device: torch.device) -> dict:
    """The six methods at once, from the command to its end, beside their iterations and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--model", *OBJECTIVES, "--jobs", str(len(OBJECTIVES)), "--iterations", str(AT_ONCE)]
        began = time.perf_counter()
        common.python("run.py", *words, "--device", str(device), "--out", folder)
        whole = time.perf_counter() - began
    dataset, threads = data.load("dsprites").to(device), max(train.cores() // len(OBJECTIVES), 1)

    def maker(method):
        return lambda: common.make_step(dataset, 64, device, threads, model=method, iterations=AT_ONCE)

    alone = len(OBJECTIVES) * AT_ONCE / grid.together([maker(method) for method in OBJECTIVES], 2.5)
    return {
        "runs at once": len(OBJECTIVES),
        "iterations of each": AT_ONCE,
        "all, s": whole,
        "iterations alone, s": alone,
        "outside iterations, %": 100 * (1 - alone / whole),
    }


def measure(device: torch.device) -> list[dict]:
    """One run from the command to its end and the share of its parts; on a GPU six at once."""
    return [one_run(device) if device.type == "cpu" else six_runs(device)]
