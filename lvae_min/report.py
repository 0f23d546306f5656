"""What a run prints: progress and tables of scores; and the provenance of its numbers."""

import platform
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from threading import Lock

from tqdm import tqdm

from lvae_min.io.atomic import naming

STDOUT = "stdout"  # as errors name it

SCORES = {
    "beta_vae": "beta-VAE",
    "factor_vae": "FactorVAE",
    "explicitness": "Explicitness",
    "irs": "IRS",
    "mig": "MIG",
    "sap": "SAP",
}  # as Table 2 heads them
TERMS = {"rec": "rec", "kl": "kl", "beta": "beta"}
REGRESSION = {"sap": "SAP (regression)"}  # where SAP by classification stands nearby
# The columns of a finished run: as the paper's Table 2 first, rec of z = mu and SAP by classification.
COLUMNS = {
    "rec_mean": "rec (z = mu)",
    "rec": "rec (sampled z)",
    "kl": "kl",
    "beta": "beta",
    **{name: title for name, title in SCORES.items() if name != "sap"},
    "sap_classification": "SAP",
    "sap": "SAP (regression)",
}
PRINT_EVERY = 1000  # iterations between lines where there is no terminal
GRID_SECONDS = 60  # between lines of a grid


def numbers(values: dict[str, float], names: dict[str, str]) -> str:
    return "  ".join(f"{title} {values[name]:.4g}" for name, title in names.items() if name in values)


def duration(seconds: float) -> str:
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def say(text: str) -> None:
    """Print whole lines: runs may share a terminal, and a bar may be on it. An OSError names stdout."""
    with naming(STDOUT):
        if sys.stdout.isatty():
            tqdm.write(text)
        else:
            sys.stdout.write(text + "\n")  # print() writes the newline separately
            sys.stdout.flush()


def new_bar(name: str, total: int, done: int = 0, **place) -> tqdm | None:
    if sys.stdout.isatty():
        return tqdm(
            total=total,
            initial=done,
            desc=name,
            unit="it",
            file=sys.stdout,
            dynamic_ncols=True,
            mininterval=0.5,
            **place,
        )
    return None


class Grid:
    """Several runs as one: how many are done, and how much time is left for all of them."""

    def __init__(self, runs: int, iterations: int, name: str = "grid"):
        self.name, self.runs, self.iterations, self.began = name, runs, iterations, time.monotonic()
        self.ended, self.failed, self.trained, self.printed_at = 0, 0, 0, time.monotonic()
        self.reached: Counter[str] = Counter()  # iterations of a run
        self.places: list[int] = []  # lines of the terminal in use
        self.lock = Lock()
        self.bar = new_bar(name, iterations, position=0)

    def place(self) -> int:
        """A line on the terminal for the bar of a run, under that of the grid."""
        with self.lock:
            place = next(number for number in range(1, self.runs + 2) if number not in self.places)
            self.places.append(place)
        return place

    def leave(self, place: int) -> None:
        with self.lock:
            self.places.remove(place)

    def advance(self, run: str, iterations: int, trained: bool = True) -> None:
        """Count iterations of a run, whether trained now or before."""
        with self.lock:
            self.reached[run] += iterations
            self.trained += iterations * trained
            if self.bar is not None:
                self.bar.update(iterations)
            due = time.monotonic() - self.printed_at > GRID_SECONDS
        if due:
            self.print_status()

    def end(self, run: str, iterations: int, failed: bool = False) -> None:
        """Count a run of so many iterations as done; those that a failed run did not reach are taken off."""
        with self.lock:
            self.ended, self.failed = self.ended + 1, self.failed + failed
            if failed:
                self.iterations -= iterations - self.reached[run]
                if self.bar is not None:
                    self.bar.total = self.iterations
        with suppress(OSError):  # of stdout: the next line of a run reports it
            self.print_status()

    def print_status(self) -> None:
        """Print a line, or update the text of the progress bar."""
        failed = f", {self.failed} failed" if self.failed else ""
        text = f"{self.ended} of {self.runs} runs done{failed}"
        self.printed_at = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif self.trained:
            rate = self.trained / max(time.monotonic() - self.began, 1e-3)
            done = self.reached.total()
            say(
                f"{self.name}: {text}, {done / self.iterations:.0%} of all iterations, "
                f"{duration((self.iterations - done) / rate)} left"
            )
        else:
            say(f"{self.name}: {text}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Progress:
    """A bar with rate, time left and the live rec, kl and beta; plain lines where stdout is no terminal."""

    def __init__(self, name: str, total: int, done: int, grid: Grid | None = None, quiet: bool = False):
        self.quiet = quiet
        self.name, self.total, self.start, self.began = name, total, done, time.monotonic()
        self.step, self.grid = done, grid
        self.place = 0 if grid is None else grid.place()
        self.bar = None if quiet else new_bar(name, total, done, position=self.place, leave=grid is None)
        if grid is not None:
            grid.advance(name, done, trained=False)

    def show(self, record: dict) -> None:
        """Show a line of the log."""
        step, collapsed = record["step"], "  COLLAPSED (kl < 0.1)" * record["collapsed"]
        if self.bar is not None:
            self.bar.set_postfix_str(numbers(record, TERMS) + collapsed, refresh=False)
            self.bar.update(step - self.bar.n)
        elif not self.quiet and (step % PRINT_EVERY == 0 or step == self.total):
            rate = (step - self.start) / max(time.monotonic() - self.began, 1e-3)
            say(
                f"{self.name}  step {step}  loss {record['loss']:.4g}  {numbers(record, TERMS)}  "
                f"{rate:.1f} it/s  {duration((self.total - step) / rate)} left{collapsed}"
            )
        if self.grid is not None:
            self.grid.advance(self.name, step - self.step)
        self.step = step

    def validation(self, step: int, scores: dict[str, float]) -> None:
        if not self.quiet:
            say(f"{self.name}  validation at {step}: {numbers(scores, TERMS | SCORES | REGRESSION)}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.grid is not None:
            self.grid.leave(self.place)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Scores of named networks as lines of a table, in the order of Table 2."""
    names = [name for name in COLUMNS if any(name in scores for scores in rows.values())]
    cells = [["", *(COLUMNS[name] for name in names)]]
    for title, scores in rows.items():
        cells.append(
            [
                title,
                *(
                    f"{scores[name]:.{2 if name in ('rec', 'rec_mean', 'kl') else 3}f}"
                    if name in scores
                    else ""
                    for name in names
                ),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def commit() -> str | None:
    """Commit of the checkout this code runs from, with a + if files were changed; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device) -> dict:
    """Where a number was made: commit, versions, and the name of a torch.device."""
    import torch  # not above: it takes a second, and pictures are drawn without it

    packages = {name: metadata.version(name) for name in ("torch", "numpy", "scikit-learn")}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"commit": commit(), "versions": {"python": platform.python_version(), **packages}, "device": name}
