"""Table 3: beta-VAE trained with the beta that L-VAE learned, beside that L-VAE; the paper's in brackets.

python figures/table3.py [runs]     writes table3.md and table3.tex beside this file
"""

import math

from common import Finished, arguments, flags, missing, protocol_title, provenance, read, script, tex, write
from paper import BETA_HAT, COLUMNS, TABLE_2, TABLE_3
from table2 import ARROWS, TITLES

NEAR = 0.006  # a beta counts as the learned one if it differs by less than this part: two digits are enough


def pairs(runs: list[Finished]) -> list[tuple[Finished, Finished | None]]:
    """Each L-VAE run, and the beta-VAE run with its beta_hat and all else the same, if there is one."""
    found = []
    for run in runs:
        if run["model"] == "lvae" and "beta_vae" in run.results["scores"]:
            beta = run.results["scores"]["beta"]
            same = [
                other
                for other in runs
                if other["model"] == "beta-vae"
                and other.protocol == run.protocol
                and other["seed"] == run["seed"]
                and other["batch_size"] == run["batch_size"]
                and abs(other["beta"] - beta) <= NEAR * beta
            ]
            found.append((run, min(same, key=lambda other: abs(other["beta"] - beta), default=None)))
    return found


def better(pair: tuple[Finished, Finished], name: str) -> list[bool]:
    """Which of two runs has the better score, as printed; both if it is the same."""
    sign = -1 if name == "rec_mean" else 1
    values = [-math.inf if run.scores[name] is None else sign * round(run.scores[name], 2) for run in pair]
    return [value == max(values) for value in values]


def rows(learned: Finished, given: Finished, best: str) -> list[list[str]]:
    """The cells of a pair, beta-VAE first; `best` is the format of the better score."""
    dataset, pair = learned["dataset"], (given, learned)
    titles = ("beta-VAE, beta = beta_hat", f"L-VAE{learned.variant}")
    papers = (TABLE_3, {dataset: TABLE_2.get((dataset, "lvae"))})
    lines = []
    for place, (run, title, paper) in enumerate(zip(pair, titles, papers, strict=True)):
        cells = [
            protocol_title(run.protocol),
            str(run["seed"]),
            title,
            f"{run.results['selected']['iteration']:,}",
            f"{run.results['scores']['beta']:.2f}",
        ]
        for column, name in enumerate(COLUMNS):
            value = run.scores[name]
            text = "" if value is None else f"{value:.2f}"
            text = best.format(text) if text and better(pair, name)[place] else text
            cells.append((text + (f" ({paper[dataset][column]:.2f})" if paper.get(dataset) else "")).strip())
        lines.append(cells)
    return lines


HEADS = ["run", "seed", "method", "selected iteration", "beta", *TITLES.values()]


def text(found: list[tuple[Finished, Finished]]) -> str:
    """The table in Markdown; the better of two is bold."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---|--:|---|" + "--:|" * (len(HEADS) - 3)]
    lines += ["| " + " | ".join(cells) + " |" for pair in found for cells in rows(*pair, "**{}**")]
    made = [run for pair in found for run in pair]
    betas = ", ".join(f"{dataset} {beta}" for dataset, beta in BETA_HAT.items())
    return "\n".join(
        [*lines, "", f"{provenance(made)}. In brackets: the paper's Table 3, whose beta_hat are {betas}."]
    )


def latex(found: list[tuple[Finished, Finished]]) -> str:
    made = [run for pair in found for run in pair]
    lines = [f"% Table 3 of the paper, its numbers in brackets. {provenance(made)}."]
    lines += [r"\begin{tabular}{lrlrr" + "r" * len(COLUMNS) + "}"]
    lines += [" & ".join(HEADS).translate(ARROWS) + r" \\"]
    for pair in found:
        lines.append(r"\hline")
        for name, *cells in rows(*pair, r"\textbf{{{}}}"):
            lines.append(" & ".join([tex(name), *(cell.translate(ARROWS) for cell in cells)]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"])


def main() -> None:
    folder = arguments(__doc__).folder
    found = pairs(read(folder))
    if not found:
        missing("L-VAE", "--model lvae --iterations 50000", folder)
    for run, other in found:
        if other is None:
            missing(
                f"beta-VAE with the beta of {run.folder.name}",
                f"--model beta-vae --beta {run.results['scores']['beta']:.4g} {flags(run.protocol)} "
                f"--batch-size {run['batch_size']} --seed {run['seed']}",
                folder,
            )
    whole = [(run, other) for run, other in found if other is not None]
    if whole:
        write("table3.md", text(whole))
        write("table3.tex", latex(whole))
        print(text(whole))


if __name__ == "__main__":
    script(main)
