"""Fill the marked blocks of README.md and docs/, and draw the pictures beside the data.

    python figures/readme.py        reads figures/data, writes the pages and the pictures in figures/data

A block is what stands between <!-- name --> and <!-- end of name -->; `texts` says which there are. A block
that no page has a place for, and a place that nothing fills, are errors.
"""

import json
import re
from pathlib import Path

import claims
import collapse as collapsing
import cost
import fig3
import fixed_point
import foretell
import full
import gpu
import keep
import own
import pool
import rate
import scoring
import seeds
import sigma
import speedrun
import stopped
import study
import table2
import table3
from common import DATA, HERE, Finished, markdown, provenance, read, save, script, spread
from paper import COLUMNS, METHODS, row_of

from lvae_min.config import MOVABLE, Config, with_defaults
from lvae_min.losses import PAPER_ITERATIONS

ROOT = HERE.parent
OTHERS = {  # measurements of other machines that are shown, too
    "bench-epyc": ("step", "means", "grid", "overhead"),
    "bench-xeon": ("means", "grid"),
}
DEFAULT = DATA / "dsprites-lvae"  # the run of README's first command, and what it printed
NO_OUTPUT = "(output of the default run is filled in by figures/readme.py)"
NO_PAIRS = "No beta-VAE was trained with a learned beta yet; `python figures/table3.py` says what would."
SHORT = Config().iterations  # of a default run on dSprites
HEADLINE = ("rec_mean", "beta_vae", "mig")  # README's scores
PARTS = {  # each block about seeds, and how the part of the study begins that makes its runs
    "last": "Seeds",
    "rivals": "Seeds",
    "variance": "Seeds",
    "rate": "Rate",
    "short": "Short against long",
    "betas": "Fig. 2",
    "learned": "Table 3",
    "selected": "Seeds",
    "best": "Seeds",
}
FOLDED = ("rate", "short", "selected", "best")
MEANING = {  # of the columns of each measurement
    "loss": "microseconds of the loss and its gradients. Twin: the plain version in PyTorch. Compiled twin: "
    "the same through `torch.compile`. Fused: the operator of `csrc/`. Op alone: the same without "
    "autograd. Sigmoid: that of the logits, alone. Memory floor: a copy of logits and pixels.",
    "step": "one iteration. From, to: the ratio in three pairs of processes, of which the row is the median; "
    "a table without this column is of one pair. GFLOP/s: of the network's products in float32. Peak: the "
    "rate of a product of two matrices of 1024 x 1024.",
    "parts": "medians of each part, measured one after the other.",
    "means": "an iteration of 64 images with all means, and without one of them.",
    "grid": "one run on all threads, against a run on each thread at the same time.",
    "data": "batches of 64. Resident: the memory that a set takes. Step: the iteration that uses the batch. "
    "Sets that have to be downloaded are replaced by files of zeros.",
    "evaluation": "one encodes and scores 10,000 images; with `--paper` it follows 10,000 iterations.",
    "scores": "on one thread, five factors.",
    "start": "seconds from the command to the first iteration.",
    "overhead": "what a run does outside its iterations. Before commit f7ebc35 the evaluation of the test "
    "images was part of the rest.",
}
# Before the column GFLOP was there.
DENSE = (
    " Of the MLP the first layer is counted as if dense, in the rates and shares of all its rows: with 64 "
    "images 4.3 GFLOP, of which 3.0 are done."
)
FIRST, LAST = 3, 6  # lines of a run's output that are shown


def measurements(file: Path, only: tuple = ()) -> str:
    """What bench found, a table a measurement, with the machine it ran on."""
    found = json.loads(file.read_text())
    lines = [
        f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}, "
        f"commit {found['commit']}" + (f"; {found['seconds']} s in all." if "seconds" in found else ".")
    ]
    for name, rows in found.items():
        if isinstance(rows, list) and rows and name != "growth" and (not only or name in only):
            dense = DENSE if name == "step" and "GFLOP" not in rows[0] else ""
            note = f"`python -m bench {name}`: {MEANING[name]}{dense}"
            cells = [[cell(value) for value in row.values()] for row in rows]
            lines += ["", note, "", *markdown(list(rows[0]), cells, "--:")]
    return "\n".join(lines)


def trials(file: Path) -> str:
    """What else was tried on a CPU, as bench/trials.py measured it."""
    found = json.loads(file.read_text())
    rows = [[cell(value) for value in row.values()] for row in found["rows"]]
    made = f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}"
    return "\n".join([*markdown(list(found["rows"][0]), rows), "", f"{made}, commit {found['commit']}."])


def cell(value) -> str:
    """A number with what digits a reader needs."""
    digits = 0 if isinstance(value, float) and abs(value) >= 1000 else 2
    return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)


def speed(file: Path) -> str:
    """README's table: one iteration beside that of stock PyTorch."""
    found = json.loads(file.read_text())
    rows = [
        [f"{row['network']}, batch {row['batch']}", f"{row['ours, ms']:.0f} ms", f"{row['stock, ms']:.0f} ms"]
        + [f"{row['stock / ours']:.1f}"]
        for row in found["step"]
        if row["batch"] in (64, 256)
    ]
    other = json.loads((DATA / "bench-epyc.json").read_text())
    ratios = [f"{row['stock / ours']:.1f}" for row in other["step"] if row["batch"] in (64, 256)]
    machine = f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}"
    table = markdown(["one iteration", "ours", "stock PyTorch", "stock / ours"], rows)
    others = f"On an {other['device']} stock / ours is {', '.join(ratios[:-1])} and {ratios[-1]}."
    return "\n".join([*table, "", f"{machine}, commit {found['commit']}. {others}"])


def precisions(runs: list[Finished]) -> str:
    """Scores of each run in bf16 beside those of the run in float32 that is the same in all else."""
    heads = ["method", "iterations", "seed", "precision", "beta", "KL", *table2.TITLES.values()]
    rows, made = [], []
    for rounded in (run for run in runs if precision(run) == "bf16"):
        for run in runs:
            if run is rounded or alike(run) == alike(rounded):
                cells = [run["model"], f"{run['iterations']:,}", str(run["seed"]), precision(run)]
                rows.append(cells + [spread([run.scores[name]]) for name in ("beta", "kl", *COLUMNS)])
                made.append(run)
    return (
        "\n".join([*markdown(heads, rows), "", f"{provenance(made)}."])
        if made
        else "No run in bf16 was kept."
    )


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


def of_seeds(rows: list[dict]) -> dict[str, str]:
    """The blocks about seeds; where there are no runs for one, a sentence says what makes them.

    They are of dSprites at the default; "rate", "short" and "learned" compare it with other settings.
    """
    dsprites = [row for row in rows if row["dataset"] == "dsprites"]
    short = [row for row in dsprites if row["precision"] == "float32" and not row["paper"]]
    found = seeds.text([row for row in dsprites if pool.is_default(row)])
    found |= {name: some for name, some in seeds.text(short).items() if name in ("rate", "short", "learned")}
    empty = {name: f"No such runs yet. {making(part)}" for name, part in PARTS.items()}
    blocks = {name: found[name] or empty[name] for name in PARTS}
    return {f"seeds {name}": folded(block) if name in FOLDED else block for name, block in blocks.items()}


def of_arm3d(rows: list[dict]) -> str:
    """The means of its methods, whatever the settings."""
    found = seeds.networks([row for row in rows if row["dataset"] == "arm3d"], "last")
    return found or f"No such runs yet. {making('Another data set')}"


def making(part: str) -> str:
    """The command that makes the runs of a part of the study, in a sentence."""
    title = next(some.title for some in study.PARTS if some.title.startswith(part))
    return f'`python figures/study.py` makes them, in its part "{title}".'


def folded(block: str) -> str:
    """Tables that open at a click, under the heading of the first."""
    heading = re.match(r"\*\*(.*)\*\*", block)
    if not heading:
        return block
    rest = block[heading.end() :].strip()
    return f"<details>\n<summary>{heading[1]}</summary>\n\n{rest}\n\n</details>"


def headline(rows: list[dict]) -> str:
    """README's table: full length beside the paper, and the seeds of the default."""
    default = [row for row in rows if pool.is_default(row) and row["dataset"] == "dsprites"]
    methods = next(iter(pool.groups(default).values()), {})
    long, titles = list(claims.complete(full.more_runs()).values()), {}
    for method, title in METHODS.items():
        names = [name for name in {**methods, **long[0]} if name.split(",")[0] == title]
        titles |= {name: method for name in sorted(names)}
    heads, lines = ["method"], []
    for score in HEADLINE:
        heads += [f"{table2.TITLES[score]}, {PAPER_ITERATIONS:,}", f"{table2.TITLES[score]}, {SHORT:,}"]
    counts = {len(methods.get(title, [])) for title in titles}
    for title, method in titles.items():
        runs, cells = methods.get(title, []), [title]
        beta = float(title.split("beta ")[1]) if method == "beta-vae" else None
        printed = row_of("dsprites", method, beta)
        for score in HEADLINE:
            once = ", ".join(f"{rows[title][score]:.2f}" for rows in long if title in rows) or "-"
            paper = f" ({printed[score]:.2f})" if printed else ""
            cells += [once + paper, spread(pool.values(runs, score)) if runs else ""]
        lines.append([*cells, *[str(len(runs))] * (len(counts) > 1)])
    over = f"{counts.pop()} seeds" if len(counts) == 1 else "the seeds"
    heads += ["seeds"] * (over == "the seeds")
    note = (
        f"The last network, on test images. {PAPER_ITERATIONS:,}: one number a seed; in brackets the paper's "
        "Table 2; a dash where we have no run. There the learning rate of seed 0 rises along a cosine, that "
        f"of the other seed along a line. {SHORT:,}: mean ± sample standard deviation over {over}. "
        f"{full.origins(full.more_runs())} {SHORT:,} iterations: "
    )
    made = pool.made(methods, warnings=False) if methods else "no run yet."
    return "\n".join([*markdown(heads, lines), "", note + made])


def output(runs: list[Finished]) -> str:
    """What README's first command printed: its first and last lines, and where that was."""
    run = next((run for run in runs if run.folder == DEFAULT), None)
    if run is None or not (DEFAULT / "output.txt").exists():
        return NO_OUTPUT
    lines = (DEFAULT / "output.txt").read_text().rstrip().splitlines()
    if len(lines) > FIRST + LAST:
        lines = [*lines[:FIRST], "...", *lines[-LAST:]]
    return "\n".join(["```text", *lines, "```", "", f"{provenance([run])}."])


def picture() -> str:
    """README's first picture, animated if that was made."""
    name = next(name for name in ("gif", "png") if (HERE / f"lvae-traversal.{name}").exists())
    return f"![Each panel moves one latent of an L-VAE trained on dSprites](figures/lvae-traversal.{name})"


def digits() -> str:
    """The script of docs/digits.py as it stands."""
    return f"```python\n{(HERE.parent / 'docs' / 'digits.py').read_text().strip()}\n```"


def explore() -> str:
    """The screenshot of the explore page, if it was made."""
    there = (HERE / "explore.png").exists()
    return (
        "![The explore page: an image, its reconstruction, and a slider for each latent](figures/explore.png)"
        if there
        else ""
    )


def texts() -> dict[str, str]:
    """The content of each block by its name."""
    runs = read(DATA)
    exact = [run for run in runs if precision(run) == "float32"]
    kept = keep.rows(keep.TABLE)
    pairs = [(run, other) for run, other in table3.pairs(exact) if other is not None]
    return {
        "picture": picture(),
        "output": output(exact),
        "explore": explore(),
        "digits": digits(),
        "own images": own.text(),
        "study": headline(kept),
        "speed": f"{speed(DATA / 'bench.json')} {gpu.speed(gpu.read())}",
        "full length": full.text(full.full_length()),
        "stopped": stopped.text(full.complete_runs(), stopped.logs()),
        "foretell": foretell.text(kept),
        **speedrun.texts(),
        "sigma": sigma.text(json.loads(sigma.FILE.read_text())),
        "claims": claims.text(kept),
        **of_seeds(kept),
        "arm3d": of_arm3d(kept),
        "rate": rate.text(rate.all_runs(None)),
        "table 3": table3.text(pairs) if pairs else NO_PAIRS,
        "results": table2.markdown(table2.groups(exact)),
        "scoring": scoring.text(json.loads((DATA / "scoring.json").read_text())),
        "fixed point": fixed_point.text([run for run in exact if run["model"] == "lvae"]),
        "collapse": collapse(DATA / "collapse.json"),
        **gpu.texts(),
        "bench": measurements(DATA / "bench.json"),
        "trials": trials(DATA / "trials.json"),
        "bench of another": measurements(DATA / "bench-epyc.json", OTHERS["bench-epyc"]),
        "bench of a third": measurements(DATA / "bench-xeon.json", OTHERS["bench-xeon"]),
        "bf16": precisions(runs),
    }


def fill(pages: dict[Path, str], blocks: dict[str, str]) -> dict[Path, str]:
    """The pages with these blocks in their places. Raises ValueError for one without a page or a text."""
    filled, unused = {}, set(blocks)
    for page, text in pages.items():
        starts = re.findall(r"<!-- (?!end of )([a-z0-9 ]+) -->", text)
        for name in re.findall(r"<!-- end of ([a-z0-9 ]+) -->", text):
            if name not in starts:
                raise ValueError(f"{page.name}: end of {name} has no start, <!-- {name} -->")
            if name not in blocks:
                raise ValueError(f"{page.name}: nothing fills its block {name}")
            before, start, rest = text.partition(f"<!-- {name} -->")
            after = rest.partition(f"<!-- end of {name} -->")[2]
            content = f"{blocks[name]}\n" if blocks[name] else ""
            text = f"{before}{start}\n{content}<!-- end of {name} -->{after}"
            unused.discard(name)
        filled[page] = text
    if unused:
        raise ValueError(f"no page has a place for the block {min(unused)}")
    return filled


def main() -> None:
    runs = [run for run in read(DATA) if run["model"] == "lvae" and precision(run) == "float32"]
    save(fig3.picture(runs), "fig3.png", DATA)
    save(cost.picture(cost.measured(DATA / "bench.json")), "cost.png", DATA)
    save(rate.picture(rate.all_runs(None)), "rate.png", DATA)
    logs = full.full_length()
    save(full.picture(logs), "full.png", DATA)
    default = [row for row in keep.rows(keep.TABLE) if pool.is_default(row) and row["dataset"] == "dsprites"]
    for name, figure in seeds.pictures(default).items():
        save(figure, name, DATA)
    save(full.scales(logs["lvae"]), "fig3-full.png", DATA)
    save(full.over_seeds(full.complete_runs()), "full-seeds.png", DATA)
    pages = {page: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    for page, text in fill(pages, texts()).items():
        if text != pages[page]:
            page.write_text(text)
            print(f"written: {page}")


if __name__ == "__main__":
    script(main)
