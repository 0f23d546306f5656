"""The command, `python run.py` or `python -m lvae_min`: train one run or a grid, score and draw each."""

import argparse
import dataclasses
import itertools
import math
import os
import shlex
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock

import torch

from lvae_min import data, report
from lvae_min.config import MOVABLE, Config
from lvae_min.io.text import Parser, one_line
from lvae_min.losses import OBJECTIVES, DynamicVAE
from lvae_min.report import Grid
from lvae_min.step import bf16_speed
from lvae_min.train import (
    COLLAPSED,
    Run,
    compare_images,
    cores,
    finished,
    pick_device,
    unlearned,
)
from lvae_min.workers import AT_ONCE, AtOnce, Workers

CALLED = "python run.py"
MANUAL = """Train L-VAE or one of its five rivals, select a checkpoint, score it and draw it.

    {command} --dataset dsprites --model lvae                      10,000 iterations, minutes
    {command} --dataset dsprites --model lvae --paper              the paper's 300,000 (Sec. 6.3), hours
    {command} --model lvae --paper --iterations 50000              the first 50,000 of them
    {command} --model vae lvae --seed 0 1 2 --jobs 2               a grid of six runs, two at once
    torchrun --nproc-per-node 8 {launched} --model vae lvae --seed 0 1 2   the same, shared by eight processes

A run is a folder under --out, named by the settings that differ from the defaults. The same command continues
a run that was stopped, and skips one that is finished. It holds results.json, log.jsonl, best.pt (for
lvae_min.load) and the pictures curves.png, reconstructions.png, traversal.png and traversal.gif.
"""
MISTAKES = (ValueError, OSError, FloatingPointError, MemoryError, torch.OutOfMemoryError)  # one line each
MOST_RUNS = 10_000  # of a grid
SHORT_TURN = 5e-5  # seconds, of a thread that others wait for
RANK, WORLD, LOCAL_RANK, LOCAL_WORLD = (  # as torchrun numbers its processes
    int(os.environ.get(name, default))
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
)


LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun


def named(called: str) -> str:
    """The command's name before its error messages: run.py, or python -m lvae_min."""
    return called.removeprefix("python ") if called.endswith(".py") else called


def parse(arguments: list[str], called: str = CALLED) -> tuple[list[Config], argparse.Namespace]:
    """The runs asked for, and the other flags: out, data, jobs; `called` is how the command was started."""
    manual = MANUAL.format(command=called, launched=called.removeprefix("python "))
    parser = Parser(prog=named(called), description=manual)
    for field in dataclasses.fields(Config):
        kind = next((kind for kind in (int, float) if field.type in (kind, kind | None)), str)
        default = "" if field.default is None else f" (default: {field.default})"
        flag = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            parser.add_argument(
                flag, action="store_const", const=[True], default=[False], help=field.metadata["help"]
            )
            continue
        several = 1 if field.name in MOVABLE else "+"
        parser.add_argument(
            flag,
            type=kind,
            nargs=several,
            default=[field.default],
            metavar=field.name.upper(),
            help=field.metadata["help"] + default,
        )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of archives and prepared sets (default: data)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs at once, in one process (default: 1); on a "
        "CPU as many as it has cores are fastest, on one thread each",
    )
    given = parser.parse_args(arguments)
    if not 1 <= given.jobs <= 1024:
        raise ValueError(f"--jobs {given.jobs}: expected 1 to 1024")
    names = [field.name for field in dataclasses.fields(Config)]
    runs = math.prod(len(getattr(given, name)) for name in names)
    if runs > MOST_RUNS:
        raise ValueError(f"a grid of {runs:,} runs: expected at most {MOST_RUNS:,}; give fewer values a flag")
    configs = [
        Config(**dict(zip(names, values, strict=True)))
        for values in itertools.product(*(getattr(given, name) for name in names))
    ]
    return list(dict.fromkeys(configs)), given


def summary(results: dict) -> str:
    """What a finished run found, as a few lines."""
    selected, settled, last = results["selected"], results["equilibrium"], results.get("last")
    names = {
        f"validation {name}": f"the best validation {title} score" for name, title in report.SCORES.items()
    }
    by = names.get(selected["by"], selected["by"])
    scored = {**results["scores"], "rec_mean": results["rec_mean"]}
    rows = {f"iteration {selected['iteration']:,}": scored}
    if last and last["iteration"] != selected["iteration"]:
        rows = {f"selected, {title}": row for title, row in rows.items()}
        rows[f"last, iteration {last['iteration']:,}"] = last
    lines = [
        report.table(rows),
        f"scores of {results['images']:,} test images, factors in {results['bins']} bins; network: {by}; "
        f"{results['seconds'] / 60:.1f} min",
    ]
    if last and (warning := unlearned(results["scores"]["kl"], last["kl"])):
        lines.append(warning)
    if settled:
        residuals = ", ".join(
            f"{name}^4 / {term} - 1 = {value:+.3f}"
            for term, (name, value) in zip(("rec", "kl"), settled["residuals"].items(), strict=True)
        )
        lines.append(
            f"fixed point of Eq. 5: {residuals}"
            + (" (the schedule was cut short: a transient)" if settled["transient"] else "")
        )
    if results["collapsed"]:
        rose = results["scores"]["kl"] >= COLLAPSED
        lines.append(
            f"COLLAPSED: kl stayed below {COLLAPSED} nats for 1,000 iterations"
            f"{', and rose later' * rose}; {remedy(results['settings'], rose)}"
        )
    elif (kl := (last or results["scores"])["kl"]) < COLLAPSED:
        lines.append(
            f"kl ends at {kl:.2g} nats: the latents hold almost nothing of an image. If more --iterations do "
            f"not help, it has collapsed: {remedy(results['settings'], False)}"
        )
    return "\n".join(lines)


def remedy(settings: dict, rose: bool) -> str:
    """Advice after a collapse; `rose`: kl has risen again since."""
    method = OBJECTIVES[settings["model"]]
    if method.has_scales and settings["sigma_freeze"] < 0.5:
        return "try --sigma-freeze 0.5, which holds sigma at 1 until kl has risen"
    if method is DynamicVAE:
        first = settings.get("beta_start")
        first = method.controls["beta_start"] if first is None else first
        cause = f"its beta, {first:g} at the start, does that until it has come down"
        return cause if rose else f"{cause}: try more --iterations"
    return "try a lower --beta" if method.has_beta else "try another --seed"


def describe_error(error: Exception, folder: Path) -> str:
    """What went wrong with a run, in one line: what, where, what to do."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return (
            f"{folder}: not enough memory ({one_line(error)[:120]}); "
            "try a smaller --batch-size or fewer --jobs"
        )
    if not isinstance(error, MISTAKES):
        return f"{folder}: internal error, see the traceback above ({type(error).__name__})"
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would fail again when it flushes at exit
        return f"{folder}: stopped, since its output pipe was closed; the same command continues the run"
    if not isinstance(error, OSError) or error.errno is None:
        return one_line(error)
    if isinstance(error, FileNotFoundError) and not os.path.exists(folder):
        return f"{folder}: was removed while the run worked in it; the same command starts it again"
    return (
        f"{error.filename or folder}: {error.strerror}; existing files are intact; once this is fixed, "
        "the same command continues the run"
    )


class Runs:
    """The runs of this process, one after another or `jobs` at a time, on one copy of the data."""

    def __init__(
        self, configs: list[Config], given: argparse.Namespace, stop: Event, program: str = "run.py"
    ):
        self.configs, self.given, self.stop, self.program = configs, given, stop, program
        self.jobs = max(min(given.jobs, len(configs)), 1)
        self.threads = max(cores() // (self.jobs * LOCAL_WORLD), 1)  # of each run
        self.grid = None
        if len(configs) > 1:
            self.grid = Grid(
                len(configs),
                sum(config.iterations for config in configs),
                f"grid, rank {RANK}" if WORLD > 1 else "grid",
            )
        self.names = {config: config.name for config in configs}  # of images that may be gone later
        self.datasets: dict[str, data.Dataset] = {}
        self.failures: list[str] = []
        self.loading = Lock()
        self.gpu = torch.cuda.is_available() and any(config.device != "cpu" for config in configs)
        self.call: AtOnce = AT_ONCE  # of functions that score and draw

    def dataset(self, name: str, device: torch.device) -> data.Dataset:
        with self.loading:  # once for all runs
            if name not in self.datasets:
                self.datasets[name] = data.load(name, self.given.data)
            return self.datasets[name].to(device)

    def train(self, config: Config, folder: Path) -> dict | None:
        """Train, score and draw a run; its results, or None if it was stopped before its end."""
        device = pick_device(config.device, LOCAL_RANK)
        dataset = self.dataset(config.dataset, device)
        run = Run(dataclasses.replace(config, device=str(device)), folder, dataset, self.threads, self.call)
        try:
            begins = "continued at" if run.iteration else "starts at"
            report.say(
                f"{folder}: {begins} iteration {run.iteration} of {config.iterations}, "
                f"{len(dataset)} images ({dataset.source}), {run.step.description}, {run.device}, "
                f"{run.threads} threads" + self.about_bf16(run)
            )
            for note in run.notes if not run.iteration else []:
                report.say(f"{folder}: {note}")
            return run.finish() if run.train(self.stop, self.grid) else None
        finally:
            run.close()

    def about_bf16(self, run: Run) -> str:
        """The speed of bf16 on this CPU, as a note: some CPUs gain nothing."""
        if run.config.precision != "bf16" or run.device.type != "cpu":
            return ""
        return f"; products in bf16 are {bf16_speed():.1f} times as fast as in float32"

    def run_one(self, config: Config) -> None:
        """Carry out a run unless it is finished already, and print its results."""
        folder = self.given.out / self.names[config]
        if self.stop.is_set():
            return
        try:
            results = finished(config, folder)
            if results is not None:
                compare_images(config, folder, results, self.given.data)
                report.say(f"{folder}: finished before\n{summary(results)}")
                if self.grid:
                    self.grid.advance(self.names[config], config.iterations, trained=False)
            else:
                results = self.train(config, folder)
                if results is None:
                    return report.say(f"{folder}: stopped")
                report.say(f"{folder}: finished\n{summary(results)}")
        except Exception as error:  # of any kind: the other runs continue
            if not isinstance(error, MISTAKES) and "allocate memory" not in str(error):
                traceback.print_exc()
            reason = describe_error(error, folder)
            if self.grid:
                reason = reason if str(folder) in reason else f"{folder}: {reason}"
                report.say(f"FAILED, the others continue: {reason}")
                self.grid.end(self.names[config], config.iterations, failed=True)
            self.failures.append(reason)
            return
        if self.grid:
            self.grid.end(self.names[config], config.iterations)

    @contextmanager
    def sharing(self):
        """A context in which runs at once hold each other up as little as may be.

        On a GPU an iteration is done in less than the 5 ms for which a thread may keep the interpreter, and
        scores and pictures are made by other processes; on a CPU these would take its cores from the runs.
        """
        if not self.gpu:
            yield
            return
        before, made = sys.getswitchinterval(), Workers(min(self.jobs, max(cores() // 2, 1)))
        self.call = made
        made.warm_up()
        sys.setswitchinterval(SHORT_TURN)
        try:
            yield
        finally:
            sys.setswitchinterval(before)
            self.call = AT_ONCE
            made.close()

    def run_all(self) -> int:
        """Carry out all runs; the exit code: 0, 2 if a run failed, 130 if they were stopped.

        Under torchrun the code is 0 even if a run failed: any other would end all other processes.
        """
        if self.jobs == 1:
            for config in self.configs:
                self.run_one(config)
        else:
            with self.sharing(), ThreadPoolExecutor(self.jobs) as pool:
                list(pool.map(self.run_one, self.configs))
        if self.grid:
            self.grid.close()
        for failure in self.failures:
            print(f"{self.program}: {one_line(failure)}", file=sys.stderr)
        return 130 if self.stop.is_set() else 2 if self.failures and not LAUNCHED else 0


def stop_on_signals() -> Event:
    """An event that Ctrl-C and SIGTERM set from now on; the second signal ends the process at once."""
    stop = Event()

    def on_signal(number, _):
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def main(arguments: list[str], called: str) -> int:
    configs, given = parse(arguments, called)
    stop = stop_on_signals()
    code = Runs(configs[RANK::WORLD], given, stop, named(called)).run_all()
    if code == 130:
        again = f"continue with\n    {called} {shlex.join(arguments)}"
        print("stopped; " + ("the same command continues" if LAUNCHED else again), flush=True)
    return code


def command(arguments: list[str], called: str = CALLED) -> int:
    """Carry out a command line; the exit code. A user's mistake is one line of error message, and code 2."""
    try:
        return main(arguments, called)
    except MISTAKES as error:
        print(f"{named(called)}: {one_line(error) or type(error).__name__}", file=sys.stderr)
        return 2
