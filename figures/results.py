"""The table of finished runs: reads results.json of each, prints Markdown, and puts it into the README.

    python figures/results.py runs                      a table of these runs
    python figures/results.py figures/data --readme     the README's table, from the runs kept there
    python figures/results.py runs --keep               copy small files of finished runs to figures/data

With --readme the measurements in figures/data/bench.json go there too (python bench.py --json).
"""

import argparse
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
COLUMNS = {
    "rec": "rec ↓",
    "kl": "KL",
    "beta": "beta",
    "beta_vae": "beta-VAE ↑",
    "factor_vae": "FactorVAE ↑",
    "explicitness": "Explicitness ↑",
    "irs": "IRS ↑",
    "mig": "MIG ↑",
    "sap": "SAP ↑",
}
PAPER = {  # Table 2: rec and the six scores; dSprites
    ("dsprites", "vae"): (12.46, None, 1, 0.91, 0.62, 0.50, 0.34, 0.11, 0.09),
    ("dsprites", "beta-vae"): (25.04, None, 2, 0.97, 0.74, 0.58, 0.59, 0.30, 0.27),
    ("dsprites", "control-vae"): (28.00, None, None, 0.96, 0.71, 0.57, 0.57, 0.34, 0.34),
    ("dsprites", "dynamic-vae"): (31.57, None, None, 0.93, 0.71, 0.55, 0.53, 0.31, 0.28),
    ("dsprites", "sigma-vae"): (29.21, None, None, 0.85, 0.61, 0.51, 0.38, 0.10, 0.05),
    ("dsprites", "lvae"): (21.14, None, 1.39, 0.97, 0.77, 0.59, 0.63, 0.30, 0.29),
}


def cell(values: list[float], digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def row(runs: list[dict]) -> str:
    """One method with one setting, over its seeds: mean and sample standard deviation."""
    settings = runs[0]["settings"]
    schedule = "" if settings["schedule"] == settings["iterations"] else f" of {settings['schedule']:,}"
    method = settings["model"] + (f", beta {settings['beta']:g}" if settings["model"] == "beta-vae" else "")
    cells = [
        settings["dataset"],
        method,
        f"{settings['iterations']:,}{schedule}",
        str(len(runs)),
        "/".join(f"{run['selected']['iteration']:,}" for run in runs),
    ]
    cells += [
        cell([run["scores"][name] for run in runs], 2) if name in runs[0]["scores"] else ""
        for name in COLUMNS
    ]
    residuals = [
        f"{value:+.3f}" for run in runs for value in run["equilibrium"].get("residuals", {}).values()
    ]
    return "| " + " | ".join([*cells, " / ".join(residuals)]) + " |"


def paper_row(dataset: str, model: str) -> str:
    cells = [
        "" if value is None else f"{value:g}" if name == "beta" else f"{value:.2f}"
        for name, value in zip(COLUMNS, PAPER[dataset, model], strict=True)
    ]
    return "| " + " | ".join([dataset, f"*paper, {model}*", "*up to 300,000*", "", "", *cells, ""]) + " |"


def table(folder: Path) -> str:
    groups, lines = defaultdict(list), []
    for file in sorted(folder.glob("*/results.json")):
        results = json.loads(file.read_text())
        groups[json.dumps({**results["settings"], "seed": None, "threads": None}, sort_keys=True)].append(
            results
        )
    runs = sorted(
        groups.values(),
        key=lambda runs: (
            runs[0]["settings"]["dataset"],
            runs[0]["settings"]["iterations"],
            runs[0]["settings"]["model"],
            runs[0]["settings"]["beta"],
        ),
    )
    heads = ["data set", "method", "iterations", "seeds", "selected", *COLUMNS.values(), "s_i^4 / L_i - 1"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "--:|" * (len(heads) - 2), *map(row, runs)]
    shown = {(each[0]["settings"]["dataset"], each[0]["settings"]["model"]) for each in runs}
    lines += [paper_row(*key) for key in PAPER if key in shown]
    every = [run for group in runs for run in group]
    where = sorted(
        {
            f"commit {run['commit']}, {run['device']}, {run['threads']} "
            f"thread{'s' * (run['threads'] > 1)}, torch {run['versions']['torch']}"
            for run in every
        }
    )
    minutes = [run["seconds"] / 60 for run in every]
    lines += [
        "",
        f"{len(every)} runs ({'; '.join(where)}), {min(minutes):.0f} to {max(minutes):.0f} minutes each. "
        "Scores are those of 10,000 test images (factors in 10 bins) at the iteration that the validation "
        "beta-VAE score selected. Paper: Table 2, one number each.",
    ]
    return "\n".join(lines)


def measurements(file: Path) -> str:
    """What bench.py found, a table a measurement, with the machine it ran on."""
    found = json.loads(file.read_text())
    lines = [f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}, "
             f"commit {found['commit']}."]
    for name, rows in found.items():
        if isinstance(rows, list) and rows:
            cells = [[f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()]
                     for row in rows]
            lines += ["", f"`python bench.py {name}`", "", "| " + " | ".join(rows[0]) + " |",
                      "|" + "--:|" * len(rows[0]), *("| " + " | ".join(row) + " |" for row in cells)]
    return "\n".join(lines)


def put(mark: str, text: str) -> None:
    """Put `text` between the README's comments of that name."""
    file = HERE.parent / "README.md"
    before, _, rest = file.read_text().partition(f"<!-- {mark} -->")
    end = f"<!-- end of {mark} -->"
    file.write_text(f"{before}<!-- {mark} -->\n{text}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder that holds the runs")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--keep", action="store_true", help="copy results.json and log.jsonl to figures/data")
    given = parser.parse_args()
    if not list(given.folder.glob("*/results.json")):
        parser.error(
            f"{given.folder}: no finished run; python run.py --iterations 20000 makes one"
        )
    if given.keep:
        for file in given.folder.glob("*/results.json"):
            kept = HERE / "data" / file.parent.name
            kept.mkdir(parents=True, exist_ok=True)
            for name in ("results.json", "log.jsonl"):
                shutil.copy(file.parent / name, kept / name)
    text = table(given.folder)
    print(text)
    if given.readme:
        put("results", text)
        put("bench", measurements(HERE / "data" / "bench.json"))


if __name__ == "__main__":
    main()
