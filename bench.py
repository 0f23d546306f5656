"""Side-by-side measurements, as ratios of times taken in turn in one process.

    python bench.py                     all of them, in under five minutes
    python bench.py step scores         some
    python bench.py --json bench.json   and keep the numbers

A time is the least of several, since a machine that others use only ever adds to it.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lvae_min import fused, losses, metrics, report
from lvae_min.config import Config
from lvae_min.data import SPECS, Batches, Dataset, Split, load
from lvae_min.stores import Pixels
from lvae_min.train import Run, pick_device

LOSS_SHAPES = [
    (64, 4096),
    (256, 4096),
    (128, 12288),
    (128, 49152),
]  # dSprites twice, RGB of 64 and 128 pixels


def least(functions: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, float]:
    """Seconds a call of each function, the least over `rounds`; they take turns: a slow moment hits all."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds + 1):  # the first round warms up, and is as good as the others
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            best[name] = min(best[name], (time.perf_counter() - start) / calls)
    return best


def stock_step(dataset: Dataset, batch_size: int, device: torch.device) -> Callable[[], None]:
    """A training step as tutorials write it: DataLoader, nn.Linear, Adam, the loss of Eq. 1 term by term."""
    images = dataset.batch(torch.arange(0, len(dataset), 40, device=device)).cpu()
    loader = DataLoader(TensorDataset(images), batch_size, shuffle=True, drop_last=True)
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(4096, 1200), nn.ReLU(), nn.Linear(1200, 1200), nn.ReLU(), nn.Linear(1200, 10)
    ).to(device)
    decoder = nn.Sequential(
        nn.Linear(5, 1200),
        nn.ReLU(),
        nn.Linear(1200, 1200),
        nn.ReLU(),
        nn.Linear(1200, 4096),
        nn.Sigmoid(),
        nn.Unflatten(1, (1, 64, 64)),
    ).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)
    batches = iter(loader)

    def step():
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        x = batch[0].to(device).float()
        mu, logvar = encoder(x).chunk(2, 1)
        x_hat = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        rec = nn.functional.mse_loss(x_hat, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        optimizer.zero_grad()
        (rec + kl).backward()
        optimizer.step()

    return step


def bench_step(device: torch.device) -> list[dict]:
    """The training step of L-VAE on dSprites against stock PyTorch, at each batch size of the paper."""
    dataset, rows = load("dsprites").to(device), []
    for batch_size in (32, 64, 128, 256):
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Config(batch_size=batch_size, device=str(device)), Path(folder) / "run", dataset)
            seconds = least(
                {"ours": run.step, "stock": stock_step(dataset, batch_size, device)}, rounds=4, calls=8
            )
            run.close()
        rows.append(
            {
                "batch": batch_size,
                "ours, ms": 1e3 * seconds["ours"],
                "stock, ms": 1e3 * seconds["stock"],
                "images/s": batch_size / seconds["ours"],
                "stock / ours": seconds["stock"] / seconds["ours"],
            }
        )
    return rows


def bench_scores(_: torch.device) -> list[dict]:
    """Each score of 10,000 and 50,000 codes, five factors as they are and in 10 bins, on one thread."""
    rows = []
    for samples in (10_000, 50_000):
        random = np.random.default_rng(0)
        factors = np.stack([random.integers(size, size=samples) for size in (3, 6, 40, 32, 32)], 1)
        codes = (
            (factors - factors.mean(0)) / factors.std(0) @ (np.eye(5) + 0.3 * random.standard_normal((5, 5)))
        )
        for discrete in (True, False):

            def timed(name, discrete=discrete, factors=factors, codes=codes):
                extra = () if name == "sap" else (discrete,)
                return lambda: getattr(metrics, name)(factors, codes, *extra)

            seconds = least({name: timed(name) for name in report.SCORES}, rounds=2)
            rows.append(
                {
                    "codes": samples,
                    "factors": "as they are" if discrete else "10 bins",
                    **{f"{name}, ms": 1e3 * value for name, value in seconds.items()},
                    "all six, ms": 1e3 * sum(seconds.values()),
                }
            )
    return rows


def loss_ways(n: int, d: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Ways to get L-VAE's loss of (n, d) logits and uint8 pixels, with its gradients, and bounds."""
    logits = torch.randn(n, d, device=device).requires_grad_()
    x = torch.randint(0, 256, (n, d), dtype=torch.uint8, device=device)
    mu, logvar = (torch.randn(n, 10, device=device).requires_grad_() for _ in range(2))
    sigma = torch.ones(2, device=device, requires_grad=True)
    leaves, out, spare = (logits, mu, logvar, sigma), torch.empty_like(logits), torch.empty_like(x)
    compiled = torch.compile(losses.lvae_loss, dynamic=False)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def step(lvae_loss):
        torch.autograd.grad(lvae_loss(logits, x, mu, logvar, sigma)[0], leaves)
        wait()

    def run(function):
        with torch.no_grad():
            function()
        wait()

    def op():
        return torch.ops.lvae.elbo.default(logits, x, mu, logvar, sigma, 1 / 255, True)

    return {
        "twin": lambda: step(losses.lvae_loss),
        "compiled twin": lambda: step(compiled),
        "fused": lambda: step(fused.lvae_loss),
        "op alone": lambda: run(op),
        "sigmoid": lambda: run(lambda: torch.sigmoid(logits)),
        "memory floor": lambda: run(lambda: (out.copy_(logits), spare.copy_(x))),  # 10 bytes a pixel, not 9
    }


def bench_loss(device: torch.device) -> list[dict]:
    """Loss and gradients of Eq. 5 of uint8 pixels, in us: the twin, the op, and what bounds it."""
    if reason := fused.why_not(device):
        print(f"\nloss: nothing to measure: {reason}")
        return []
    rows = []
    for n, d in LOSS_SHAPES:
        seconds = least(loss_ways(n, d, device), rounds=max(20, 20_000_000 // (n * d)))
        rows.append(
            {
                "shape": f"{n} x {d}",
                **{name: 1e6 * value for name, value in seconds.items()},
                "twin / compiled": seconds["twin"] / seconds["compiled twin"],
                "twin / fused": seconds["twin"] / seconds["fused"],
            }
        )
    return rows


def resident() -> float:
    """Memory of this process's own in GB, without the pages of files, which the system takes back at will."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 2**20


def data_row(name: str, device: str, batches: int = 200, steps: int = 4) -> dict:
    """How fast a data set makes batches of 64; sets that are not drawn are files of their shape, all 0."""
    with tempfile.TemporaryDirectory() as folder:
        before, spec, drawn = resident(), SPECS[name], name in ("dsprites", "arm3d")
        if drawn:
            dataset = load(name)
        else:
            channels, height, width = spec.shape
            file = Path(folder) / "images.npy"
            np.lib.format.open_memmap(file, "w+", np.uint8, (spec.count, height, width, channels)).flush()
            dataset = Dataset(
                name,
                "no content",
                spec,
                Pixels(np.load(file, mmap_mode="r")),
                np.zeros((spec.count, len(spec.factors)), np.int64),
            )
        order = Batches(Split.of(len(dataset)).training, 64, seed=0, device=device)
        numbers = iter(range(10**9))
        batch = least({"": lambda: dataset.batch(order(next(numbers)))}, rounds=3, calls=batches // 4)[""]
        grown = resident() - before
        run = Run(Config(name, device=device), Path(folder) / "run", dataset.to(device))
        step = least({"": run.step}, rounds=2, calls=steps // 2)[""]
        run.close()
    size = len(dataset) * int(np.prod(dataset.shape)) / 1e9
    return {
        "data set": name,
        "as bytes, GB": size,
        "resident, GB": grown,
        "images/s": 64 / batch,
        "batch, ms": 1e3 * batch,
        "step, ms": 1e3 * step,
        "batch / step": batch / step,
    }


def bench_data(device: torch.device) -> list[dict]:
    """Batches of 64 of each data set beside the step that waits for them, each in its own process."""
    rows = []
    for name in SPECS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(data_row, name, str(device)).result())
    return rows


BENCHES = {"loss": bench_loss, "step": bench_step, "data": bench_data, "scores": bench_scores}


def show(title: str, rows: list[dict]) -> None:
    """A Markdown table of rows that have the same keys."""

    def cell(value) -> str:
        return (
            value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
        )

    print(f"\n{title}\n\n| " + " | ".join(rows[0]) + " |\n|" + "--:|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(cell, row.values())) + " |", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    given = parser.parse_args(arguments)
    unknown = set(given.bench) - set(BENCHES)
    if unknown:
        parser.error(f"{unknown.pop()}: expected {', '.join(BENCHES)}")
    device = pick_device(given.device)
    results = {**report.machine(device), "threads": torch.get_num_threads()}
    print(
        f"{results['device']}, {results['threads']} threads, torch {torch.__version__}, "
        f"commit {results['commit']}"
    )
    for name in given.bench or BENCHES:
        results[name] = BENCHES[name](device)
        if not results[name]:
            continue
        show(BENCHES[name].__doc__.splitlines()[0], results[name])
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        sys.exit(2)
