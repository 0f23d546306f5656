"""Side-by-side measurements, as ratios from one run: python bench.py

Every row times its ways in turn, again and again, and keeps the shortest time of each: on a shared machine
the shortest times are the ones that repeat, and their ratio is worth more than the times.
"""

import platform
import time
from collections.abc import Callable

import torch

from lvae_min import fused, losses

SHAPES = [(64, 4096), (256, 4096), (128, 12288), (128, 49152)]     # dSprites twice, RGB of 64 and 128 pixels
LATENTS = 10


def shortest(ways: dict[str, Callable], seconds: float) -> dict[str, float]:
    """Shortest time of each way in seconds, from interleaved repeats that take about `seconds` in all."""
    best = dict.fromkeys(ways, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def loss_ways(n: int, d: int, device: torch.device) -> dict[str, Callable]:
    """Ways to get L-VAE's loss of (n, d) logits and uint8 pixels and its gradients."""
    logits = torch.randn(n, d, device=device).requires_grad_()
    x = torch.randint(0, 256, (n, d), dtype=torch.uint8, device=device)
    mu, logvar = (torch.randn(n, LATENTS, device=device).requires_grad_() for _ in range(2))
    sigma = torch.ones(2, device=device, requires_grad=True)
    leaves, out = (logits, mu, logvar, sigma), torch.empty_like(logits)
    compiled = torch.compile(losses.lvae_loss, dynamic=False)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def step(lvae_loss):
        torch.autograd.grad(lvae_loss(logits, x, mu, logvar, sigma)[0], leaves)
        wait()

    def run(function):
        with torch.no_grad():
            function()
        wait()

    op = torch.ops.lvae.elbo.default
    return {
        "eager": lambda: step(losses.lvae_loss),
        "compile": lambda: step(compiled),
        "registered": lambda: step(lambda *inputs: op(*inputs, 1 / 255, True)),
        "fused": lambda: step(fused.lvae_loss),
        "op alone": lambda: run(lambda: op(logits, x, mu, logvar, sigma, 1 / 255, True)),
        "no gradient": lambda: run(lambda: op(logits, x, mu, logvar, sigma, 1 / 255, False)),
        "sigmoid": lambda: run(lambda: torch.sigmoid(logits)),
        "floor": lambda: run(lambda: torch.add(logits, x, out=out)),    # reads and writes the same bytes
    }


def bench_loss(device: torch.device | str = "cpu", seconds: float = 6.0) -> None:
    """Print forward + backward times of the loss: eager, torch.compile, the op; and what the op is made of.

    registered   the op by its registered autograd, as torch.compile sees it; fused is the way of eager mode
    op alone     the forward with its gradients, without autograd; no gradient: as in evaluation
    sigmoid      one torch.sigmoid of the logits; floor: one addition that moves the same bytes
    """
    device = torch.device(device)
    if reason := fused.why_not(device):
        raise ValueError(f"nothing to measure: {reason}")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print("loss of L-VAE, forward + backward, float32 logits, uint8 pixels; "
          f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads; "
          "us, and in brackets how many times faster than eager")
    for n, d in SHAPES:
        ways = loss_ways(n, d, device)
        for way in ways.values():
            way()                                                       # compile, warm up
        best = shortest(ways, seconds)
        print(f"{n:4} x {d:<6}" + "  ".join(
            f"{name} {1e6 * t:.0f} ({best['eager'] / t:.1f}x)" if name in ("compile", "registered", "fused")
            else f"{name} {1e6 * t:.0f}" for name, t in best.items()))


def processor() -> str:
    """The CPU's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    bench_loss()
