"""What else was tried to make an iteration faster on a CPU, and what it brought.

    python -m bench.trials [--json FILE]

Each is an iteration of 64 images with one change, beside ours, the two taken in turn; and the three products
of the largest layer by both of PyTorch's libraries, where the transposed copies that oneDNN needs are not
timed. docs/speed.md has the table. None of it is a default on a CPU.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench import common
from lvae_min import data, products, report
from lvae_min.io.text import Parser
from lvae_min.step import Step

CALLED = "python -m bench.trials"
CPU, BATCH = torch.device("cpu"), 64
ALONE = "import sys; sys.path.insert(0, '.'); from bench import trials; print(trials.alone(sys.argv[1]))"
PINNED = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}


def in_backward(step: Step) -> Step:
    """Adam of each weight as soon as its gradient is there, while that is in the cache."""
    single = {}
    for group, rate in zip(step.optimizer.param_groups, step.lr[0], strict=True):
        for weights in group["params"]:
            single[weights] = torch.optim.Adam([weights], lr=rate, fused=True)

    def update(weights):
        single[weights].step()
        weights.grad = None

    for weights in single:
        weights.register_post_accumulate_grad_hook(update)
    step.update = lambda: None  # type: ignore[method-assign]
    return step


def in_place(step: Step) -> Step:
    """Gradients are zeroed and added to where they lie, instead of being made anew."""
    step.optimizer.zero_grad = partial(step.optimizer.zero_grad, set_to_none=False)
    return step


def by_columns(step: Step) -> Step:
    """Convolutions as products with the columns of the image, as on a GPU."""
    for layer in step.vae.modules():
        if isinstance(layer, products.Conv | products.ConvTransposed):
            transposed = isinstance(layer, products.ConvTransposed)
            layer.forward = partial(products.convolve, layer, transposed=transposed)
    return step


def compiled(step: Step) -> Step:
    """Network through torch.compile."""
    step.vae.forward = torch.compile(step.vae.forward)
    return step


TRIALS: dict[str, tuple[str, Callable[[Step], Step], dict]] = {
    "Adam in the backward pass": ("dsprites", in_backward, {}),
    "gradients in place": ("dsprites", in_place, {}),
    "torch.compile": ("dsprites", compiled, {}),
    "bf16": ("dsprites", lambda step: step, {"precision": "bf16"}),
    "CNN: channels first": ("arm3d", common.channels_first, {}),
    "CNN: convolutions by columns": ("arm3d", by_columns, {}),
    "CNN: torch.compile": ("arm3d", compiled, {}),
    "CNN: Adam in the backward pass": ("arm3d", in_backward, {}),
    "CNN: bf16": ("arm3d", lambda step: step, {"precision": "bf16"}),
}


def trial(name: str, rounds: int = 8, calls: int = 5) -> dict:
    """One of TRIALS beside ours, in milliseconds."""
    dataset, change, settings = TRIALS[name]
    images = data.load(dataset)
    ways = {
        "ours": common.make_step(images, BATCH, CPU),
        "changed": change(common.make_step(images, BATCH, CPU, **settings)),
    }
    for step in ways.values():  # compiles
        step()
        step()
    return row(name, *common.least(ways, rounds, calls).values())


def row(name: str, ours: float, changed: float) -> dict:
    return {
        "change": name,
        "ours, ms": 1e3 * ours,
        "changed, ms": 1e3 * changed,
        "ours / changed": ours / changed,
    }


def alone(dataset: str) -> float:
    """Seconds of an iteration in this process."""
    return common.least({"": common.make_step(data.load(dataset), BATCH, CPU)}, rounds=8, calls=5)[""]


def pinned() -> dict:
    """Threads pinned to cores, or left to the system: processes in turn."""
    best = {"": float("inf"), "pinned": float("inf")}
    for _ in range(3):
        for way, environment in (("", {}), ("pinned", PINNED)):
            best[way] = min(best[way], float(common.python("-c", ALONE, "dsprites", **environment)))
    return row("threads pinned to cores", *best.values())


def both_libraries() -> dict[str, Callable[[], torch.Tensor]]:
    """The decoder's last layer, 64 x 1200 x 4096: each product by MKL, which PyTorch takes, and by oneDNN."""
    x, gradient, weight = torch.randn(BATCH, 1200), torch.randn(BATCH, 4096), torch.randn(4096, 1200)
    bias, linear = torch.randn(4096), torch.ops.mkldnn._linear_pointwise
    back, across = weight.t().contiguous(), (gradient.t().contiguous(), x.t().contiguous())

    def one_dnn(one, other, added=None):
        return linear(one, other, added, "none", [], "")

    return {
        "forward": lambda: torch.addmm(bias, x, weight.t()),
        "forward, oneDNN": lambda: one_dnn(x, weight, bias),
        "gradient of x": lambda: gradient @ weight,
        "gradient of x, oneDNN": lambda: one_dnn(gradient, back),
        "gradient of W": lambda: gradient.t() @ x,
        "gradient of W, oneDNN": lambda: one_dnn(*across),
    }


def library() -> list[dict]:
    found = common.least(both_libraries(), rounds=30)
    names = ("forward", "gradient of x", "gradient of W")
    return [row(f"last layer, {name}: oneDNN", found[name], found[f"{name}, oneDNN"]) for name in names]


def main(arguments: list[str]) -> int:
    parser = Parser(prog=CALLED, description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    given = parser.parse_args(arguments)
    rows = [common.apart(trial, name) for name in TRIALS]
    rows += [pinned(), *common.apart(library)]
    for one in rows:
        print(f"{one['change']:40s}" + "".join(f"{key} {one[key]:.2f}  " for key in list(one)[1:]))
    if given.json:
        made = {**report.machine(CPU), "threads": torch.get_num_threads(), "rows": rows}
        given.json.write_text(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    common.script(CALLED, main)
