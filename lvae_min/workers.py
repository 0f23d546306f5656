"""Scores and pictures of the runs of a grid, in processes of their own.

In the runs' own process one run's would hold up all others: Python lets one thread at a time do its work, and
six scores and four pictures are a second of it, in which a GPU carries out thousands of iterations. The
results are the same to the bit.
"""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any


class AtOnce:
    """Calls functions in this thread: what `Workers` does in other processes."""

    beside = False  # whether this thread can do something else until a call has ended

    def later(self, function: Callable, *given, **named) -> Callable[[], Any]:
        """Begin a call; what is returned waits for its result."""
        result = function(*given, **named)
        return lambda: result


AT_ONCE = AtOnce()


def draw(*given) -> None:
    """plots.draw, by one thread at a time."""
    from lvae_min import plots  # matplotlib takes half a second to import

    with plots.DRAWING:
        plots.draw(*given)


def importing() -> None:
    from lvae_min import metrics, plots  # noqa: F401


def begin() -> None:
    """What a worker does first: leave Ctrl-C to the process that it works for, and end when that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch():
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class Workers(AtOnce):
    """At most `count` processes, started when they are first needed: `later(function, ...)()` is its result.

    The functions are the modules' own, which another process can import. Fork is not an option: threads and a
    GPU do not survive it.
    """

    beside = True

    def __init__(self, count: int):
        self.count, self.pool = count, ProcessPoolExecutor(count, get_context("spawn"), begin)

    def later(self, function: Callable, *given, **named) -> Callable[[], Any]:
        def wait():
            try:
                return future.result()
            except BrokenProcessPool:
                return function(*given, **named)

        try:
            future = self.pool.submit(function, *given, **named)
        except BrokenProcessPool:  # a worker was killed, maybe for want of memory: the pool is of no use then
            return super().later(function, *given, **named)
        return wait

    def warm_up(self) -> None:
        """Let the processes start, and import what they need, while the runs begin."""
        for _ in range(self.count):
            self.later(importing)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
