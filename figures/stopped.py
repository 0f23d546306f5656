"""Runs of the paper's setting that were stopped on the way, beside those of full length.

    python figures/stopped.py      writes stopped.md beside this file

Reads figures/data/paper, and its folder stopped: of each run's log the lines of every 1,000th iteration.
"""

import json
import re
from pathlib import Path

import full
from common import read_gzipped, script, write
from paper import METHODS

from lvae_min.io.text import Parser
from lvae_min.losses import PAPER_ITERATIONS
from lvae_min.report import SCORES

FOLDER = full.FOLDER / "stopped"
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


def row(title: str, seed: int, rise: str, line: dict) -> str:
    """A line of the table: terms and scores on validation images."""
    scores = line["validation"]
    cells = [title, str(seed), rise, f"{line['step']:,}", f"{scores['rec_mean']:.2f}"]
    cells += [f"{scores['kl']:.2f}", f"{line['beta']:.3g}", *(f"{scores[name]:.2f}" for name in SCORES)]
    return "| " + " | ".join(cells) + " |"


def text(complete: list[tuple], runs: list[tuple[str, int, str, list[dict]]]) -> str:
    """A table: each stopped run's last evaluation; complete ones of its method, any beta, and of L-VAE."""
    heads = ["method", "seed", "rise", "iteration", "rec of mu ↓", "KL", "beta"]
    heads += [f"{title} ↑" for title in list(SCORES.values())[:-1]] + ["SAP by lines ↑"]
    lines = ["| " + " | ".join(heads) + " |", "|---|--:|---|" + "--:|" * (len(heads) - 3)]
    for method, seed, rise, log in runs:
        last = full.validations(log + [{"step": PAPER_ITERATIONS}])[-1]
        title = METHODS[method] + (f", beta {last['beta']:g}" if method == "beta-vae" else "")
        lines.append(row(title, seed, rise, last))
        for other, name, its_seed, its_rise, its_log in complete:
            if other in (method, "lvae"):
                same = next(line for line in its_log if line["step"] == last["step"])
                lines.append(row(name, its_seed, its_rise, same))
    made = json.loads((FOLDER / "provenance.json").read_text())
    note = (
        "Validation images. First the run that was stopped there, before its "
        f"{PAPER_ITERATIONS:,} iterations (commit {made['commit']}; {made['device']}, tf32 products, "
        f"torch {made['versions']['torch']}); then runs of full length at the same iteration."
    )
    return "\n".join([*lines, "", note])


def main() -> None:
    Parser(description=__doc__).parse_args()
    complete, runs = full.complete_runs(), logs()
    write("stopped.md", text(complete, runs))
    print(text(complete, runs))


if __name__ == "__main__":
    script(main)
