"""Runs of the paper's setting that were stopped on the way, against seed 0 at the same iteration.

    python figures/stopped.py      writes stopped.md beside this file and data/stopped.png

Reads figures/data/paper/stopped, of each run's log the lines of every 1,000th iteration.
"""

import json
import re
from pathlib import Path

import full
from common import DATA, read_gzipped, save, script, write
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from paper import METHODS
from rate import COLOURS

from lvae_min.io.text import Parser
from lvae_min.losses import PAPER_ITERATIONS
from lvae_min.plots import new_figure
from lvae_min.report import SCORES

FOLDER = full.FOLDER / "stopped"
SHOWN = ("lvae", "vae")  # of the picture
NAME = re.compile(r"(?P<method>.+?)(-beta[\d.]+)?-(?P<rise>linear|cosine)-.*-seed(?P<seed>\d+)\.jsonl")


def logs(folder: Path = FOLDER) -> list[tuple[str, int, str, list[dict]]]:
    """Method, seed, rise and log of each run, in the order of Table 2. ValueError for a damaged one."""
    found = []
    for file in folder.glob("*.jsonl.gz"):
        known = NAME.fullmatch(file.stem)
        if known is None or known["method"] not in METHODS:
            raise ValueError(f"{file}: named otherwise than keep.log_name does")
        found.append((known["method"], int(known["seed"]), known["rise"], read_gzipped(file)))
    return sorted(found, key=lambda run: (list(METHODS).index(run[0]), run[1]))


def row(method: str, seed: int, rise: str, line: dict) -> str:
    """A line of the table: terms and scores on validation images."""
    scores = line["validation"]
    beta = f", beta {line['beta']:g}" if method == "beta-vae" else ""
    cells = [METHODS[method] + beta, str(seed), rise, f"{line['step']:,}", f"{scores['rec_mean']:.2f}"]
    cells += [f"{scores['kl']:.2f}", f"{line['beta']:.3g}", *(f"{scores[name]:.2f}" for name in SCORES)]
    return "| " + " | ".join(cells) + " |"


def text(first: dict[str, list[dict]], runs: list[tuple[str, int, str, list[dict]]]) -> str:
    """A table: each stopped run's last evaluation, and that of seed 0 at the same iteration."""
    heads = ["method", "seed", "rise", "iteration", "rec of mu ↓", "KL", "beta"]
    heads += [f"{title} ↑" for title in list(SCORES.values())[:-1]] + ["SAP by lines ↑"]
    lines = ["| " + " | ".join(heads) + " |", "|---|--:|---|" + "--:|" * (len(heads) - 3)]
    for method, seed, rise, log in runs:
        last = full.validations(log + [{"step": PAPER_ITERATIONS}])[-1]
        same = next(line for line in first[method] if line["step"] == last["step"])
        lines += [row(method, 0, "cosine", same), row(method, seed, rise, last)]
    made = json.loads((FOLDER / "provenance.json").read_text())
    note = (
        f"Validation images. Seed 0: the runs of full length at the same iteration. The others were "
        f"stopped there, before their {PAPER_ITERATIONS:,} iterations (commit {made['commit']}; "
        f"{made['device']}, tf32 products, torch {made['versions']['torch']})."
    )
    return "\n".join([*lines, "", note])


def picture(first: dict[str, list[dict]], runs: list[tuple[str, int, str, list[dict]]]) -> Figure:
    """Two scores of L-VAE and VAE over iterations: a colour a method, a style a seed."""
    figure, axes = new_figure(11, 4.4, 1, 2)
    every = [(method, 0, log) for method, log in first.items()]
    every += [(method, seed, log) for method, seed, _, log in runs]
    for cell, name in zip(axes.flat, ("beta_vae", "mig"), strict=True):
        for method, seed, log in every:
            if method in SHOWN:
                lines = full.validations(log + [{"step": PAPER_ITERATIONS}])
                values = [line["validation"][name] for line in lines]
                style = {"color": COLOURS[method], "ls": "-" if seed else "--", "marker": ".", "lw": 1.5}
                label = f"{METHODS[method]}, seed {seed}"
                cell.plot([line["step"] for line in lines], values, label=label, **style)
        cell.set(xlabel="iterations", ylabel=f"{SCORES[name]} score, validation")
        cell.xaxis.set_major_formatter(EngFormatter(sep=""))
        cell.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(
        "L-VAE and VAE in the paper's setting: the seed matters more than the method", fontsize=10
    )
    return figure


def main() -> None:
    Parser(description=__doc__).parse_args()
    first, runs = full.full_length(), logs()
    save(picture(first, runs), "stopped.png", DATA)
    write("stopped.md", text(first, runs))
    print(text(first, runs))


if __name__ == "__main__":
    script(main)
