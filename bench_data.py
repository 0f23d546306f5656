"""How fast each data set makes batches, beside the training step that waits for them, and the memory it takes.

    python bench_data.py [--batch-size 64] [--threads N]

dSprites and arm3d are drawn. The others are files of their shape without content (holes that take no disk), so
that this needs no download: their batches come from the page cache, as those of a set do that fits the memory.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from lvae_min import data
from lvae_min.config import Config
from lvae_min.stores import Pixels
from lvae_min.train import Run

BATCHES, STEPS, WARM = 300, 3, 1


def memory() -> tuple[float, float]:
    """Resident memory of this process in GB: its own, and pages of files, which the system takes back at will."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile"))


def opened(name: str, folder: Path) -> tuple[data.Dataset, int]:
    """A data set, drawn or without content, and its size in bytes if every pixel were a byte."""
    if name in ("dsprites", "arm3d"):
        dataset = data.load(name, folder)
    else:
        spec = data.SPECS[name]
        channels, height, width = spec.shape
        file, shape = folder / "images.npy", (spec.count, height, width, channels)
        np.lib.format.open_memmap(file, "w+", np.uint8, shape).flush()
        labels = np.zeros((spec.count, 40), np.int64) if name == "celeba" else None
        dataset = data.Dataset(name, "no content", spec, Pixels(np.load(file, mmap_mode="r")), labels)
    return dataset, len(dataset) * int(np.prod(dataset.shape))


def measure(name: str, batch_size: int, threads: int) -> dict:
    """Milliseconds a batch and a training step, and memory before and after BATCHES batches, of one data set."""
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(threads)
        before = memory()
        dataset, size = opened(name, Path(folder))
        batches = data.Batches(data.Split.of(len(dataset)).training, batch_size, seed=0)
        indices = [batches(number) for number in range(BATCHES)]
        dataset.batch(indices[0])
        began = time.perf_counter()
        for index in indices:
            dataset.batch(index)
        batch = (time.perf_counter() - began) / BATCHES
        after = memory()
        config = Config(name, iterations=WARM + STEPS, batch_size=batch_size, threads=threads, device="cpu")
        run = Run(config, Path(folder) / "run", dataset)
        for number in range(WARM + STEPS):
            if number == WARM:
                began = time.perf_counter()
            run.step()
        step = (time.perf_counter() - began) / STEPS
        run.close()
    return {"name": name, "batch_ms": 1e3 * batch, "step_ms": 1e3 * step, "size_gb": size / 1e9,
            "own_gb": after[0] - before[0], "file_gb": after[1] - before[1]}


def bench_data(batch_size: int = 64, threads: int | None = None) -> None:
    """Print a line for each data set, each measured in a process of its own."""
    threads = threads or len(os.sched_getaffinity(0))
    print(f"batches of {batch_size}, {threads} threads, CPU")
    print("dataset     as bytes  batch ms    images/s   step ms  batch/step  resident: own   pages of the file")
    context = multiprocessing.get_context("spawn")
    for name in data.SPECS:
        with ProcessPoolExecutor(1, context) as pool:
            found = pool.submit(measure, name, batch_size, threads).result()
        print(f"{name:10} {found['size_gb']:6.2f} GB  {found['batch_ms']:8.2f}  {1e3 * batch_size / found['batch_ms']:10,.0f}"
              f"  {found['step_ms']:8.1f}  {found['batch_ms'] / found['step_ms']:10.1%}  {found['own_gb']:10.2f} GB"
              f"  {found['file_gb']:16.2f} GB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    sys.exit(bench_data(given.batch_size, given.threads))
