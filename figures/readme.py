"""Fill the README: tables and pictures of the runs in figures/data, and the measurements of bench.py.

python figures/readme.py        reads figures/data, writes README.md and the pictures beside what it reads
"""

import json
from pathlib import Path

import collapse as collapsing
import cost
import fig3
import fixed_point
import scoring
import table2
import table3
from common import DATA, HERE, Finished, provenance, read, save, script, spread

from lvae_min.config import MOVABLE, with_defaults

OTHERS = ("means", "grid")  # measurements of which the README shows a second machine's too


def measurements(file: Path, only: tuple = ()) -> str:
    """What bench.py found, a table a measurement, with the machine it ran on."""
    found = json.loads(file.read_text())
    lines = [
        f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}, "
        f"commit {found['commit']}" + (f"; {found['seconds']} s in all." if "seconds" in found else ".")
    ]
    for name, rows in found.items():
        if isinstance(rows, list) and rows and name != "growth" and (not only or name in only):
            cells = [
                [f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()]
                for row in rows
            ]
            lines += [
                "",
                f"`python bench.py {name}`",
                "",
                "| " + " | ".join(rows[0]) + " |",
                "|" + "--:|" * len(rows[0]),
                *("| " + " | ".join(row) + " |" for row in cells),
            ]
    return "\n".join(lines)


def precisions(runs: list[Finished]) -> str:
    """Scores of each run in bf16 beside those of the run in float32 that is the same in all else."""
    heads = ["method", "iterations", "seed", "precision", "beta", "KL", *table2.TITLES.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|--:|---|" + "--:|" * (len(heads) - 4)]
    made = []
    for rounded in (run for run in runs if precision(run) == "bf16"):
        for run in runs:
            if run is rounded or alike(run) == alike(rounded):
                cells = [run["model"], f"{run['iterations']:,}", str(run["seed"]), precision(run)]
                cells += [spread([run.scores[name]]) for name in ("beta", "kl", *table2.COLUMNS)]
                lines.append("| " + " | ".join(cells) + " |")
                made.append(run)
    return "\n".join([*lines, "", f"{provenance(made)}."]) if made else "No run in bf16 was kept yet."


def alike(run: Finished) -> dict:
    """The settings of a run but for its precision, and for where it was done."""
    settings = with_defaults(run.results["settings"])
    return {name: settings[name] for name in settings if name not in ("precision", *MOVABLE)}


def precision(run: Finished) -> str:
    return with_defaults(run.results["settings"])["precision"]


def collapse(file: Path) -> str:
    """What figures/collapse.py found."""
    found = json.loads(file.read_text())
    return f"{collapsing.table(found['rows'])}\n\nCommit {found['commit']}, one thread."


def put(readme: str, mark: str, text: str) -> str:
    """The README with `text` between its comments of that name."""
    before, start, rest = readme.partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- end of {mark} -->")
    if not start or not end:
        raise ValueError(f"README.md: has no comments <!-- {mark} --> and <!-- end of {mark} -->")
    return f"{before}{start}\n{text}\n{end}{after}"


def main() -> None:
    file, runs = HERE.parent / "README.md", read(DATA)
    exact = [run for run in runs if precision(run) == "float32"]
    readme = put(file.read_text(), "results", table2.markdown(table2.groups(exact)))
    readme = put(readme, "bf16", precisions(runs))
    readme = put(readme, "collapse", collapse(DATA / "collapse.json"))
    readme = put(readme, "scoring", scoring.text(json.loads((DATA / "scoring.json").read_text())))
    readme = put(readme, "fixed point", fixed_point.text([run for run in exact if run["model"] == "lvae"]))
    save(fig3.picture([run for run in runs if run["model"] == "lvae"]), "fig3.png", DATA)
    save(cost.picture(cost.measured(DATA / "bench.json")), "cost.png", DATA)
    pairs = [(run, other) for run, other in table3.pairs(exact) if other is not None]
    absent = "No beta-VAE was trained with a learned beta yet; `python figures/table3.py` says what would."
    readme = put(readme, "table 3", table3.text(pairs) if pairs else absent)
    readme = put(readme, "bench", measurements(DATA / "bench.json"))
    file.write_text(put(readme, "bench of another", measurements(DATA / "bench-xeon.json", OTHERS)))
    print(f"written: {file}")


script(main)
