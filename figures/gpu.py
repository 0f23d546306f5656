"""What was measured on a GPU, as tables for the pages, from data/gpu.json.

    python figures/gpu.py      prints them all

The numbers are those of `python -m bench ... --device cuda` and of trials beside it; each has its commit.
"""

import json

from common import DATA, script

from lvae_min.io.text import Parser

FILE = DATA / "gpu.json"
LOSS = {"fused": "fused", "twin": "PyTorch", "fused, graph": "fused, in a graph"}
LOSS |= {"twin, graph": "PyTorch, in a graph", "memory floor, graph": "least"}

STOCK = (
    "Stock PyTorch ran in our process, with what ours sets for it: deterministic cuDNN and no TF32, which "
    "are not PyTorch's defaults and matter for the CNN"
)


def read() -> dict:
    return json.loads(FILE.read_text())


def markdown(rows: list[dict]) -> str:
    """A table; its first column holds words, None is a dash."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---|" + "--:|" * (len(rows[0]) - 1)]
    lines += ["| " + " | ".join(map(cell, row.values())) + " |" for row in rows]
    return "\n".join(lines)


def cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.1f}"


def machine(found: dict) -> str:
    """Where it was measured, in words."""
    versions = found["versions"]
    return (
        f"{found['device']}, driver {found['driver']}, torch {versions['torch']}, nvcc {versions['nvcc']}, "
        f"{found['cores']} CPU cores, {found['date']}"
    )


def loss(found: dict) -> str:
    """The fused loss against PyTorch's, forward and backward."""
    rows = [
        {"logits": f"{row['shape']} {row['logits']}", **{title: row[name] for name, title in LOSS.items()}}
        for row in found["loss"]["rows"]
    ]
    return f"{markdown(rows)}\n\nMicroseconds; {machine(found)}, commit {found['loss']['commit']}."


def iteration(found: dict) -> str:
    """One iteration in all ways that were measured, and what commits differ in."""
    rows = [
        {"iteration": row["iteration"], "microseconds": row["us"], "commit": row["commit"]}
        for row in found["iteration"]
    ]
    commits = "; ".join(f"{commit}: {what}" for commit, what in found["commits"].items())
    return f"{markdown(rows)}\n\nBatch 64 unless noted; {machine(found)}. {commits}. {STOCK}."


def parts(found: dict) -> str:
    """Where the time of the MLP's iteration went: kernels, products with a bias, Adam."""
    return "\n\n".join(markdown(found[name]) for name in ("kernels", "products", "adam"))


def layer(found: dict) -> str:
    """What `lvae::layer_` replaces, and what it takes itself."""
    return (
        f"{markdown(found['layer'])}\n\n{found['device']}, torch {found['versions']['torch']}, "
        f"{found['date of c2dd8c1b15']}. d3b09ce: with first changes of the next."
    )


def together(found: dict) -> str:
    """Several runs at once: time an iteration of any of them, and of six short runs from start to end."""
    return f"{markdown(found['together'])}\n\n{markdown(found['six runs of 3,000'])}"


def speed(found: dict) -> str:
    """README's sentence."""
    us = {row["iteration"]: row["us"] for row in found["iteration"]}
    made = {row["iteration"]: row["commit"] for row in found["iteration"]}
    mlp, cnn = (us[f"{name}, stock PyTorch, eager"] for name in ("MLP", "CNN"))
    ours = us["MLP, CUDA graph, float32"]
    columns = us["CNN, CUDA graph, float32, channels last, convolutions by columns"]
    return (
        f"On an H200 with CUDA graphs an iteration in float32 is {mlp / ours:.1f} times as fast as stock "
        f"PyTorch for the MLP ({ours / 1000:.2f} ms) and {cnn / columns:.1f} times for the CNN "
        f"({columns / 1000:.1f} ms); with tf32 products {mlp / us['MLP, CUDA graph, tf32']:.1f} times for "
        f"the MLP (commit {made['MLP, CUDA graph, float32']}; stock PyTorch was measured at "
        f"{made['MLP, stock PyTorch, eager']}, in another session and with our settings, deterministic cuDNN "
        "without TF32, not with its defaults)."
    )


def texts() -> dict[str, str]:
    """The blocks of the pages by name."""
    found = read()
    return {
        "gpu loss": loss(found),
        "gpu iteration": iteration(found),
        "gpu parts": parts(found),
        "gpu layer": layer(found),
        "gpu together": together(found),
    }


def main() -> None:
    Parser(description=__doc__).parse_args()
    print("\n\n".join(texts().values()))


if __name__ == "__main__":
    script(main)
