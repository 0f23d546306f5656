"""What each means to make an iteration faster brings, alone."""

from collections.abc import Callable
from unittest import mock

import torch

import lvae_min.adam
import lvae_min.step
from bench import common
from lvae_min import data
from lvae_min.step import Step

ADAM = torch.optim.Adam


def worn(step: Step) -> Step:
    """The step with a sixth of Adam's means denormal and without gradient, as after 20,000 iterations."""
    step()
    torch.set_flush_denormal(False)
    for weights in step.vae.parameters():
        sixth = slice(0, weights.numel() // 6)
        step.optimizer.state[weights]["exp_avg"].view(-1)[sixth] = 1e-40
        weights.grad.view(-1)[sixth] = 0
    return step


def freed_memory(keep: bool) -> float:
    """Seconds of an iteration of the CNN whose freed memory stays with the process, or goes back."""
    device = torch.device("cpu")
    patch = mock.patch.object(
        lvae_min.step, "keep_freed_memory", lvae_min.step.keep_freed_memory if keep else lambda: None
    )
    with patch:
        step = common.make_step(data.load("arm3d"), 64, device)
    return common.least({"": step}, rounds=4, calls=8)[""]


def ways(device: torch.device) -> dict[str, Callable[[], object]]:
    """An iteration without each of the means, and with all of them: "ours", "flushed" and "ours, CNN"."""
    sprites, arm = data.load("dsprites"), data.load("arm3d")

    def stock_adam(groups, fused, capturable, **settings):
        return ADAM(groups, **settings)

    with mock.patch.object(lvae_min.adam, "Adam", stock_adam):
        plain_adam = common.make_step(sprites, 64, device)
    dense = common.make_step(sprites, 64, device)
    dense.vae.posterior = lambda x: dense.vae.encoder(x.float()).chunk(2, dim=1)
    scattered = common.make_step(arm, 64, device)
    scattered.vae.to(memory_format=torch.contiguous_format)
    kept, flushed = (worn(common.make_step(sprites, 64, device)).update for _ in range(2))

    def update(with_denormals):
        torch.set_flush_denormal(not with_denormals)
        (kept if with_denormals else flushed)()
        torch.set_flush_denormal(True)

    return {
        "ours": common.make_step(sprites, 64, device),
        "fused Adam": plain_adam,
        "sparse first layer": dense,
        "fused loss": common.make_step(sprites, 64, device, loss="torch"),
        "denormals flushed (Adam alone)": lambda: update(True),
        "flushed": lambda: update(False),
        "ours, CNN": common.make_step(arm, 64, device),
        "channels last (CNN)": scattered,
        "fused loss (CNN)": common.make_step(arm, 64, device, loss="torch"),
    }


def measure(device: torch.device) -> list[dict]:
    """What each means brings alone: an iteration of 64 images without it, over one with it (CPU)."""
    if device.type != "cpu":
        return []
    seconds = common.least(ways(device), rounds=3, calls=6)
    freed = [common.apart(freed_memory, keep) for keep in (True, False)]
    base = {"CNN": "ours, CNN", "alone": "flushed"}
    pairs = {
        name: (seconds[next((base[word] for word in base if word in name), "ours")], taken)
        for name, taken in seconds.items()
        if name not in ("ours", "ours, CNN", "flushed")
    }
    pairs["freed memory kept (CNN)"] = freed
    return [
        {
            "means": name,
            "with, ms": 1e3 * taken,
            "without, ms": 1e3 * without,
            "without / with": without / taken,
        }
        for name, (taken, without) in pairs.items()
    ]
