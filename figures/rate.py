"""How the learning rate and the length of the default were chosen: what runs on dSprites end with.

    python figures/rate.py [runs]       writes rate.md and rate.png beside this file, or data/rate.png

Reads figures/data/rate.csv, the finished runs of figures/data, and those of the folder that is given. A run
counts with its last network: its test scores where that was selected, its last validation otherwise.
"""

import csv
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from common import DATA, Finished, read, save, script, unusual, write
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from paper import METHODS

from lvae_min.config import PAPER_RATE
from lvae_min.io.text import Parser
from lvae_min.losses import PAPER_ITERATIONS
from lvae_min.plots import new_figure
from lvae_min.report import SCORES

TABLE = DATA / "rate.csv"
WORDS = ("source", "commit", "device", "precision", "method", "warmup", "network", "images")
COUNTS = ("iterations", "schedule", "batch", "seed", "network_iteration")
SETTING = ("method", "beta_given", "peak_rate", "start_rate", "iterations", "schedule", "batch", "warmup")
IDENTITY = (*SETTING, "seed", "device", "precision", "network")  # what identifies a line
DEFAULT_ITERATIONS = 10_000
GOOD_MIG = 0.15  # of beta-VAE with beta 4: the ends of these runs are .17 to .27 and .02 to .12
SHOWN = {"vae": "VAE", "lvae": "L-VAE", "beta-vae": "beta-VAE, beta 4"}
COLOURS = dict(zip(METHODS, ("C0", "C1", "C4", "C5", "C7", "C2"), strict=True))
LENGTHS = {  # up to so many iterations: marker, its size in points
    2_000: ("v", 5.5),
    5_000: ("s", 5.5),
    10_000: ("o", 6.5),
    20_000: ("D", 6),
    50_000: ("P", 8),
    PAPER_ITERATIONS: ("*", 13),
}
PANELS = {
    "rec": "reconstruction loss\n(sum over an image)",
    "kl": "KL (nats)",
    "mig": "MIG (0 to 1)",
    "beta_vae": "beta-VAE score (0 to 1)",
}
HIGHEST_REC = 45  # above it a rec stands at the edge, with its value
POINTS, DECADE = 150, 380  # of a panel's height and of a decade of its width, less than they are


def default_rate(schedule: int) -> float:
    """The default's peak: the 1e-4 of the paper's 300,000 iterations times sqrt(300,000 / schedule)."""
    return PAPER_RATE * math.sqrt(PAPER_ITERATIONS / schedule)


def kept() -> list[dict]:
    """The runs of rate.csv, None where a value is not known. Raises ValueError for a damaged line."""
    rows = []
    with TABLE.open(newline="") as file:
        for place, line in enumerate(csv.DictReader(file, strict=True), 2):
            try:
                if line["method"] not in METHODS or None in line.values():
                    raise ValueError
                rows.append({name: value_of(name, text) for name, text in line.items()})
            except (ValueError, TypeError, KeyError):
                raise ValueError(f"{TABLE}: line {place} is damaged; take it from the repository") from None
    return rows


def value_of(name: str, text: str) -> str | int | float | None:
    if name in WORDS:
        return text
    return int(text) if name in COUNTS else float(text) if text else None


def row_of(run: Finished) -> dict:
    """A finished run as a line of the table."""
    settings, last = run.results["settings"], run.log[-1]
    whole = run.results["selected"]["iteration"] == run["iterations"]
    scores = run.results["scores"] if whole else {**last["validation"], "beta": last["beta"]}
    return {
        "source": f"finished runs: {run.folder.name}",
        "commit": run.results["commit"],
        "device": run.results["device"],
        "precision": settings.get("precision", "float32"),
        "method": run["model"],
        "beta_given": run["beta"] if run["model"] == "beta-vae" else None,
        "peak_rate": settings.get("rate") or PAPER_RATE,  # older runs have no such setting
        "start_rate": None,
        **{name: run[name] for name in ("iterations", "schedule", "seed")},
        "batch": run["batch_size"],
        "warmup": settings.get("warmup", "cosine"),
        "network": "last",
        "network_iteration": run["iterations"],
        "images": "test" if whole else "validation",
        "rec_mean": run.results.get("rec_mean") if whole else last["validation"].get("rec_mean"),
        **{name: scores[name] for name in ("rec", "kl", "beta", *SCORES)},
        "sap_classification": None,
    }


def all_runs(folder: Path | None) -> list[dict]:
    """Lines of rate.csv and of finished runs on dSprites, each run once, the table's before a folder's."""
    found = {identity(row): row for row in kept()}
    for place in (DATA, folder) if folder else (DATA,):
        for run in read(place):
            if usual(run):
                row = row_of(run)
                found.setdefault(identity(row), row)
    return list(found.values())


def usual(run: Finished) -> bool:
    """Whether a run differs from the table's in nothing that the table has no column for."""
    scored = set(SCORES) <= set(run.log[-1].get("validation", {}))
    return (
        run["dataset"] == "dsprites"
        and scored
        and not run.variant
        and not {"latents", "rate-form"} & set(unusual(run.protocol))
    )


def identity(row: dict) -> tuple:
    return tuple(row[name] for name in IDENTITY)


def name_of(row: dict) -> str:
    beta = "" if row["beta_given"] is None else f", beta {row['beta_given']:g}"
    return METHODS[row["method"]] + beta


def comparable(rows: list[dict]) -> list[dict]:
    """Last networks of whole schedules that start at a tenth of their peak, of the methods shown."""
    return [
        row
        for row in rows
        if name_of(row) in SHOWN.values()
        and row["network"] == "last"
        and row["start_rate"] is None
        and row["iterations"] == row["schedule"]
        and all(math.isfinite(row[name]) for name in PANELS)
    ]


def marker(row: dict) -> tuple[str, float]:
    fitting = (mark for longest, mark in LENGTHS.items() if row["iterations"] <= longest)
    return next(fitting, LENGTHS[PAPER_ITERATIONS])


def group(row: dict) -> float:
    """The first digit of the peak rate: 5.5e-4, the default's, stands with 5e-4."""
    digits, power = f"{row['peak_rate']:.3e}".split("e")
    return float(f"{int(float(digits))}e{power}")


def places(rows: list[dict]) -> list[float]:
    """Where each row stands on the axis: at its peak rate, or as near to it as no marker covers another.

    A run has one place in all panels. Heights are in points, as if each panel held its values exactly.
    """
    limits = {name: (min(row[name] for row in rows), max(row[name] for row in rows)) for name in PANELS}
    limits["rec"] = limits["rec"][0], min(limits["rec"][1], HIGHEST_REC)
    taken = []  # peak, points in the same column, marker size, heights
    for row in rows:
        size = marker(row)[1] + 1
        heights = [
            POINTS * (min(row[name], top) - low) / max(top - low, 1e-9) for name, (low, top) in limits.items()
        ]
        column = [other for other in taken if other[0] == group(row)]
        shift = next(
            shift
            for shift in sorted(range(-999, 1000), key=abs)
            if all(
                abs(shift - place) >= (size + other) / 2
                or all(abs(a - b) >= (size + other) / 2 for a, b in zip(heights, levels, strict=True))
                for _, place, other, levels in column
            )
        )
        taken.append((group(row), shift, size, heights))
    return [peak * 10 ** (shift / DECADE) for peak, shift, *_ in taken]


def picture(rows: list[dict]) -> Figure:
    """Four panels, one above the other: rec, KL, MIG and beta-VAE score at the end of a run over the peak."""
    rows = comparable(rows)
    where = places(rows)
    figure, axes = new_figure(11, 12, len(PANELS), 1, sharex=True)
    peaks = sorted({group(row) for row in rows})
    for cell, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for peak in peaks:
            column = [place for row, place in zip(rows, where, strict=True) if group(row) == peak]
            edge = 10 ** (6 / DECADE)
            cell.axvspan(min(column) / edge, max(column) * edge, color="0.94", lw=0, zorder=0)
        cell.axvline(default_rate(DEFAULT_ITERATIONS), color="0.4", ls="--", lw=1, zorder=1)
        for row, place in zip(rows, where, strict=True):
            shape, size = marker(row)
            colour = COLOURS[row["method"]]
            height = min(row[name], HIGHEST_REC) if name == "rec" else row[name]
            cell.plot(
                place, height, shape, color=colour, ms=size, mfc=colour if row["batch"] == 64 else "white"
            )
            if height < row[name]:
                beyond = f"{row[name]:.0f} ↑"
                cell.annotate(
                    beyond, (place, height), (7, 0), textcoords="offset points", va="center", fontsize=9
                )
        cell.set(xscale="log", ylabel=title)
        cell.grid(axis="y", alpha=0.3)
    axes[2, 0].axhline(GOOD_MIG, color=COLOURS["beta-vae"], ls=":", lw=1.2)
    axes[-1, 0].set_xticks(peaks, [shortly(peak) for peak in peaks])
    axes[-1, 0].xaxis.set_minor_locator(NullLocator())
    axes[-1, 0].set_xlabel(
        "peak of the learning rate (a step of Adam); grey: runs of about one peak, side by side"
    )
    figure.legend(handles=key(rows), loc="outside lower center", fontsize=9, ncols=5, columnspacing=1.2)
    figure.suptitle(
        "dSprites, end of a run: high peak rates reach a low reconstruction loss in few iterations,\n"
        "but all of them end with a low MIG"
    )
    return figure


def shortly(rate: float) -> str:
    """A rate as it is written on a command line: 1e-4, 5.5e-4."""
    return f"{rate:.1e}".replace(".0e", "e").replace("e-0", "e-")


def key(rows: list[dict]) -> list[Line2D]:
    """What colours, shapes and lines mean: five columns of three."""

    def line(label, marker="o", **style):
        return Line2D([], [], **{"ls": "", "color": "0.3", "marker": marker, **style}, label=label)

    methods = [line(name, color=COLOURS[method]) for method, name in SHOWN.items()]
    lengths = []
    for shape, size in LENGTHS.values():
        same = sorted({row["iterations"] for row in rows if marker(row)[0] == shape})
        if same:
            ends = f"{same[0]:,}" + (f" to {same[-1]:,}" if len(same) > 1 else "")
            lengths.append(line(f"{ends} iterations", shape, ms=size))
    others = ", ".join(str(size) for size in sorted({row["batch"] for row in rows} - {64}))
    batches = [line("batch 64"), line(f"batch {others}", mfc="white")] if others else [line("batch 64")]
    default = f"default: {shortly(default_rate(DEFAULT_ITERATIONS))} at {DEFAULT_ITERATIONS:,} iterations"
    lines = [line(default, "", ls="--", lw=1, color="0.4")]
    good = f"MIG {GOOD_MIG}: good ends above it"
    lines.append(line(good, "", ls=":", color=COLOURS["beta-vae"]))
    columns = [methods, lengths[:3], lengths[3:], batches, lines]
    return [handle for column in columns for handle in [*column, *[line("", "")] * 3][:3]]


def table(rows: list[dict]) -> str:
    """Means over the runs of one setting."""
    groups = defaultdict(list)
    for row in rows:
        if row["network"] == "last":
            groups[tuple(row[name] for name in SETTING)].append(row)
    heads = [
        "method",
        "peak rate",
        "iterations",
        "batch",
        "runs",
        "seeds",
        "rec",
        "KL",
        "MIG",
        "beta-VAE score",
        "good ends",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for same in sorted(groups.values(), key=place_in_table):
        first = same[0]
        peak = f"{first['peak_rate']:.1e}".replace(".0e", "e").replace("e-0", "e-")
        peak += (
            "" if first["start_rate"] is None else f", start {first['start_rate']:.0e}".replace("e-0", "e-")
        )
        peak += "" if first["warmup"] == "cosine" else f", rise {first['warmup']}"
        length = f"{first['iterations']:,}"
        if first["iterations"] != first["schedule"]:
            length += f" of {first['schedule']:,}"
        cells = [name_of(first), peak, length, str(first["batch"]), str(len(same))]
        cells.append(str(len({row["seed"] for row in same})))
        means = {name: np.mean([row[name] for row in same]) for name in PANELS}
        cells += [
            f"{means['rec']:.1f}",
            f"{means['kl']:.1f}",
            f"{means['mig']:.2f}",
            f"{means['beta_vae']:.2f}",
        ]
        good = sum(row["mig"] >= GOOD_MIG for row in same)
        cells.append(f"{good} of {len(same)}" if name_of(first) == SHOWN["beta-vae"] else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def place_in_table(same: list[dict]) -> tuple:
    first = same[0]
    method = list(METHODS).index(first["method"])
    return method, first["beta_given"] or 0, first["batch"], first["peak_rate"], first["schedule"]


def text(rows: list[dict]) -> str:
    sources = Counter(row["source"].split(":")[0] for row in rows if row["network"] == "last")
    made = "; ".join(f"{source} ({count})" for source, count in sources.items())
    return (
        f"{table(rows)}\n\nMeans over runs, each with its last network. A good end, of beta-VAE with beta 4 "
        f"alone: MIG of at least {GOOD_MIG}. Runs by source: {made}."
    )


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of more finished runs")
    folder = parser.parse_args().folder
    if folder is not None and not folder.is_dir():
        parser.error(f"{folder}: no such folder; python run.py makes runs/")
    rows = all_runs(folder)
    save(picture(rows), "rate.png", DATA if folder is None else None)
    write("rate.md", text(rows))
    print(text(rows))


if __name__ == "__main__":
    script(main)
