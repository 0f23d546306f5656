"""One iteration against stock PyTorch, and its rate against the peak of the matrix products."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import lvae_min.step
from bench import common
from bench.stock import Stock
from lvae_min import data
from lvae_min.step import Step

PAIRS, ROUNDS = 3, 2  # of processes of ours and stock PyTorch's; measurements of either in turn
PEAK_SIDE = {"cpu": 1024, "cuda": 8192}  # of square matrices whose product is taken for the machine's peak


def products(device: torch.device) -> dict[str, Callable[[], object]]:
    """One large matrix product in each precision: what the machine can do at best."""
    side = PEAK_SIDE[device.type]
    square = torch.randn(side, side, device=device)
    half = square.bfloat16()

    def product(precision):
        with lvae_min.step.products(device, precision):
            square @ square

    ways = {"float32": lambda: product("float32"), "bf16": lambda: half @ half}
    return ways | ({"tf32": lambda: product("tf32")} if device.type == "cuda" else {})


def operations(step: Step) -> int:
    """Floating-point operations of an iteration's products: none in the sparse first layer on a CPU."""
    x = step.dataset.batch(step.batches.at(step.clock))
    with FlopCounterMode(display=False) as counter:
        logits, mu, logvar = step.forward(x)
        (logits.sum() + mu.sum() + logvar.sum()).backward()
    step.optimizer.zero_grad()
    return counter.get_total_flops()


def step_row(name: str, batch_size: int, device_name: str) -> dict:
    device = torch.device(device_name)
    dataset, calls, stock = (
        data.load(name).to(device),
        8 * common.CALLS[device.type],
        Stock(name, batch_size, device),
    )
    precisions = ["float32", "bf16"] + ["tf32"] * (device.type == "cuda")
    ways = {each: common.make_step(dataset, batch_size, device, precision=each) for each in precisions}
    ours = ways["float32"]
    ours.batches.turn(0)
    flops = operations(ours)
    seconds = dict.fromkeys([*ways, "stock"], float("inf"))
    stock.ready()
    for _ in range(ROUNDS):
        found = common.least(ways, rounds=0, calls=calls, device=device) | {"stock": stock.seconds(calls)}
        seconds = {way: min(taken, found[way]) for way, taken in seconds.items()}
    stock.close()
    peaks = common.least(products(device), rounds=20, calls=common.CALLS[device.type], device=device)
    row = {
        "network": common.NETWORKS[name],
        "batch": batch_size,
        "ours, ms": 1e3 * seconds["float32"],
        "stock, ms": 1e3 * seconds["stock"],
        "stock / ours": seconds["stock"] / seconds["float32"],
        "from, to": "",
        "images/s": batch_size / seconds["float32"],
        "GFLOP": flops / 1e9,
        "GFLOP/s": flops / seconds["float32"] / 1e9,
        "of peak, %": flops / seconds["float32"],
    }
    for precision in precisions[1:]:
        row |= {
            f"{precision}, ms": 1e3 * seconds[precision],
            f"stock / {precision}": seconds["stock"] / seconds[precision],
            f"of {precision} peak, %": flops / seconds[precision],
        }
    return row | {"peaks": [2 * PEAK_SIDE[device.type] ** 3 / peaks[way] for way in precisions]}


def measure(device: torch.device) -> list[dict]:
    """An iteration of L-VAE, and one in stock PyTorch; the rate is that of the products that are done."""
    rows, peaks = [], []
    for name, batch_size in common.STEPS:
        # The same iteration varies from one process to another.
        found = [common.apart(step_row, name, batch_size, str(device)) for _ in range(PAIRS)]
        peaks += [row.pop("peaks") for row in found]
        found.sort(key=lambda row: row["stock / ours"])
        ratios = [row["stock / ours"] for row in found]
        rows.append({**found[PAIRS // 2], "from, to": f"{ratios[0]:.2f} to {ratios[-1]:.2f}"})
    peaks = np.max(peaks, 0)  # the best that any of the processes saw
    for row in rows:
        for share, peak in zip([key for key in row if "peak, %" in key], peaks.tolist(), strict=True):
            row[share] *= 100 / peak
    return rows
