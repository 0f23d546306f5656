"""Side-by-side measurements, as ratios of times taken in turn in one process.

    python bench.py                     all of them, in under five minutes
    python bench.py step scores         some
    python bench.py --json bench.json   and keep the numbers

A time is the least of several, since a machine that others use only ever adds to it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lvae_min import metrics, report
from lvae_min.config import Config
from lvae_min.data import Dataset, load
from lvae_min.train import Run, pick_device


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


BENCHES = {"step": bench_step, "scores": bench_scores}


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
