"""Table 2: six methods, reconstruction loss and six scores, the paper's numbers in brackets.

    python figures/table2.py [runs]     writes table2.md and table2.tex beside this file

Of the runs of a method with one seed (batch sizes; beta 2 and 4 of beta-VAE) the one with the best validation
score counts (Sec. 6.5); mean and sample standard deviation are over seeds. The best of a column is bold, the
second best underlined, within one data set and one number of iterations, among the methods that have the same
seeds and chose among as many runs of the same batch sizes. Numbers in brackets are the paper's of that beta.
"""

import math
from collections import defaultdict

from common import (
    Finished,
    arguments,
    flags,
    missing,
    protocol_title,
    provenance,
    read,
    script,
    selected,
    spread,
    tex,
    write,
)
from paper import COLUMNS, METHODS, PAPER_BETA, TABLE_2, row_of

TITLES = {
    "rec_mean": "rec of mu ↓",
    "beta_vae": "beta-VAE ↑",
    "factor_vae": "FactorVAE ↑",
    "explicitness": "Explicitness ↑",
    "irs": "IRS ↑",
    "mig": "MIG ↑",
    "sap_classification": "SAP ↑",
}
MORE = {"rec": "rec, sampled z", "sap": "SAP, regression"}  # in forms that the paper's table has not
ARROWS = str.maketrans({"↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "_": r"\_"})  # LaTeX's
SEARCHED = (2.0, 4.0)  # betas of beta-VAE, Sec. 6.3; others are Table 3's


def groups(runs: list[Finished]) -> dict[tuple, dict[str, list[Finished]]]:
    """For each protocol, for each row by its title, in the order of Table 2, its selected runs, one a seed.

    A row is a method; one whose sigma was held longer than by default is another.
    """
    found = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if "beta_vae" in run.results["scores"] and (run["model"] != "beta-vae" or run["beta"] in SEARCHED):
            found[run.protocol][title(run)].append(run)
    order = list(METHODS.values())
    return {
        protocol: {
            name: selected(found[protocol][name])
            for name in sorted(found[protocol], key=lambda name: (order.index(name.split(",")[0]), name))
        }
        for protocol in sorted(found, key=lambda protocol: (protocol[0] != "dsprites", str(protocol)))
    }


def title(run: Finished) -> str:
    return METHODS[run["model"]] + run.variant


def marks(methods: dict[str, list[Finished]]) -> dict[tuple[str, str], int]:
    """1 for the best and 2 for the second best method of a column; equal ones, as printed, share a place.

    Of the methods that can be compared, if those are three or more.
    """
    placed, methods = {}, comparable(methods)
    for name in COLUMNS if len(methods) > 2 else ():
        sign = 1 if name == "rec_mean" else -1
        values = {
            model: sign * round(mean(runs, name), 2)
            for model, runs in methods.items()
            if all(run.scores[name] is not None for run in runs)
        }
        values = {model: value for model, value in values.items() if not math.isnan(value)}
        for model, value in values.items():
            place = 1 + sum(other < value for other in set(values.values()))
            if place <= 2:
                placed[model, name] = place
    return placed


def comparable(methods: dict[str, list[Finished]]) -> dict[str, list[Finished]]:
    """The most methods that have the same seeds, and for each seed as many candidates of the same sizes."""
    alike = defaultdict(dict)
    for title, runs in methods.items():
        alike[tuple((run["seed"], run.among) for run in runs)][title] = runs
    return max(alike.values(), key=len)


def mean(runs: list[Finished], name: str) -> float:
    return sum(run.scores[name] for run in runs) / len(runs)


def chosen(runs: list[Finished]) -> str:
    """Batch size and iteration that the validation score selected, of each seed unless all agree."""
    found = [f"{run['batch_size']} at {run.results['selected']['iteration']:,}" for run in runs]
    return found[0] if len(set(found)) == 1 else ", ".join(found)


def rows(methods: dict[str, list[Finished]], dataset: str, styles: tuple[str, str]) -> list[list[str]]:
    """A row of cells for each method; `styles` are the formats of the best and the second best."""
    placed, lines = marks(methods), []
    for name, runs in methods.items():
        papers = [row_of(dataset, run["model"], run["beta"]) for run in runs if not run.variant]
        paper = papers[0] if len(papers) == len(runs) and all(papers) else {}
        values = {
            score: spread([run.scores[score] for run in runs]) for score in ("beta", "kl", *COLUMNS, *MORE)
        }
        cells = [name, str(len(runs)), chosen(runs), values["beta"], values["kl"]]
        for score in COLUMNS:
            text = values[score]
            if (name, score) in placed:
                text = styles[placed[name, score] - 1].format(text)
            if paper:
                text += f" ({paper[score]:.2f})"
            cells.append(text.strip())
        cells += [values[score] for score in MORE]
        lines.append(cells)
    return lines


def markdown(found: dict[tuple, dict[str, list[Finished]]]) -> str:
    heads = ["method", "seeds", "selected: batch, iteration", "beta", "KL", *TITLES.values(), *MORE.values()]
    lines = []
    for protocol, methods in found.items():
        lines += [
            f"**{protocol_title(protocol)}**",
            "",
            "| " + " | ".join(heads) + " |",
            "|---|--:|---|" + "--:|" * (len(heads) - 3),
        ]
        lines += [
            "| " + " | ".join(cells) + " |" for cells in rows(methods, protocol[0], ("**{}**", "<u>{}</u>"))
        ]
        made = [run for runs in methods.values() for run in runs]
        lines += [
            "",
            f"{provenance(made)}. In brackets: the paper's Table 2, up to 300,000 iterations, one number "
            f"each; its beta-VAE has beta = {PAPER_BETA[protocol[0]]}."
            if protocol[0] in {key[0] for key in TABLE_2}
            else f"{provenance(made)}.",
            "",
        ]
    return "\n".join(lines).strip()


def latex(found: dict[tuple, dict[str, list[Finished]]]) -> str:
    made = [run for methods in found.values() for runs in methods.values() for run in runs]
    lines = [f"% Table 2 of the paper, its numbers in brackets. {provenance(made)}."]
    lines += [r"\begin{tabular}{lrlrr" + "r" * len(COLUMNS + tuple(MORE)) + "}"]
    heads = ["method", "seeds", "selected", r"$\beta$", "KL", *TITLES.values(), *MORE.values()]
    for protocol, methods in found.items():
        lines += [
            r"\hline",
            rf"\multicolumn{{{len(heads)}}}{{l}}{{{tex(protocol_title(protocol))}}} \\",
            " & ".join(heads).translate(ARROWS) + r" \\",
        ]
        lines += [
            " & ".join(cells).translate(ARROWS) + r" \\"
            for cells in rows(methods, protocol[0], (r"\textbf{{{}}}", r"\underline{{{}}}"))
        ]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"])


def main() -> None:
    folder = arguments(__doc__).folder
    found = groups(read(folder))
    if not found:
        missing(
            "a finished run with scores",
            f"--model {' '.join(METHODS)} --iterations 50000 --schedule 300000 --jobs 2",
            folder,
        )
        return
    for protocol, methods in found.items():
        absent = [model for model, name in METHODS.items() if name not in methods]
        if absent:
            there = [run for runs in methods.values() for run in runs]
            seeds, sizes = (
                " ".join(map(str, sorted({run[name] for run in there}))) for name in ("seed", "batch_size")
            )
            missing(
                f"{protocol_title(protocol)}: {', '.join(absent)}",
                f"--model {' '.join(absent)} {flags(protocol)} --seed {seeds} --batch-size {sizes} --jobs 2",
                folder,
            )
    write("table2.md", markdown(found))
    write("table2.tex", latex(found))
    print(markdown(found))


if __name__ == "__main__":
    script(main)
