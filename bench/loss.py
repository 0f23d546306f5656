"""The fused loss against the same in PyTorch, and against what bounds it."""

from collections.abc import Callable

import torch

from bench import common
from lvae_min import fused, losses

LOSS_SHAPES = [(64, 4096), (256, 4096), (128, 12288), (128, 49152)]  # dSprites twice, RGB of 64 and 128
GPU_LOSS_SHAPES = [(64, 4096), (256, 4096), (128, 49152), (1024, 49152)]


def loss_ways(n: int, d: int, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Ways to get L-VAE's loss of (n, d) logits and uint8 pixels, with its gradients, and bounds."""
    logits = torch.randn(n, d, device=device).to(dtype).requires_grad_()
    x = torch.randint(0, 256, (n, d), dtype=torch.uint8, device=device)
    mu, logvar = (torch.randn(n, 10, device=device).requires_grad_() for _ in range(2))
    sigma = torch.ones(2, device=device, requires_grad=True)
    leaves, out, spare = (logits, mu, logvar, sigma), torch.empty_like(logits), torch.empty_like(x)

    def step(lvae_loss):
        return lambda: torch.autograd.grad(lvae_loss(logits, x, mu, logvar, sigma)[0], leaves)

    def run(function):
        with torch.no_grad():
            function()

    def op():
        return torch.ops.lvae.elbo.default(logits, x, mu, logvar, sigma, 1 / 255, True)

    ways = {
        "twin": step(losses.lvae_loss),
        "fused": step(fused.lvae_loss),
        "op alone": lambda: run(op),
        "sigmoid": lambda: run(lambda: torch.sigmoid(logits)),
        "memory floor": lambda: run(lambda: (out.copy_(logits), spare.copy_(x))),
    }  # and writes x back
    if device.type == "cpu":  # on a GPU it needs a compiler of its own, Triton
        ways["compiled twin"] = step(torch.compile(losses.lvae_loss, dynamic=False))
    return ways


def loss_row(n: int, d: int, device: torch.device, dtype: torch.dtype, rounds: int) -> dict:
    """Times in us; on a GPU also those of ten calls in one CUDA graph, a call."""
    ways, calls = loss_ways(n, d, device, dtype), common.CALLS[device.type]
    seconds = common.least(ways, rounds, calls, device)
    row = {"shape": f"{n} x {d}", "logits": str(dtype).removeprefix("torch.")}
    row |= {name: 1e6 * value for name, value in seconds.items()}
    row["twin / fused"] = seconds["twin"] / seconds["fused"]
    if "compiled twin" in seconds:
        return row | {"twin / compiled": seconds["twin"] / seconds["compiled twin"]}
    graphs = {
        f"{name}, graph": common.recorded(ways[name], 10, device)
        for name in ("twin", "fused", "memory floor")
    }
    replayed = {name: value / 10 for name, value in common.least(graphs, rounds, calls, device).items()}
    row |= {name: 1e6 * value for name, value in replayed.items()}
    return row | {"twin / fused, graph": replayed["twin, graph"] / replayed["fused, graph"]}


def measure(device: torch.device) -> list[dict]:
    """Loss and gradients of Eq. 5 of uint8 pixels, in us: the twin, the op, and what bounds it."""
    if reason := fused.why_not(device):
        print(f"\nloss: nothing to measure: {reason}")
        return []
    if device.type == "cpu":
        cases = [(n, d, torch.float32) for n, d in LOSS_SHAPES]
    else:
        cases = [(n, d, dtype) for n, d in GPU_LOSS_SHAPES for dtype in (torch.float32, torch.bfloat16)]
    return [
        loss_row(
            n, d, device, dtype, 20 if device.type == "cuda" else min(max(20, 20_000_000 // (n * d)), 100)
        )
        for n, d, dtype in cases
    ]
