"""Where the time of an iteration goes."""

import time
from contextlib import nullcontext

import numpy as np
import torch

import lvae_min.step
from bench import common
from lvae_min import data


def measure(device: torch.device) -> list[dict]:
    """Where the time of an eager iteration goes, each part waited for; medians of 20.

    On a GPU the backward pass updates the linear layers as well.
    """
    with lvae_min.step.products(device):
        return parts(device)


def parts(device: torch.device) -> list[dict]:
    rows, wait = [], common.waiter(device)
    for name, batch_size in common.STEPS:
        step, times = common.make_step(data.load(name).to(device), batch_size, device, graph="off"), []
        for number in range(25):
            step.batches.turn(number)
            step.take_rates()  # not timed
            wait()
            moments = [time.perf_counter()]

            def done(moments=moments):
                wait()
                moments.append(time.perf_counter())

            x = step.dataset.batch(step.batches.at(step.clock))
            done()
            with step.by_op.updating() if step.by_op else nullcontext():
                logits, mu, logvar = step.forward(x)
            done()
            loss = step.objective(logits, x, mu, logvar)[0]
            done()
            step.optimizer.zero_grad()
            loss.backward()
            done()
            step.update()
            done()
            step.clock += 1
            times.append(np.diff(moments))
        parts = np.median(times[5:], 0)
        names = ("data, %", "forward, %", "loss, %", "backward, %", "optimizer, %")
        rows.append(
            {
                "network": common.NETWORKS[name],
                "batch": batch_size,
                "all, ms": 1e3 * parts.sum(),
                **dict(zip(names, (100 * parts / parts.sum()).tolist(), strict=True)),
            }
        )
    return rows
