"""What the measurements share: time of finished work, an iteration, a process of its own, memory."""

import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from lvae_min import train
from lvae_min.config import Config
from lvae_min.data import Dataset, Split
from lvae_min.datasets.stores import Pixels
from lvae_min.io.text import one_line
from lvae_min.step import Step

ROOT = Path(__file__).resolve().parent.parent

STEPS = [("dsprites", 32), ("dsprites", 64), ("dsprites", 128), ("dsprites", 256), ("arm3d", 64)]
NETWORKS = {"dsprites": "MLP", "arm3d": "CNN"}
CALLS = {"cpu": 1, "cuda": 20}  # between two waits for the device


def waiter(device: torch.device | None) -> Callable[[], None]:
    """What waits for the device: for that one, which need not be the current one."""
    if device is None or device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


def stream_waiter(device: torch.device) -> Callable[[], None]:
    """What waits for the work of this thread alone."""
    if device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.current_stream(device).synchronize()


def recorded(function: Callable[[], object], calls: int, device: torch.device) -> Callable[[], object]:
    """So many calls as one CUDA graph, which nobody waits to be launched; on a CPU a loop."""
    if device.type != "cuda":
        return lambda: [function() for _ in range(calls)]
    side, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.synchronize(device)
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    return graph.replay


def least(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Seconds a call of each function, the least over `rounds`; they take turns: a slow moment hits all."""
    wait = waiter(device)
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds + 1):  # the first round warms up, and is as good as the others
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            wait()
            best[name] = min(best[name], (time.perf_counter() - start) / calls)
    return best


def make_step(
    dataset: Dataset, batch_size: int, device: torch.device, threads: int | None = None, **settings
) -> Step:
    """An iteration of L-VAE, as run.py does it."""
    config = Config(dataset.name, batch_size=batch_size, **settings)
    return Step(config, dataset, Split.of(len(dataset)).training, device, threads or train.cores())


def channels_first(step: Step) -> Step:
    """The step with the weights and the images of its CNN laid out with channels first."""
    own, scale = step.vae.posterior, step.vae.scale

    def posterior(x):
        return own(x.to(torch.float32, memory_format=torch.contiguous_format) * scale)

    step.vae.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's hints lack it
    step.vae.posterior = posterior  # type: ignore[method-assign]
    return step


def apart(function: Callable, *given):
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def python(*words: str, **environment: str) -> str:
    """What Python prints for these words, in the folder of this checkout. Raises ValueError if it fails."""
    given = {**os.environ, **environment}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, text=True, capture_output=True, env=given)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        raise ValueError(one_line(f"python {shlex.join(words)[:120]}: {reason}"))
    return done.stdout


def script(called: str, main: Callable[[list[str]], int]) -> None:
    """Carry out a command and exit with its code; a user's mistake is one line, with exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        print(f"{called}: {error}", file=sys.stderr)
        sys.exit(2)


def resident() -> float:
    """Memory of this process's own in GB, without the pages of files, which the system takes back at will."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024 / 1e9


def empty_file(folder: Path, shape: tuple[int, int, int], count: int) -> Pixels:
    """Images in a file, all 0, memory-mapped."""
    channels, height, width = shape
    file = folder / "images.npy"
    np.lib.format.open_memmap(file, "w+", np.uint8, (count, height, width, channels)).flush()
    return Pixels(np.load(file, mmap_mode="r"))
