"""What a given beta does, and what learning it gains: Fig. 2 and Table 3 over seeds."""

from collections import Counter

import numpy as np
from common import spread
from matplotlib import colormaps
from matplotlib.figure import Figure
from paper import COLUMNS, METHODS, TABLE_2, TABLE_3
from pool import BARE, Methods, block, both_values, goodness, groups, made, title, values
from samples import ENOUGH, paired
from table2 import TITLES
from table3 import NEAR

from lvae_min.plots import new_figure

BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of Fig. 2's curve; VAE is the one with beta 1, to the bit
OURS = METHODS["lvae"]
GIVEN = ("vae", "beta-vae")  # the methods whose beta is given
COLOURS = colormaps["viridis"]
DIFFERENCES = (
    "Then the mean of the differences of a seed, with its 95 % interval (Student's t) if there are "
    f"{ENOUGH} seeds or more."
)
SHOWN = ("beta_vae", "mig")  # the score of the paper's Fig. 2, and one that depends on beta more clearly


def over_beta(methods: Methods) -> Methods:
    """VAE, L-VAE and beta-VAE of each beta, in the order of beta; empty for fewer than four given betas."""
    shown = {name: runs for name, runs in methods.items() if name == OURS or runs[0]["model"] in GIVEN}
    if len(shown.keys() - {OURS}) < 4:
        return {}
    names = sorted(shown, key=lambda name: np.mean(values(shown[name], "beta")))
    return {name: shown[name] for name in names}


def curve(rows: list[dict]) -> str:
    """Terms and scores of beta-VAE over its beta, and L-VAE where its learned beta falls on that curve.

    Then L-VAE against the best of these betas, chosen by validation score.
    """
    blocks = []
    for protocol, methods in groups(rows, betas=BETAS).items():
        if not (shown := over_beta(methods)):
            continue
        lines = []
        for name, runs in shown.items():
            found = [values(runs, score) for score in ("beta", "kl", *COLUMNS)]
            lines.append([name, str(len(runs)), *(spread(some) if some else "-" for some in found)])
        heads = ["method", "seeds", "beta", "KL", *TITLES.values()]
        note = "Mean ± sample standard deviation over seeds, test images, by beta."
        heading = f"{title(protocol)}: beta given and learned, last network"
        blocks.append(block(heading, heads, lines, f"{note} {made(shown)}"))
    for key, methods in groups(rows, "selected", BETAS).items():
        if key[-1] in COLUMNS and (table := by_hand(key, methods)):
            blocks.append(table)
    return "\n\n".join(blocks)


def by_hand(key: tuple, methods: Methods) -> str:
    """A table of L-VAE's one run of a seed against the best of its runs with each beta.

    Of the betas that have enough seeds, and the seeds that have a run with each of them; empty if too few.
    """
    given = [runs for runs in methods.values() if runs[0]["model"] in GIVEN and len(runs) >= ENOUGH]
    compared, found = [], []
    for row in methods.get(OURS, []):
        same = [other for runs in given for other in runs if other["seed"] == row["seed"]]
        if same and len(same) == len(given):
            compared += same
            found.append((row, max(same, key=lambda other: other["validation_score"])))
    if len(found) < ENOUGH:
        return ""
    times = Counter(other["beta"] or 1.0 for _, other in found)  # VAE's is not in the table
    chosen = ", ".join(f"{beta:g} ({times[beta]})" for beta in sorted(times))
    heads = ["score", f"{OURS}, 1 run", f"chosen beta, {len(given)} runs", "difference", f"{OURS} better"]
    note = (
        f"For each seed {OURS}'s one run and the best of {len(given)} runs, one per beta, by validation "
        f"{BARE[key[-1]]} score; the selected networks on test images, mean ± sample standard deviation over "
        f"seeds. {DIFFERENCES} Chosen betas, with their number of seeds: {chosen}."
    )
    heading = f"{title(key[:-1])}: beta learned, or the best of {len(given)} by validation score"
    lines = [line_of(found, score, network="selected") for score in COLUMNS]
    return block(
        heading, heads, lines, f"{note} {made({OURS: [row for row, _ in found], 'given': compared})}"
    )


def picture(protocol: tuple, methods: Methods) -> Figure:
    """The paper's Fig. 2 over seeds: rec against a score, one dot per seed, coloured by beta."""
    shown = over_beta(methods)
    figure, axes = new_figure(12, 5.4, 1, len(SHOWN))
    given = [name for name in shown if name != OURS]
    labels = {METHODS["vae"]: "VAE: beta 1"}
    if OURS in shown:
        labels[OURS] = f"{OURS}, beta learned:\n{np.mean(values(shown[OURS], 'beta')):.2f} on average"
    for cell, score in zip(axes.flat, SHOWN, strict=True):
        for name, runs in shown.items():
            dot = dict(marker="D", color="black", s=64, zorder=3)
            if name != OURS:  # from dark violet, the lowest beta, to yellow
                dot = dict(marker="o", color=COLOURS(given.index(name) / (len(given) - 1)), s=52)
            scores, recs = values(runs, score), values(runs, "rec_mean")
            if scores and recs:
                cell.scatter(scores, recs, label=labels.get(name, name), edgecolor="white", lw=0.6, **dot)
        cell.set_xlabel(f"{BARE[score]} score (0 to 1, higher is better)", fontsize=12)
        cell.grid(alpha=0.3)
    axes[0, 0].set_ylabel("reconstruction loss of z = mu\n(squared error of an image)", fontsize=12)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=12, frameon=False)
    figure.suptitle(f"{title(protocol)}: rec and two scores over beta, one dot per seed", fontsize=14)
    return figure


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
        paper = TABLE_2.get((protocol[0], "lvae")), TABLE_3.get(protocol[0])
        lines = [line_of(found, score, paper) for score in COLUMNS] if found else []
        heads = ["score", OURS, "beta-VAE", "difference", f"{OURS} better"]
        note = (
            "Mean ± sample standard deviation over seeds, test images; in brackets the paper's, Tables 2 "
            f"and 3. {DIFFERENCES}"
        )
        sides = {OURS: [row for row, _ in found], "beta-VAE": [other for _, other in found]}
        heading = f"{title(protocol)}: beta learned, or given from the start, last network"
        if found:
            blocks.append(block(heading, heads, lines, f"{note} {made(sides)}"))
    return "\n\n".join(blocks)


def line_of(
    found: list[tuple[dict, dict]], score: str, paper: tuple = (None, None), network: str = "last"
) -> list[str]:
    """L-VAE and others of its seeds: both means, their differences, and in how many seeds L-VAE is better."""
    sides = both_values(found, score, network)
    if not sides:
        return [BARE[score], "-", "-", "-", "-"]
    cells = [
        spread(side) + (f" ({printed[COLUMNS.index(score)]:.2f})" if printed else "")
        for side, printed in zip(sides, paper, strict=True)
    ]
    mean, *ends, _ = paired(*sides)
    return [BARE[score], *cells, " ".join(difference(score, mean, *ends)), wins(score, *sides)]


def difference(score: str, mean: float, low: float | None, high: float | None) -> list[str]:
    """A difference of a score and its interval, if it has one."""
    digits = 2 if score == "rec_mean" else 3
    interval = [] if low is None else [f"[{low:+.{digits}f}, {high:+.{digits}f}]"]
    return [f"{mean:+.{digits}f}", *interval]


def wins(score: str, ours: list[float], theirs: list[float]) -> str:
    """In how many seeds ours is better."""
    better = goodness(score, ours) > goodness(score, theirs)
    return f"{better.sum()} of {len(better)}"
