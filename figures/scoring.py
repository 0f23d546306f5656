"""The same networks scored in other ways, where the paper does not say which way it took.

    python figures/scoring.py [runs]   writes scoring.md beside this file
    python figures/scoring.py runs --json figures/data/scoring.json     the README's

Factors are in 10 bins, the reference's default, or as they are. SAP's S(f, z) is R^2 of a straight line, or
the accuracy of a decision tree: the reference has both for factors in bins, and trees alone for factors as
they are. Needs the networks (best.pt), which figures/data does not hold, and the data set of each.
"""

import json

from common import Finished, arguments, missing, protocol_title, provenance, read, script, write
from paper import METHODS, row_of
from table2 import TITLES, title

import lvae_min
from lvae_min import data, metrics, report
from lvae_min.data import SCORED, Dataset, Split
from lvae_min.evaluation import evaluate
from lvae_min.stored import OTHER_IMAGES, own_images, same_content

IN_BOTH = {
    name: heading for name, heading in TITLES.items() if name not in ("rec_mean", "sap_classification")
}


def in_each_way(run: Finished, dataset: Dataset) -> dict:
    """The scores of a run's network on its test images: in bins and as they are, SAP by lines and by trees.

    Raises ValueError if that cannot be done: no network, other images, factors of too many values.
    """
    if own_images(run["dataset"]) and not same_content(run.results.get("content"), dataset):
        raise ValueError(OTHER_IMAGES)
    index = Split.of(len(dataset)).test[:SCORED]
    binned, codes = evaluate(lvae_min.load(run.folder), dataset, index)
    factors = dataset.factors(index)
    plain = metrics.score(factors, codes, discrete=True)
    return {
        "run": protocol_title(run.protocol),
        "method": title(run),
        "batch": run["batch_size"],
        "seed": run["seed"],
        "beta": run.results["scores"]["beta"],
        **{name: [binned[name], plain[name]] for name in IN_BOTH},
        "sap": binned["sap"],
        "sap_trees": [metrics.sap(factors, codes, discrete, trees=True) for discrete in (False, True)],
        "sap_paper": papers_sap(run),
    }


def papers_sap(run: Finished) -> float | None:
    """SAP of Table 2 in the row of a run's method."""
    row = row_of(run["dataset"], run["model"], run["beta"])
    return row.get("sap_classification") if run.freeze is None else None


def table(rows: list[dict]) -> str:
    heads = [
        "run",
        "method",
        "batch",
        "seed",
        "beta",
        *IN_BOTH.values(),
        "SAP by lines ↑",
        "by trees ↑",
        "paper's SAP",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "--:|" * (len(heads) - 2)]
    order = list(METHODS.values())
    for row in sorted(rows, key=lambda row: (row["run"], order.index(row["method"].split(",")[0]))):
        cells = [row["run"], row["method"], str(row["batch"]), str(row["seed"]), f"{row['beta']:.2f}"]
        for name in (*IN_BOTH, "sap", "sap_trees", "sap_paper"):
            values = row[name] if isinstance(row[name], list) else [row[name]]
            cells.append(" / ".join(f"{value:.2f}" for value in values if value is not None))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def text(found: dict) -> str:
    """The table with what its cells are and where they come from."""
    return (
        f"{table(found['rows'])}\n\nOf two numbers the first is with factors in 10 bins, the second with "
        f"factors as they are. {found['provenance']}; scored at commit {found['commit'] or 'unknown'}."
    )


def main() -> None:
    given = arguments(__doc__, networks=True, json=True)
    runs = [run for run in read(given.folder) if "beta_vae" in run.results["scores"]]
    runs = [run for run in runs if (run.folder / "best.pt").exists()]
    if not runs:
        what = "a finished run with factors, and its network"
        missing(what, "--model lvae --iterations 50000", given.folder)
    rows, made, datasets = [], [], {}
    for run in runs:
        try:
            if run["dataset"] not in datasets:
                datasets[run["dataset"]] = data.load(run["dataset"], given.data)
            rows.append(in_each_way(run, datasets[run["dataset"]]))
            made.append(run)
            print(f"scored: {run.folder.name}", flush=True)
        except ValueError as error:
            print(f"left out: {run.folder.name}: {error}", flush=True)
    if rows:
        found = {"rows": rows, "provenance": provenance(made), "commit": report.commit()}
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))
        write("scoring.md", text(found))
        print(text(found))


if __name__ == "__main__":
    script(main)
