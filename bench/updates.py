"""What the ways to update the weights take on a GPU: a whole iteration, recorded as a CUDA graph.

    python -m bench.updates                      the MLP and the CNN, in float32, tf32 and bf16
    python -m bench.updates --json updates.json  and keep the numbers

    torch    torch.optim.Adam, fused; in bf16 autocast rounds the weights for each product
    adam_    lvae::adam_ for all weights; in bf16 a copy of the network in bfloat16 is trained
    layer_   lvae::layer_ for the linear layers and lvae::adam_ for the others: what training does

docs/kernel.md says what they are. Exit code: 0, 2 without a GPU or the ops.
"""

import json
from pathlib import Path

import torch

from bench import common
from lvae_min import data, fused, report
from lvae_min.io.text import Parser
from lvae_min.step import Step

CALLED = "python -m bench.updates"
WAYS = ("torch", "adam_", "layer_")
PRECISIONS = ("float32", "tf32", "bf16")
BATCH = 64


def changed(step: Step, way: str) -> Step:
    """Let a step update its weights in one of WAYS."""
    if way == "torch":
        step.by_op, step.network = None, step.vae
    elif way == "adam_" and step.by_op:
        step.by_op.layers = []
    return step


def measure(device: torch.device, rounds: int = 8, calls: int = 100) -> list[dict]:
    """A row for each network and precision: microseconds an iteration by each way."""
    rows = []
    for name in ("dsprites", "arm3d"):
        dataset = data.load(name).to(device)
        for precision in PRECISIONS:
            steps = {
                way: changed(common.make_step(dataset, BATCH, device, precision=precision), way)
                for way in WAYS
            }
            for step in steps.values():
                for _ in range(10):  # records the graph
                    step()
            best = common.least(steps, rounds, calls, device)
            us = {f"{way}, us": 1e6 * seconds for way, seconds in best.items()}
            rows.append({"network": common.NETWORKS[name], "precision": precision, **us})
    return rows


def main(arguments: list[str]) -> int:
    parser = Parser(prog=CALLED, description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise ValueError("torch sees no GPU: expected one")
    if reason := fused.why_not("cuda"):
        raise ValueError(f"the ops are not built: {reason}")
    device = torch.device("cuda", 0)
    rows = measure(device)
    for row in rows:
        print(
            f"{row['network']} {row['precision']:8s}"
            + "".join(f"  {way} {row[f'{way}, us']:.1f}" for way in WAYS)
        )
    if given.json:
        given.json.write_text(json.dumps({**report.machine(device), "batch": BATCH, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    common.script(CALLED, main)
