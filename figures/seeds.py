"""What seeds do to Table 2: spread and intervals of each score over the runs of data/runs.csv.

    python figures/seeds.py [RUNS]      writes seeds.md, seeds.png and betas.png beside this file

RUNS is a folder of finished runs, or a table as keep.py writes it. Without it: data/runs.csv, whose pictures
go to data/.
"""

from pathlib import Path

import betas
import keep
import numpy as np
from betas import OURS
from common import DATA, missing, save, script, spread, write
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from paper import COLUMNS, METHODS, PAPER_BETA
from pool import (
    BARE,
    PROTOCOL,
    Methods,
    Pairs,
    block,
    both_values,
    common_seeds,
    goodness,
    groups,
    is_usual,
    made,
    pairs_of,
    paper_of,
    side_by_side,
    title,
    values,
)
from rate import COLOURS, shortly
from samples import ENOUGH, best_of, explained, holm, paired, rank_correlation
from table2 import TITLES

from lvae_min.config import PAPER_RATE
from lvae_min.io.text import Parser
from lvae_min.plots import new_figure


def networks(rows: list[dict], network: str) -> str:
    """A table a protocol: mean and sample standard deviation of each score, the paper's in brackets."""
    blocks = []
    for key, methods in groups(rows, network).items():
        chosen = network == "selected"
        lines = []
        for name, runs in methods.items():
            paper, cells = paper_of(runs[0]), [name, str(len(runs))]
            cells += [iterations(runs)] * chosen
            for score in ("beta", "kl", *COLUMNS):
                found = values(runs, score, network)
                printed = f" ({paper[score]:.2f})" if score in paper else ""
                cells.append((spread(found) if found else "-") + printed)
            lines.append(cells)
        heads = ["method", "seeds", *["iteration"] * chosen, "beta", "KL", *TITLES.values()]
        note = "Mean ± sample standard deviation over seeds, test images"
        if key[0] in PAPER_BETA:
            note += f"; in brackets the paper's Table 2, whose beta-VAE has beta {PAPER_BETA[key[0]]}"
        by = f", by validation {BARE.get(key[-1], key[-1])}" if chosen else ""
        heading = f"{title(key[: len(PROTOCOL)])}: {network} network{by}"
        blocks.append(block(heading, heads, lines, f"{note}. {made(methods)}"))
    return "\n\n".join(blocks)


def iterations(runs: list[dict]) -> str:
    """From which iteration to which networks were selected."""
    where = sorted({row["selected_iteration"] for row in runs})
    return f"{where[0]:,}" + (f" to {where[-1]:,}" if len(where) > 1 else "")


def rivals(rows: list[dict]) -> str:
    """L-VAE against each other method, seed by seed: mean difference, its interval, how often better."""
    blocks = []
    for protocol, methods in groups(rows).items():
        ours = methods.get(OURS, [])
        both = {name: side_by_side(ours, runs) for name, runs in methods.items() if name != OURS}
        found = {
            (name, score): sides
            for name, same in both.items()
            for score in COLUMNS
            if (sides := both_values(same, score))
        }
        tests = {place: paired(*sides) for place, sides in found.items()}
        known = [place for place, (*_, p_value) in tests.items() if p_value is not None]
        corrected = dict(zip(known, holm([tests[place][3] for place in known]), strict=True))
        lines = []
        for name, same in both.items():
            cells = []
            for score in COLUMNS:
                place, parts = (name, score), ["-"]
                if place in found:
                    mean, *others = betas.difference(score, *tests[place][:3])
                    mean = f"**{mean}**" if corrected.get(place, 1) < 0.05 else mean
                    parts = [mean, *others, betas.wins(score, *found[place])]
                cells.append("<br>".join(parts))
            lines.append([name, str(len(same)), *cells])
        note = (
            f"{OURS}'s value minus the rival's, the mean over the seeds that both have: {OURS} is better "
            "where it is above 0, for rec below. On one kind of device a seed gives both methods the same "
            "first weights, batches and noise. In brackets the 95 % interval (Student's t, left out below "
            f"{ENOUGH} seeds), each for itself; bold is what has p < .05 after Holm's correction for the "
            f"number of comparisons ({len(known)}). Then in how many seeds {OURS} is better."
        )
        heads = ["rival", "seeds", *TITLES.values()]
        heading = f"{title(protocol)}: {OURS} against each rival, last network"
        if any(both.values()):
            blocks.append(block(heading, heads, lines, f"{note} {made(methods)}"))
    return "\n\n".join(blocks)


def variance(rows: list[dict]) -> str:
    """The share of each score's variance between the methods (eta squared); the rest is within a method.

    That is what differs from run to run of a method: the seed and all else, as the kind of device.
    """
    blocks = []
    for protocol, methods in groups(rows).items():
        lines, heading = [], f"{title(protocol)}: what the variance of a score comes from, last network"
        for score in COLUMNS:
            found = [values(runs, score) for runs in methods.values()]
            share = explained(found) if all(found) else None
            if share is not None:
                lines.append([BARE[score], f"{share:.0%}", f"{1 - share:.0%}"])
        if not lines:
            reason = "Not known: it takes two methods, and two seeds of one of them."
            blocks.append(f"**{heading}**\n\n{reason} {made(methods)}")
            continue
        count, runs = len(methods), sum(map(len, methods.values()))
        chance = (count - 1) / (runs - 1)
        note = (
            f"{count} methods, between which {chance:.0%} would lie by chance if all were alike. Within a "
            "method: the seed, and all else that its runs differ in."
        )
        blocks.append(
            block(
                heading,
                ["score", "between methods (eta squared)", "within a method"],
                lines,
                f"{note} {made(methods)}",
            )
        )
    return "\n\n".join(blocks)


def rates(rows: list[dict]) -> str:
    """The default's rate against the paper's 1e-4, with as many iterations, seed by seed."""
    blocks, found, place = [], groups(rows), PROTOCOL.index("rate")
    for default, slow in pairs_of(found, "rate"):
        both = common_seeds(found[default], found[slow])
        if not is_usual(default) or slow[place] != PAPER_RATE or not both:
            continue
        lines = [
            [name, str(len(same)), *(change(same, score) for score in ("kl", *COLUMNS))]
            for name, same in both.items()
        ]
        heading = f"{title(default)}: rate {shortly(default[place])} → {shortly(slow[place])}, last network"
        note = (
            f"Means over the seeds that both have; in brackets how many are better at {shortly(slow[place])}."
        )
        heads = ["method", "seeds", "KL", *TITLES.values()]
        blocks.append(block(heading, heads, lines, f"{note} {made(flat(both))}"))
    return "\n\n".join(blocks)


def change(same: list[tuple[dict, dict]], score: str) -> str:
    sides = both_values(same, score)
    if not sides:
        return "-"
    before, after = (goodness(score, side) for side in sides)
    better = "" if score == "kl" else f" ({(after > before).sum()} of {len(same)})"
    return f"{np.mean(sides[0]):.2f} → {np.mean(sides[1]):.2f}{better}"


def flat(both: Pairs) -> Methods:
    return {name: [row for pair in same for row in pair] for name, same in both.items()}


def short(rows: list[dict]) -> str:
    """Whether the end of a short run foretells that of a long one with the same method and seed."""
    blocks, found, place = [], groups(rows), PROTOCOL.index("iterations")
    for brief, long in pairs_of(found, "iterations"):
        both = common_seeds(found[brief], found[long])
        if brief[place] >= long[place] or not both:
            continue
        every, lines = [pair for same in both.values() for pair in same], []
        for score in COLUMNS:
            cells = [correlation(pairs, score) for pairs in (every, *both.values())]
            lines.append([BARE[score], *cells, *(ranking(both, score, side) for side in (0, 1))])
        lengths = [f"{protocol[place]:,}" for protocol in (brief, long)]
        heads = ["score", f"all {len(every)}", *(f"{name} ({len(same)})" for name, same in both.items())]
        heads += [f"best first, {length}" for length in lengths]
        note = (
            "Rank correlation (Spearman) of a score between runs of one method and seed: over all of them, "
            f"and over the seeds of each method; a dash below {ENOUGH} pairs. Then the methods by their "
            "means."
        )
        apart = sum(one["device"] != other["device"] for one, other in every)
        if apart:
            note += f" {apart} of the {len(every)} pairs are of two kinds of device, with other noise."
        heading = f"{brief[0]}: {lengths[0]} iterations against {lengths[1]}, last network"
        blocks.append(block(heading, heads, lines, f"{note} {made(flat(both))}"))
    return "\n\n".join(blocks)


def correlation(pairs: list[tuple[dict, dict]], score: str) -> str:
    sides = both_values(pairs, score)
    found = rank_correlation(*sides) if sides else None
    return "-" if found is None else f"{found:+.2f}"


def ranking(both: Pairs, score: str, side: int) -> str:
    """The methods by the mean of a score, best first."""
    found = {name: values([pair[side] for pair in pairs], score) for name, pairs in both.items()}
    means = {name: goodness(score, some).mean() for name, some in found.items() if some}
    return " > ".join(sorted(means, key=means.get, reverse=True))


def best(rows: list[dict]) -> str:
    """The best of n seeds by its validation score, for each n, against the paper's best of many."""
    blocks = []
    for key, methods in groups(rows, "selected").items():
        by, most = key[-1], max(map(len, methods.values()))
        if by not in COLUMNS:
            continue
        lines, ends = [], []
        for name, runs in methods.items():
            paper, validation = paper_of(runs[0]), [row["validation_score"] for row in runs]
            tests = {score: values(runs, score, "selected") for score in COLUMNS}
            sizes = range(1, len(runs) + 1) if tests[by] else ()
            cells = [f"{best_of(validation, tests[by], size):.2f}" for size in sizes]
            printed = f"{paper[by]:.2f}" if paper else "-"
            lines.append([name, *cells, *[""] * (most - len(cells)), printed])
            cells = [bounds(score, validation, found, paper) for score, found in tests.items()]
            ends.append([name, str(len(runs)), *cells])
        named = f"{title(key[: len(PROTOCOL)])}: best of n seeds by validation {BARE[by]}"
        note = (
            f"{BARE[by]} on test images of the selected network, expected of that of n random runs whose "
            "validation score is the best."
        )
        heads = ["method", *(f"n = {size}" for size in range(1, most + 1)), "paper"]
        blocks.append(block(named, heads, lines, f"{note} {made(methods)}"))
        note = (
            "Scores on test images of the run with the best validation score of all / the best of each score "
            "by itself, which no choice among these runs surpasses; in brackets the paper's."
        )
        blocks.append(block(f"{named}, all scores", ["method", "n", *TITLES.values()], ends, note))
    return "\n\n".join(blocks)


def bounds(score: str, validation: list[float], found: list[float], paper: dict[str, float]) -> str:
    printed = f" ({paper[score]:.2f})" if paper else ""
    if not found:
        return "-" + printed
    end = min(found) if score == "rec_mean" else max(found)
    return f"{best_of(validation, found, len(found)):.2f} / {end:.2f}{printed}"


def text(rows: list[dict]) -> dict[str, str]:
    """Blocks of Markdown by name; one that these runs do not fill is empty."""
    return {
        "last": networks(rows, "last"),
        "selected": networks(rows, "selected"),
        "rivals": rivals(rows),
        "variance": variance(rows),
        "rate": rates(rows),
        "short": short(rows),
        "betas": betas.curve(rows),
        "learned": betas.learned(rows),
        "best": best(rows),
    }


def picture(protocol: tuple, methods: Methods) -> Figure:
    """A panel a score: a dot a seed, median and quartiles as a box, the paper's number as a red line."""
    figure, axes = new_figure(12, 14, 4, 2)
    for cell, score in zip(axes.flat, COLUMNS, strict=False):
        for place, runs in enumerate(methods.values()):
            show(cell, place, values(runs, score), COLOURS[runs[0]["model"]])
            if paper := paper_of(runs[0]):
                cell.hlines(paper[score], place - 0.42, place + 0.42, color="red", lw=2, zorder=2.5)
        cell.use_sticky_edges = False  # the foot of a box is no edge of the panel
        better = "lower" if score == "rec_mean" else "higher"
        cell.set_title(f"{BARE[score]} ({better} is better)", fontsize=14)
        cell.set_xticks(range(len(methods)), map(in_two_lines, methods), fontsize=10.5)
        cell.set_xlim(-0.6, len(methods) - 0.4)
        cell.tick_params(axis="y", labelsize=12)
        unit = "squared error of an image" if score == "rec_mean" else "score (0 to 1)"
        cell.set_ylabel(unit, fontsize=12)
        cell.grid(axis="y", alpha=0.3)
    axes[-1, -1].axis("off")
    axes[-1, -1].legend(handles=key(protocol[0] in PAPER_BETA), loc="center", fontsize=15, frameon=False)
    counts = sorted({len(runs) for runs in methods.values()})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"seeds: {counts[0]}"
    figure.suptitle(f"{title(protocol)}:\nlast network, test images, {seeds} a method", fontsize=16)
    return figure


def pictures(rows: list[dict]) -> dict[str, Figure]:
    """Of the first group of runs, by the file's name: seeds.png, and betas.png if there are enough betas."""
    found, curves = groups(rows), groups(rows, betas=betas.BETAS)
    drawn = {"seeds.png": picture(*next(iter(found.items())))} if found else {}
    if curves and betas.over_beta(next(iter(curves.values()))):
        drawn["betas.png"] = betas.picture(*next(iter(curves.items())))
    return drawn


def show(cell, place: int, found: list[float], colour: str) -> None:
    """A method's seeds at a place of the axis."""
    if found:
        low, middle, high = np.percentile(found, [25, 50, 75])
        cell.bar(place, high - low, 0.62, low, color=colour, alpha=0.22, zorder=1)
        cell.hlines(middle, place - 0.31, place + 0.31, color=colour, lw=2.5, zorder=2)
        offsets = (np.arange(len(found)) - (len(found) - 1) / 2) * 0.5 / max(len(found), 7)
        cell.plot(place + offsets, found, "o", color=colour, ms=6, mec="white", mew=0.6, zorder=3)


def in_two_lines(name: str) -> str:
    method, *others = name.split(", ")
    for start in ("Control", "Dynamic", "sigma-"):
        method = method.replace(f"{start}VAE", f"{start}\nVAE")
    return "\n".join([method, *others, ""])


def key(paper: bool) -> list:
    """What dots, boxes and lines mean."""
    lines = [
        Line2D([], [], ls="", marker="o", color="0.4", ms=7, label="a seed"),
        Line2D([], [], color="0.4", lw=2.5, label="median"),
        Patch(color="0.4", alpha=0.22, label="from the lower to the upper quartile"),
    ]
    label = "the paper's Table 2: one network,\nup to 300,000 iterations"
    return lines + [Line2D([], [], color="red", lw=2, label=label)] * paper


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="?", default=keep.TABLE, help="a folder of runs, or a table")
    place = parser.parse_args().runs
    if not place.exists():
        parser.error(f"{place}: not there; python figures/keep.py RUNS --table makes the table")
    rows = keep.rows(place)
    drawn = pictures(rows)
    if not drawn:
        missing(
            "a finished run with scores", f"--model {' '.join(METHODS)} --select beta_vae --jobs 2", place
        )
        return
    for name, figure in drawn.items():
        save(figure, name, DATA if place == keep.TABLE else None)  # the study's own, or beside this file
    rare = sorted({row["beta"] for row in rows if row["model"] == "beta-vae"} - {*betas.BETAS})
    if rare:
        shown = ", ".join(f"{beta:g}" for beta in rare)
        print(f"in no table but that of learned betas: beta-VAE with beta {shown}")
    blocks = "\n\n".join(some for some in text(rows).values() if some)
    write("seeds.md", blocks)
    print(blocks)


if __name__ == "__main__":
    script(main)
