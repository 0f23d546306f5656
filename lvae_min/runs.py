"""The runs of a command, one after another or several at once: results and errors, in words."""

import argparse
import dataclasses
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock

import torch

from lvae_min import data, report
from lvae_min.config import Config
from lvae_min.io import text
from lvae_min.io.checkpoints import out_of_memory
from lvae_min.io.text import one_line
from lvae_min.launch import LAUNCHED, LOCAL_RANK, LOCAL_WORLD, RANK, WORLD
from lvae_min.losses import OBJECTIVES, DynamicVAE
from lvae_min.report import Grid
from lvae_min.step import bf16_speed
from lvae_min.stored import compare_images, finished
from lvae_min.train import COLLAPSED, Run, cores, pick_device, unlearned
from lvae_min.workers import AT_ONCE, AtOnce, Workers

MISTAKES = (*text.MISTAKES, torch.OutOfMemoryError)  # one line each
SHORT_TURN = 5e-5  # seconds, of a thread that others wait for


def summary(results: dict) -> str:
    """What a finished run found, as a few lines."""
    selected, settled, last = results["selected"], results["equilibrium"], results.get("last")
    names = {
        f"validation {name}": f"the best validation {title} score"
        for name, title in (report.SCORES | report.REGRESSION).items()
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
            f"{name}^4 / {term} - 1 = {settled['residuals'][name]:+.3f}"
            for term, name in (("rec", "sigma_0"), ("kl", "sigma_1"))
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


def describe_error(error: Exception, folder: Path, jobs: int = 1) -> str:
    """What went wrong with a run, one of `jobs` at once, in one line: what, where, what to do."""
    if out_of_memory(error):
        fewer = "continue with fewer --jobs, or " * (jobs > 1)
        return (
            f"{folder}: not enough memory ({one_line(error)[:120]}); "
            f"{fewer}start again with a smaller --batch-size or fewer --latents"
        )
    if not isinstance(error, MISTAKES):
        return f"{folder}: internal error, see the traceback above ({type(error).__name__})"
    if isinstance(error, BrokenPipeError):
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
        self.stopped = False  # before all runs were finished
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
            self.stopped = True
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
                    self.stopped = True
                    return report.say(f"{folder}: stopped")
                report.say(f"{folder}: finished\n{summary(results)}")
        except Exception as error:  # of any kind: the other runs continue
            if not isinstance(error, MISTAKES) and not out_of_memory(error):
                traceback.print_exc()
            if getattr(error, "filename", None) == report.STDOUT:
                text.drop_output()
                if self.grid:
                    print(f"{self.program}: no more output: stdout cannot be written to", file=sys.stderr)
            reason = describe_error(error, folder, self.jobs)
            if self.grid and str(folder) not in reason:
                reason = f"{folder}: {reason}"
            self.failures.append(reason)
            if self.grid:
                with suppress(OSError):  # it may be stdout that cannot be written to
                    report.say(f"FAILED, the others continue: {reason}")
                self.grid.end(self.names[config], config.iterations, failed=True)
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
        # Two for each run, which scores and draws at once; a quarter of the cores is left to the runs.
        count = min(2 * self.jobs, max(cores() * 3 // (4 * LOCAL_WORLD), 1))
        before, made = sys.getswitchinterval(), Workers(count)
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
        return 130 if self.stop.is_set() and self.stopped else 2 if self.failures and not LAUNCHED else 0
