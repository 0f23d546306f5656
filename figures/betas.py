"""What a beta does that is given, and what learning it is good for: Fig. 2 and Table 3 over seeds."""

import numpy as np
from common import spread
from paper import COLUMNS, METHODS, TABLE_2, TABLE_3
from pool import BARE, block, goodness, groups, made, title, values
from samples import ENOUGH, difference
from table2 import TITLES
from table3 import NEAR

BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of Fig. 2's curve
OURS = METHODS["lvae"]


def curve(rows: list[dict]) -> str:
    """Terms and scores of beta-VAE over its beta, and L-VAE where its learned beta falls on that curve."""
    blocks = []
    for protocol, methods in groups(rows, betas=BETAS).items():
        shown = {name: runs for name, runs in methods.items() if runs[0]["model"] in ("beta-vae", "lvae")}
        if len(shown) < 4:
            continue
        by_beta = sorted(shown, key=lambda name: np.mean([row["last_beta"] for row in shown[name]]))
        lines = []
        for name in by_beta:
            found = [values(shown[name], score) for score in ("beta", "kl", *COLUMNS)]
            lines.append([name, str(len(shown[name])), *(spread(some) if some else "-" for some in found)])
        heads = ["method", "seeds", "beta", "KL", *TITLES.values()]
        note = "Mean ± sample standard deviation over seeds, test images, by beta."
        heading = f"{title(protocol)}: beta given and learned, last network"
        blocks.append(block(heading, heads, lines, f"{note} {made(shown)}"))
    return "\n\n".join(blocks)


def pairs(methods: dict[str, list[dict]]) -> list[tuple[dict, dict]]:
    """Each L-VAE run beside the beta-VAE run of its seed whose beta is the one that it ended with."""
    given = [row for runs in methods.values() for row in runs if row["model"] == "beta-vae"]
    found = []
    for row in methods.get(OURS, []):
        beta = row["last_beta"]
        same = [other for other in given if other["seed"] == row["seed"]]
        near = [other for other in same if abs(other["beta"] - beta) <= NEAR * beta]
        found += [(row, min(near, key=lambda other: abs(other["beta"] - beta)))] if near else []
    return found


def learned(rows: list[dict]) -> str:
    """L-VAE against beta-VAE with the beta that it ended with, seed by seed: a table a protocol."""
    blocks = []
    for protocol, methods in groups(rows, betas=None).items():
        found = pairs(methods)
        lines = [line_of(found, score, protocol[0]) for score in COLUMNS] if found else []
        heads = ["score", OURS, "beta-VAE", "difference", f"{OURS} better"]
        note = (
            "Mean ± sample standard deviation over seeds, test images; in brackets the paper's, Tables 2 "
            "and 3. Then the mean of the differences of a seed, with its 95 % bootstrap interval if "
            f"there are {ENOUGH} seeds or more."
        )
        sides = {OURS: [row for row, _ in found], "beta-VAE": [other for _, other in found]}
        heading = f"{title(protocol)}: beta learned, or given from the start, last network"
        if found:
            blocks.append(block(heading, heads, lines, f"{note} {made(sides)}"))
    return "\n\n".join(blocks)


def line_of(found: list[tuple[dict, dict]], score: str, dataset: str) -> list[str]:
    ours, theirs = (values(list(side), score) for side in zip(*found, strict=True))
    if not ours or not theirs:
        return [BARE[score], "-", "-", "-", "-"]
    printed = [TABLE_2.get((dataset, "lvae")), TABLE_3.get(dataset)]
    cells = [
        spread(side) + (f" ({paper[COLUMNS.index(score)]:.2f})" if paper else "")
        for side, paper in zip((ours, theirs), printed, strict=True)
    ]
    each = [one - other for one, other in zip(ours, theirs, strict=True)]
    mean, low, high = difference(each, [0.0] * len(each))
    interval = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
    wins = int((goodness(score, each) > 0).sum())
    return [BARE[score], *cells, f"{mean:+.2f}{interval}", f"{wins} of {len(each)}"]
