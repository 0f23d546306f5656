"""The paper's setting to its end: six methods over 300,000 iterations.

    python figures/full.py      writes full.md beside this file, and in data full.png, full-seeds.png and
                                fig3-full.png

Reads figures/data/paper: of each run's log the lines of every 1,000th iteration, and scores on test images.
Those of seed 0 have files of their own; of others the scores are in data/runs.csv (`keep.py --table`). Runs
of different seeds or settings each have rows of their own.
"""

import csv
import json
import math

import keep
import pool
import rate
from common import DATA, read_gzipped, save, script, write
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from paper import BETA_HAT, COLUMNS, METHODS, SELECTED_ITERATION, TABLE_2
from table2 import TITLES

from lvae_min.config import evaluation_interval
from lvae_min.io.text import Parser
from lvae_min.losses import PAPER_ITERATIONS
from lvae_min.plots import new_figure
from lvae_min.report import SCORES

FOLDER = DATA / "paper"
STYLES = ("--", "-", ":", "-.")  # of seeds
SHOWN = ("lvae", "vae", "beta-vae", "control-vae")  # of the picture over seeds
PANELS = {
    "rec": "reconstruction loss\n(sum over an image)",
    "kl": "KL (nats)",
    "beta": "beta",
    "beta_vae": "beta-VAE score",
    "mig": "MIG",
    "factor_vae": "FactorVAE score",
}


def full_length() -> dict[str, list[dict]]:
    """The log lines of each method, in the order of Table 2. Raises ValueError for a damaged log."""
    return {method: read_gzipped(FOLDER / f"{method}.jsonl.gz") for method in METHODS}


def validations(log: list[dict]) -> list[dict]:
    """Lines of a log that the selection sees: each evaluation interval, without the early one at 1,000."""
    interval = evaluation_interval(log[-1]["step"])
    return [line for line in log if "validation" in line and line["step"] % interval == 0]


def selected(log: list[dict], score: str) -> dict:
    """The line of a log with the best validation score (Sec. 6.5): the first of equal ones, NaN never."""
    known = [line for line in validations(log) if not math.isnan(line["validation"][score])]
    return max(known, key=lambda line: line["validation"][score])


def origin() -> str:
    """Where these runs were made, in a sentence."""
    made = json.loads((FOLDER / "provenance.json").read_text())
    given = made["settings"]
    return (
        f"runs on dSprites, {given['iterations']:,} iterations, batch {given['batch_size']}, "
        f"seed {given['seed']} (commit {made['commit']}; "
        f"{made['device']}, {given['precision']} products, torch {made['versions']['torch']})"
    )


def picture(logs: dict[str, list[dict]]) -> Figure:
    """Terms and beta in training, and three validation scores, over iterations: a line a method."""
    figure, axes = new_figure(12, 6.6, 2, 3)
    for cell, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for method, log in logs.items():
            lines = validations(log) if name in SCORES else log
            values = [line["validation"][name] if name in SCORES else line[name] for line in lines]
            cell.plot(
                [line["step"] for line in lines],
                values,
                color=rate.COLOURS[method],
                label=METHODS[method] + f", beta {log[-1]['beta']:g}" * (method == "beta-vae"),
                lw=1.5,
                marker="." if name in SCORES else "",
            )
        cell.set(xlabel="iterations", ylabel=f"{title}, validation (0 to 1)" if name in SCORES else title)
        cell.xaxis.set_major_formatter(EngFormatter(sep=""))
        cell.grid(alpha=0.3)
        if name in ("rec", "beta"):
            cell.set_yscale("log")
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter(NullFormatter())
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(logs))
    title = "The methods that hold KL low end with the best scores, and with the highest reconstruction loss"
    figure.suptitle(f"{title}\nsix {origin()}", fontsize=10)
    return figure


def over_seeds(complete: list[tuple]) -> Figure:
    """Two scores of some methods over iterations: a colour a method, a style a seed."""
    figure, axes = new_figure(11, 4.6, 1, 2)
    for cell, name in zip(axes.flat, ("beta_vae", "mig"), strict=True):
        for method, title, seed, _, log in complete:
            if method in SHOWN:
                lines = validations(log)
                values = [line["validation"][name] for line in lines]
                style = {"color": rate.COLOURS[method], "ls": STYLES[seed % 4], "marker": ".", "lw": 1.5}
                label = f"{title}, seed {seed}"
                cell.plot([line["step"] for line in lines], values, label=label, **style)
        cell.set(xlabel="iterations", ylabel=f"{SCORES[name]} score, validation")
        cell.xaxis.set_major_formatter(EngFormatter(sep=""))
        cell.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(
        "The paper's setting twice: ControlVAE ends the same, the others' scores depend on the seed",
        fontsize=10,
    )
    return figure


def scales(log: list[dict]) -> Figure:
    """Fig. 3 of L-VAE: learned scales and validation score, and the beta that follows from the scales."""
    figure, ((left, right),) = new_figure(11, 4.6, 1, 2)
    steps, known, beta = [line["step"] for line in log], validations(log), BETA_HAT["dsprites"]
    left.plot(steps, [line["sigma_0"] for line in log], color="C0", label="sigma_0 (rec)")
    left.plot(steps, [line["sigma_1"] for line in log], color="C1", label="sigma_1 (kl)")
    score = left.twinx()
    found = [line["validation"]["beta_vae"] for line in known]
    score.plot([line["step"] for line in known], found, "C2.-", lw=1, label="beta-VAE score, validation")
    score.set(ylabel="beta-VAE score, validation (0 to 1)", ylim=(0, 1.05))
    peak = max(log, key=lambda line: line["sigma_0"])["step"]
    left.set(xlabel="iterations", ylabel="learned scale", ylim=(0, None))
    left.set_title(f"sigma_0 has its peak near {peak:,} iterations", fontsize=10)
    right.plot(steps, [line["beta"] for line in log], color="C4", label="beta_hat = sigma_0^2 / sigma_1^2")
    right.axhline(beta, color="k", ls="--", lw=1, label=f"paper: beta_hat {beta}")
    right.set(xlabel="iterations", ylabel="beta_hat")
    right.set_title(f"beta_hat is the paper's at {' and '.join(crossings(log, beta))}", fontsize=10)
    for cell in (left, right):
        cell.axvline(SELECTED_ITERATION, color="C3", lw=1)
        cell.axvline(selected(log, "beta_vae")["step"], color="C3", lw=1, ls=":")
        cell.xaxis.set_major_formatter(EngFormatter(sep=""))
        cell.grid(alpha=0.3)
    left.lines[-2].set_label(f"paper: selected at {SELECTED_ITERATION:,}")
    left.lines[-1].set_label("selected in this run")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"Paper's Fig. 3 over all iterations, L-VAE of the\n{origin()}", fontsize=9)
    return figure


def crossings(log: list[dict], beta: float) -> list[str]:
    """Iterations at which a method's beta passes a value."""
    pairs = zip(log, log[1:], strict=False)
    return [
        f"{after['step']:,}" for before, after in pairs if (before["beta"] < beta) != (after["beta"] < beta)
    ]


def more_runs() -> list[dict]:
    """The kept runs of full length beside those of seed 0, in the order of Table 2."""
    rows = [row for row in keep.rows(keep.TABLE) if keep.is_full_length(row)]
    order = list(METHODS)
    return sorted(rows, key=lambda row: (order.index(row["model"]), row["beta"] or 0, row["seed"]))


def more_logs(rows: list[dict]) -> list[tuple[dict, list[dict]]]:
    """Of these runs those whose log was kept, each with its log."""
    files = [(row, FOLDER / keep.log_name(row)) for row in rows]
    return [(row, read_gzipped(file)) for row, file in files if file.exists()]


def every(logs: dict[str, list[dict]], more: list[tuple[dict, list[dict]]]) -> list[tuple]:
    """Method, title, seed, rise of the rate and log of all runs of full length, in the order of Table 2."""
    first = {row["method"]: rate.name_of(row) for row in rate.kept() if row["iterations"] == PAPER_ITERATIONS}
    found = [(method, first[method], 0, "cosine", log) for method, log in logs.items()]
    found += [(row["model"], title_of(row), row["seed"], row["warmup"], log) for row, log in more]
    return sorted(found, key=lambda run: list(METHODS).index(run[0]))


def complete_runs() -> list[tuple]:
    """`every` of what is kept."""
    return every(full_length(), more_logs(more_runs()))


def title_of(row: dict) -> str:
    """A method with its beta, and with its batch size where that is not 64."""
    return pool.name_of(row) + f", batch {row['batch_size']}" * (row["batch_size"] != 64)


def networks() -> list[tuple[str, str, str, str, str, dict]]:
    """Title, method, seed, rise of the rate, which network, and its test scores: two networks a run."""
    last = {row["method"]: row for row in rate.kept() if row["iterations"] == PAPER_ITERATIONS}
    with (FOLDER / "runs.csv").open(newline="") as file:
        full = [run for run in csv.DictReader(file) if int(run["iterations"]) == PAPER_ITERATIONS]
    chosen, found = {run["method"]: run for run in full}, []
    for method in METHODS:
        names = ("rec", "kl", "beta", *SCORES)
        selected = {name: float(chosen[method][f"selected_{name}"]) for name in names}
        iteration = f"selected at {int(chosen[method]['selected_iteration']):,}"
        for network, row in (("last", last[method]), (iteration, selected)):
            found.append((rate.name_of(last[method]), method, "0", "cosine", network, row))
        for run in more_runs():
            if run["model"] == method:
                for network in ("last", "selected"):
                    row = {name: run[f"{network}_{name}"] for name in keep.NUMBERS}
                    label = network if network == "last" else f"selected at {run['selected_iteration']:,}"
                    found.append((title_of(run), method, str(run["seed"]), run["warmup"], label, row))
    return found


def network_table() -> list[str]:
    """Each run's last and selected network on test images, the paper's Table 2 in brackets."""
    heads = ["method", "seed", "rise", "network", "rec of mu / of a sampled z ↓", "KL", "beta"]
    heads += [*list(TITLES.values())[1:-1], "SAP by trees / by lines ↑"]
    lines = ["| " + " | ".join(heads) + " |", "|---|--:|---|---|" + "--:|" * (len(heads) - 4)]
    for title, method, seed, rise, network, row in networks():
        paper = dict(zip(COLUMNS, TABLE_2["dsprites", method], strict=True))
        cells = [title, seed, rise, network]
        cells.append(f"{both(row, 'rec_mean', 'rec')} ({paper['rec_mean']:.2f})")
        cells += [f"{row['kl']:.2f}", f"{row['beta']:.3g}"]
        cells += [f"{row[score]:.2f} ({paper[score]:.2f})" for score in list(SCORES)[:-1]]
        cells.append(f"{both(row, 'sap_classification', 'sap')} ({paper['sap_classification']:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def both(row: dict, *names: str) -> str:
    """Two numbers of a row, a dash for one that is not known."""
    return " / ".join("-" if row.get(name) is None else f"{row[name]:.2f}" for name in names)


def selection_table(logs: dict[str, list[dict]], more: list[tuple[dict, list[dict]]]) -> list[str]:
    """Which iteration each validation score selects, with rec and beta there."""
    lines = ["| method | seed | " + " | ".join(SCORES.values()) + " |", "|---|--:|" + "--:|" * len(SCORES)]
    for _, title, seed, _, log in every(logs, more):
        chosen = [selected(log, score) for score in SCORES]
        cells = [f"{line['step']:,} ({line['validation']['rec']:.1f}, {line['beta']:.3g})" for line in chosen]
        lines.append(f"| {title} | {seed} | " + " | ".join(cells) + " |")
    return lines


def tested_table(more: list[tuple[dict, list[dict]]]) -> list[str]:
    """For each validation score the network that it selects, with that score on validation and test images.

    Of runs whose log has test scores (`--score-test`); nothing if there are none.
    """
    names = [name for name in (*SCORES, "sap_classification") if name != "sap"]
    lines = []
    for row, log in more:
        known = [line for line in log if "test" in line and set(names) <= set(line["validation"])]
        if not known:
            continue
        paper, cells = dict(zip(COLUMNS, TABLE_2["dsprites", row["model"]], strict=True)), []
        for name in names:
            line = selected(known, name)
            there = f"{line['step']:,}: rec {line['test']['rec_mean']:.1f}, beta {line['beta']:.3g}"
            scores = f"{line['validation'][name]:.2f} / {line['test'][name]:.2f} ({paper[name]:.2f})"
            cells.append(f"{there}<br>{scores}")
        lines.append(f"| {title_of(row)} | {row['seed']} | " + " | ".join(cells) + " |")
    heads = ["method", "seed", *(f"by {TITLES[name][:-2]}" for name in names)]
    table = ["| " + " | ".join(heads) + " |", "|---|--:|" + "--:|" * len(names), *lines]
    return table if lines else []


def by_title(rows: list[dict]) -> pool.Methods:
    return {title_of(row): [other for other in rows if title_of(other) == title_of(row)] for row in rows}


def origins(rows: list[dict]) -> str:
    """Where the runs were made: those of seed 0, and the others with their products."""
    text = f"Seed 0 with a rise along a cosine: six {origin()}."
    if rows:
        precisions = ", ".join(sorted({row["precision"] for row in rows}))
        text += f" The others, {precisions} products: {pool.made(by_title(rows), warnings=False)}"
    return text


def text(logs: dict[str, list[dict]]) -> str:
    rows = more_runs()
    more = more_logs(rows)
    tested = tested_table(more)
    parts = [
        "The last network of each run, and the one with the best validation beta-VAE score, on test images. "
        "In brackets the paper's Table 2, whose beta-VAE has beta 2. A dash: not computed.",
        "",
        *network_table(),
        "",
        f"{origins(rows)} Rise: of the learning rate. rec: with z = mu, and with a sampled z. SAP: by "
        "decision trees, and by linear regression.",
        "",
        "<details>",
        "<summary>The iteration that each validation score selects</summary>",
        "",
        *selection_table(logs, more),
        "",
        "In brackets the rec (validation, sampled z) and the beta at that iteration. SAP: by linear "
        "regression.",
    ]
    if tested:
        note = "rec of mu on test images and beta there; then the score on validation and on test images"
        parts += ["", *tested, "", f"{note}, in brackets the paper's. SAP: by decision trees."]
    return "\n".join([*parts, "", "</details>"])


def main() -> None:
    Parser(description=__doc__).parse_args()
    logs = full_length()
    save(picture(logs), "full.png", DATA)
    save(over_seeds(complete_runs()), "full-seeds.png", DATA)
    save(scales(logs["lvae"]), "fig3-full.png", DATA)
    write("full.md", text(logs))
    print(text(logs))


if __name__ == "__main__":
    script(main)
