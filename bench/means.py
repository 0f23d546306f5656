"""What each means to make an iteration faster brings, alone."""

from collections.abc import Callable
from unittest import mock

import torch

import lvae_min.adam
import lvae_min.step
from bench import common
from lvae_min import data
from lvae_min.step import Step

ADAM, CPU = torch.optim.Adam, torch.device("cpu")


def worn(step: Step) -> Step:
    """The step with a sixth of Adam's means denormal and without gradient, as after 20,000 iterations.

    It is every sixth row, in a first layer the weights of a pixel: as many for each thread.
    """
    step()
    for weights in step.vae.parameters():
        step.optimizer.state[weights]["exp_avg"][::6] = 1e-40
        weights.grad[::6] = 0
    return step


def adam_alone(flush: bool) -> float:
    """Seconds of Adam's update whose denormals are flushed to zero, or kept.

    It needs a process of its own: torch sets the calling thread alone, and the others of a process begin as
    that thread is at their start.
    """
    torch.set_flush_denormal(flush)
    with mock.patch.object(torch, "set_flush_denormal"):  # which a step would call
        step = worn(common.make_step(data.load("dsprites"), 64, CPU))
    return common.least({"": step.update}, rounds=3, calls=6)[""]


def freed_memory(keep: bool) -> float:
    """Seconds of an iteration of the CNN whose freed memory stays with the process, or goes back."""
    patch = mock.patch.object(
        lvae_min.step, "keep_freed_memory", lvae_min.step.keep_freed_memory if keep else lambda: None
    )
    with patch:
        step = common.make_step(data.load("arm3d"), 64, CPU)
    return common.least({"": step}, rounds=4, calls=8)[""]


APART = {"denormals flushed (Adam alone)": adam_alone, "freed memory kept (CNN)": freed_memory}


def ways(device: torch.device) -> dict[str, Callable[[], object]]:
    """An iteration without each of the means, and with all of them: "ours" and "ours, CNN"."""
    sprites, arm = data.load("dsprites"), data.load("arm3d")

    def stock_adam(groups, fused, capturable, **settings):
        return ADAM(groups, **settings)

    with mock.patch.object(lvae_min.adam, "Adam", stock_adam):
        plain_adam = common.make_step(sprites, 64, device)
    dense = common.make_step(sprites, 64, device)
    dense.vae.posterior = lambda x: dense.vae.encoder(x.float()).chunk(2, dim=1)
    return {
        "ours": common.make_step(sprites, 64, device),
        "fused Adam": plain_adam,
        "sparse first layer": dense,
        "fused loss": common.make_step(sprites, 64, device, loss="torch"),
        "ours, CNN": common.make_step(arm, 64, device),
        "channels last (CNN)": common.channels_first(common.make_step(arm, 64, device)),
        "fused loss (CNN)": common.make_step(arm, 64, device, loss="torch"),
    }


def measure(device: torch.device) -> list[dict]:
    """What each means brings alone: an iteration of 64 images without it, over one with it (CPU)."""
    if device.type != "cpu":
        return []
    seconds = common.least(ways(device), rounds=3, calls=6)
    pairs = {
        name: (seconds["ours, CNN" if "CNN" in name else "ours"], taken)
        for name, taken in seconds.items()
        if name not in ("ours", "ours, CNN")
    }
    for name, function in APART.items():
        pairs[name] = common.apart(function, True), common.apart(function, False)
    return [
        {
            "means": name,
            "with, ms": 1e3 * taken,
            "without, ms": 1e3 * without,
            "without / with": without / taken,
        }
        for name, (taken, without) in pairs.items()
    ]
