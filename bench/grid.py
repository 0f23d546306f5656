"""One run against as many at once as there are cores, or six on a GPU."""

import threading
import time
from collections.abc import Callable

import torch

from bench import common
from lvae_min import data, train
from lvae_min.step import Step

AT_ONCE = 6  # runs on a GPU
SECONDS = 1.5  # of iterations, twice each


def together(makers: list[Callable[[], Step]], seconds: float) -> float:
    """Finished iterations a second of several steps at once, each made and called in a thread of its own."""
    counts, stop, began = [0] * len(makers), threading.Event(), []

    def begin():
        began.append(time.perf_counter())  # before any thread goes on

    ready = threading.Barrier(len(makers) + 1, begin, timeout=120)  # a failure must not hold up the others

    def work(number):
        step = makers[number]()
        wait, calls = common.stream_waiter(step.device), 5 * common.CALLS[step.device.type]
        for _ in range(4):
            step()
        wait()
        ready.wait()
        while not stop.is_set():
            for _ in range(calls):
                step()
            wait()  # a GPU has a thousand calls in its queue before it is slowed down
            counts[number] += calls

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(makers))]
    for thread in threads:
        thread.start()
    ready.wait()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began[0])


def measure(device: torch.device) -> list[dict]:
    """Images a second of one run on all cores, and of as many runs as cores (six on a GPU) at once."""
    rows, many = [], train.cores() if device.type == "cpu" else AT_ONCE
    for name, batch_size, precision in (
        ("dsprites", 64, "float32"),
        ("dsprites", 256, "float32"),
        ("dsprites", 64, "bf16"),
        ("arm3d", 64, "float32"),
    ):
        dataset = data.load(name).to(device)

        def make(threads, dataset=dataset, batch_size=batch_size, precision=precision):
            return common.make_step(dataset, batch_size, device, threads, precision=precision)

        ways = {
            "one": [lambda: make(train.cores())],
            "many": [lambda: make(max(train.cores() // many, 1))] * many,
        }
        best = dict.fromkeys(ways, 0.0)
        for _ in range(2):
            for way, makers in ways.items():
                best[way] = max(best[way], batch_size * together(makers, SECONDS))
        rows.append(
            {
                "network": common.NETWORKS[name],
                "batch": batch_size,
                "precision": precision,
                "one run, images/s": best["one"],
                f"{many} runs at once, images/s": best["many"],
                "at once / one": best["many"] / best["one"],
            }
        )
    return rows
