"""Keep what the figures need of finished runs in figures/data.

    python figures/keep.py [runs]               copies results.json and log.jsonl, for all figures but Fig. 4
    python figures/keep.py [runs] --table       writes a line a run in data/runs.csv

--table also keeps the log of a run of full length (--paper), gzipped, in data/paper: of every 1,000th
iteration, and of each that was evaluated.

A line of the table says how a run was made and what its last and its selected network score on the test
images. The same settings, seed included, are the same run: kept again, its new line replaces the old one.
"""

import csv
import dataclasses
import gzip
import io
import json
import shutil
from pathlib import Path
from typing import get_args

from common import DATA, Finished, arguments, latents_of, missing, read, script
from paper import METHODS

from lvae_min.config import MOVABLE, Config, with_defaults
from lvae_min.io.atomic import write_whole
from lvae_min.io.records import SCALES
from lvae_min.losses import OBJECTIVES, PAPER_ITERATIONS
from lvae_min.report import SCORES

TABLE = DATA / "runs.csv"
KINDS = {
    field.name: next(
        (kind for kind in (bool, int, float) if kind in (field.type, *get_args(field.type))), str
    )
    for field in dataclasses.fields(Config)
    if field.name not in MOVABLE
}
SETTINGS = tuple(KINDS)  # they identify a run
NUMBERS = ("rec", "rec_mean", "kl", "beta", *SCORES, "sap_classification")  # of a network, on test images
RESULTS = {
    **{f"{network}_{name}": float for network in ("last", "selected") for name in NUMBERS},
    "selected_iteration": int,
    "validation_score": float,  # that selected; none where the last network was taken
    **{f"residual_{name}": float for name in SCALES},  # s_i^4 / L_i - 1 at the end, of a method with scales
    "collapsed": bool,
    "seconds": float,
    "threads": int,
    **dict.fromkeys(("device", "torch", "commit", "began_at_commit"), str),
}
COLUMNS = {**KINDS, **RESULTS}


def line_of(run: Finished) -> dict[str, str]:
    """A finished run as a line of the table; a setting that its method does not have is empty."""
    results = run.results
    stored = with_defaults(results["settings"])
    settings = settings_of(Config(**{name: stored[name] for name in SETTINGS if name in stored}))
    selected, residuals = results["selected"], results["equilibrium"].get("residuals", {})
    ended = selected["iteration"] == run["iterations"]
    last = results.get("last", run.scores if ended else {})  # older runs scored the selected network alone
    values = {
        **{f"last_{name}": last.get(name) for name in NUMBERS},
        **{f"selected_{name}": run.scores.get(name) for name in NUMBERS},
        "selected_iteration": selected["iteration"],
        "validation_score": selected["score"] if selected["by"].startswith("validation") else None,
        **{f"residual_{name}": residuals.get(name) for name in SCALES},
        "collapsed": results.get("collapsed", any(line.get("collapsed") for line in run.log)),
        **{name: results[name] for name in ("seconds", "threads", "device", "commit")},
        "torch": results["versions"]["torch"],
        "began_at_commit": results.get("began_at_commit"),
    }
    return settings | {name: text_of(values[name], kind) for name, kind in RESULTS.items()}


def settings_of(config: Config) -> dict[str, str]:
    """The settings of a run as its line has them."""
    settings, method = dataclasses.asdict(config), OBJECTIVES[config.model]
    settings["beta"] = settings["beta"] if method.has_beta else None
    settings["sigma_freeze"] = settings["sigma_freeze"] if method.has_scales else None
    settings["latents"] = settings["latents"] or latents_of(config.dataset)
    return {name: text_of(settings[name], kind) for name, kind in KINDS.items()}


def text_of(value, kind: type) -> str:
    """A value as it is written: numbers that are not whole with six digits, nothing for None."""
    if value is None:
        return ""
    return {bool: "{:d}", float: "{:.6g}"}.get(kind, "{}").format(value)


def value_of(text: str, kind: type) -> bool | int | float | str | None:
    if kind is bool:
        return {"0": False, "1": True}[text]
    return kind(text) if text else "" if kind is str else None


def row_of(line: dict[str, str]) -> dict:
    """A line of the table with values of their kinds, None for what is not known."""
    return {name: value_of(line[name], kind) for name, kind in COLUMNS.items()}


def read_lines(file: Path) -> list[dict[str, str]]:
    """The lines of the table, none if it is not there. Raises ValueError for a damaged one."""
    lines = []
    if file.exists():
        with file.open(newline="", encoding="utf-8") as stream:
            for place, line in enumerate(csv.DictReader(stream), 2):
                try:
                    if list(line) != list(COLUMNS) or row_of(line)["model"] not in METHODS:
                        raise ValueError
                except (ValueError, TypeError, KeyError):
                    raise ValueError(
                        f"{file}: line {place} is damaged, or of another version; take the file "
                        "from the repository, or remove it and keep the runs again"
                    ) from None
                lines.append(line)
    return lines


def rows(place: Path) -> list[dict]:
    """The runs of a table, or the finished ones of a folder, as rows."""
    lines = map(line_of, read(place)) if place.is_dir() else read_lines(place)
    return [row_of(line) for line in lines]


def identity(line: dict[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in SETTINGS)


def order(line: dict[str, str]) -> tuple:
    """Where a line stands: data set, length, rate; methods as in Table 2; then all other settings."""
    row = row_of(line)
    first = (row["dataset"] != "dsprites", row["dataset"], row["iterations"], row["schedule"], -row["rate"])
    others = [(row[name] is not None, row[name] if row[name] is not None else 0) for name in SETTINGS]
    return *first, list(METHODS).index(row["model"]), *others


def add(runs: list[Finished], file: Path) -> int:
    """Write the runs into the table, whole; the number of lines that it has then."""
    found = {identity(line): line for line in [*read_lines(file), *map(line_of, runs)]}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(found.values(), key=order))
    write_whole(file, text.getvalue().encode())
    return len(found)


def is_full_length(row: dict) -> bool:
    """Whether a run is of the paper's setting to its end, on dSprites."""
    return row["paper"] and row["dataset"] == "dsprites" and row["iterations"] == PAPER_ITERATIONS


def log_name(row: dict) -> str:
    """Where the log of a run of full length is: lvae-linear-batch64-tf32-seed1.jsonl.gz in data/paper."""
    method = row["model"] + ("" if row["beta"] is None else f"-beta{row['beta']:g}")
    return f"{method}-{row['warmup']}-batch{row['batch_size']}-{row['precision']}-seed{row['seed']}.jsonl.gz"


def keep_log(run: Finished, folder: Path) -> None:
    """Write the lines of a run's log that the tables need, gzipped, if the run is of full length."""
    row = row_of(line_of(run))
    if is_full_length(row):
        kept = [line for line in run.log if line["step"] % 1000 == 0 or "validation" in line]
        content = "".join(json.dumps(line) + "\n" for line in kept).encode()
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / log_name(row), gzip.compress(content, mtime=0))
        print(f"kept: {folder / log_name(row)}")


def main() -> None:
    given = arguments(__doc__, table=True)
    if given.folder.resolve() == DATA.resolve() and not given.table:
        raise ValueError(f"{given.folder}: holds what was kept; name the folder of the runs")
    runs = read(given.folder)
    if not runs:
        missing("a finished run", "--iterations 20000", given.folder)
    elif given.table:
        print(f"written: {TABLE}, {add(runs, TABLE)} runs")
        for run in runs:
            keep_log(run, DATA / "paper")
    for run in [] if given.table else runs:
        kept = DATA / run.folder.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "log.jsonl"):
            shutil.copy(run.folder / name, kept / name)
        print(f"kept: {kept}")


if __name__ == "__main__":
    script(main)
