"""Side-by-side measurements, as ratios of times that were taken in turn.

    python -m bench                     all of them, in about six minutes
    python -m bench step scores         some
    python -m bench --json bench.json   and keep the numbers
    python -m bench --device cuda       on a GPU

    loss        the fused loss against the same in PyTorch, and against what bounds it
    step        one iteration against stock PyTorch, and its rate against the peak of the matrix products
    parts       where the time of an iteration goes
    means       what each means to make it faster brings, alone
    grid        one run against two at once
    data        the batches of each data set against the iteration that waits for them
    evaluation  one evaluation against the 10,000 iterations between two
    scores      each of the six scores
    start       from the command to the first iteration
    overhead    what a run does outside its iterations; on a GPU six runs at once
    growth      time over batch size and width of the network, memory over size of the data set

Beside them, in minutes of their own: python -m bench.speedrun, bench.trials, and on a GPU bench.updates.

A time is the least of several, since a machine that others use only ever adds to it; of `step` it is that of
the median of three pairs of processes, of `parts` a median; an evaluation and a whole run (overhead) are
timed once. On a GPU it is that of finished work: many calls, and then a wait for the
device. Stock PyTorch has a process of its own, and its own defaults there: what an iteration of ours sets for
the whole process does not reach it.
"""

import json
import time
from pathlib import Path

import torch

from bench import common, data, evaluation, grid, growth, loss, means, overhead, parts, scores, start, step
from lvae_min import report
from lvae_min.io.text import Parser
from lvae_min.train import pick_device

CALLED = "python -m bench"
BENCHES = {
    "loss": loss.measure,
    "step": step.measure,
    "parts": parts.measure,
    "means": means.measure,
    "grid": grid.measure,
    "data": data.measure,
    "evaluation": evaluation.measure,
    "scores": scores.measure,
    "start": start.measure,
    "overhead": overhead.measure,
    "growth": growth.measure,
}


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
    parser = Parser(prog=CALLED, description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    given = parser.parse_args(arguments)
    unknown = set(given.bench) - set(BENCHES)
    if unknown:
        parser.error(f"{unknown.pop()}: expected {', '.join(BENCHES)}")
    device, began = pick_device(given.device), time.monotonic()
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
    results["seconds"] = round(time.monotonic() - began)
    print(f"\n{results['seconds']} s in all")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    common.script(CALLED, main)
