"""One run: the training loop of Sec. 6.3, checkpoints, and the selection of Sec. 6.5.

A run is a folder. It holds `config.json`, `log.jsonl`, `last.pt` (to continue from), `best.pt` (the network
that the validation score selected), `results.json` once it is finished, and pictures. Everything random in it
comes from its seed, so that a run that was stopped and continued equals one that never was, to the bit.
"""

import dataclasses
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import numpy as np
import torch
from torch import nn

import lvae_min.data
from lvae_min import evaluation, latents, metrics, workers
from lvae_min.config import Config, evaluation_interval
from lvae_min.data import SCORED, Dataset, Split
from lvae_min.io import records
from lvae_min.io.atomic import Claim, naming, write_whole
from lvae_min.io.checkpoints import check_tensors, is_machines, load_checkpoint, save
from lvae_min.io.text import brief, one_line
from lvae_min.model import VAE, layers
from lvae_min.report import SCORES, Grid, Progress, machine
from lvae_min.step import Step, thread_settings_kept
from lvae_min.stored import OTHER_IMAGES, compare_images, differences, finished, refuse, same_content

LOG_EVERY = 100  # iterations a line of log.jsonl speaks for
SAVE_SECONDS = 300  # a killed run loses at most this
EVALUATED_SECONDS = 30  # an evaluation saves, too, this long after the last checkpoint or the start
RECONSTRUCTED = 2_000  # of the validation images: rec takes longer than the codes and all scores
DRAW_SECONDS = 60  # pictures of a running run are not drawn more often
CHOICE = {"iteration": records.whole, "score": records.number}  # older ones have no kl
BEST = {"vae": {}, "beta": records.finite, **CHOICE}
STATE = {
    "iteration": records.count,
    "counted": records.count,
    "log_bytes": records.count,
    "faint": records.count,
    "seconds": records.finite,
    "best": CHOICE,
    "vae": {},
    "objective": {},
    "optimizer": {"state": {}},
}
ONE_FACTOR = ("beta_vae", "factor_vae")  # scores that are 0 where there is one factor
COLLAPSED = 0.1  # nats: a KL below it for 1,000 iterations is a collapse


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unlearned(selected: float, last: float) -> str:
    """A warning if the KL of the selected network is below half of the last one's; empty if it is not."""
    if not selected < last / 2:
        return ""
    return (
        f"the selected network is an early one: its kl is {selected:.2f} nats, {last:.2f} at the end; "
        "--select last takes the last one"
    )


def pick_device(name: str, turn: int = 0) -> torch.device:
    """The device called `name`; auto is a GPU, or else the CPU, and process `turn` takes GPU `turn`.

    Raises ValueError for a device that is not there.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not a CPU or a GPU of NVIDIA's")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", turn % max(torch.cuda.device_count(), 1))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise ValueError(f"--device {name}: {brief(error)}; expected cpu, cuda or auto") from None
    return device


class Run:
    """A run in `folder`: new, or continued from its last checkpoint.

    threads  CPU threads of a new run for which `config` gives none (default: all cores)
    call     calls the functions that score and draw: here, or `Workers`

    Raises ValueError for settings that the data set does not allow, for a folder that holds something else or
    a run with other settings, and for a damaged checkpoint; nothing in the folder is changed then.
    """

    def __init__(
        self,
        config: Config,
        folder: Path | str,
        dataset: Dataset,
        threads: int | None = None,
        call: workers.AtOnce = workers.AT_ONCE,
    ):
        self.folder, self.call = Path(folder), call
        self.drawn: Callable = lambda: None  # waits for the pictures that are being drawn
        self.tested: tuple[float, Callable] | None = None  # what begin_test gives of the last network
        self.config = dataclasses.replace(config, latents=config.latents or dataset.latents)
        self.device = pick_device(config.device)
        self.threads = config.threads or threads or cores()
        split = Split.of(len(dataset))
        self.validation, self.test = split.validation[:SCORED], split.test[:SCORED]
        self.notes = [*self.config.notes]
        self.unscored = self.why_no_scores(dataset) if dataset.by_folder else ""
        if self.unscored:
            self.notes.append(f"its folders are no factor: {self.unscored}")
            dataset = dataset.without_factors()
        elif dataset.by_folder:
            self.notes.append(f"its {dataset.factor_sizes[0]} folders are its factor")
        self.dataset = dataset
        # Without factors there is no score to select by.
        self.select = config.select if config.select == "rec" or dataset.factor_names else "last"
        self.usual = Config(config.dataset, config.model, config.paper).select
        if self.select in ONE_FACTOR and len(dataset.factor_names) == 1:
            self.notes.append(
                f"the {SCORES[self.select]} score of one factor is 0 by definition and selects nothing: "
                "the last network is taken"
            )
            self.select = "last"
        self.check_factors()
        self.step = Step(self.config, dataset, split.training, self.device, self.threads)
        self.seconds, self.log_bytes, self.faint = 0.0, 0, 0
        self.kept = 0  # the iteration of last.pt
        self.began_at = None  # the commit of the code that began the run
        self.best = {"iteration": 0, "score": -math.inf}
        self.unwritten: dict | None = None  # the selected network, if best.pt is older
        self.lost = 0  # the iteration of best.pt, if that is newer than last.pt
        self.check_folder()
        self.claim = Claim(self.folder)
        try:
            self.check_settings()
            torch.set_num_threads(self.threads)
            if (self.folder / "last.pt").exists():
                with self.advise_removal():
                    self.restore(load_checkpoint(self.folder / "last.pt"))
        except BaseException:
            self.close()
            raise

    def check_factors(self) -> None:
        """Refuse a set without the score to select by, or with too few images for it, before the training."""
        asked, began = self.config.select, (self.folder / "config.json").exists()  # older runs began without
        if not (began or self.dataset.factor_names or asked in (self.usual, self.select)):
            raise ValueError(
                f"--select {asked}: {self.config.dataset} has no factors, so no scores; expected rec or last"
                + (f" ({self.unscored})" if self.unscored else "")
            )
        if reason := self.why_no_scores(self.dataset):
            raise ValueError(f"{self.dataset.name}: {reason}; add images, or leave the factors out")

    def why_no_scores(self, dataset: Dataset) -> str:
        """Why the factors of a set allow no scores of its validation or test images; empty if they do."""
        if dataset.labels is None:
            return ""  # a published grid of factors
        for part, index in (("validation", self.validation), ("test", self.test)):
            codes = np.random.default_rng(0).standard_normal((len(index), 2))
            try:
                metrics.score(dataset.factors(index), codes, quick=True)
            except ValueError as error:
                return f"the {len(index)} {part} images cannot be scored ({one_line(error)[:200]})"
        return ""

    def check_folder(self) -> None:
        """Refuse a folder that holds something else than a run."""
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        strange = sorted(names - {"lock", "config.json.part"})
        if strange and "config.json" not in names:
            raise ValueError(
                f"{self.folder}: holds {strange[0]} and no config.json, so it is not a run; "
                "name another folder with --out"
            )

    def check_settings(self) -> None:
        """Write the settings down in a new run, compare them in one that is there."""
        file = self.folder / "config.json"
        if not file.exists():
            content = {
                "settings": dataclasses.asdict(self.config),
                "elbo": self.step.description,
                "content": self.dataset.content,
                "threads": self.threads,
                **machine(self.device),
            }
            self.began_at = content["commit"]
            return write_whole(file, json.dumps(content, indent=1).encode())
        try:
            stored = records.parse(file.read_bytes())
            records.check(stored, {"settings": {"model": records.text}, "threads": records.whole})
            self.began_at = stored.get("commit")
            records.check(self.began_at, records.commit, "commit")
            other = differences(self.config, stored["settings"])
            if not same_content(stored.get("content"), self.dataset):
                other.append(OTHER_IMAGES)
            self.threads = self.config.threads or stored["threads"]  # as many: the same bits
            if not 1 <= self.threads <= 1024:
                raise ValueError(f"{self.threads} threads")
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{file}: damaged ({brief(error)}); remove the folder {self.folder} to start again"
            ) from None
        refuse(self.folder, other)

    def close(self) -> None:
        """Let other processes have the folder."""
        self.claim.close()

    @property
    def iteration(self) -> int:
        return self.step.iteration

    def state(self) -> dict:
        """All that the rest of the run depends on: plain tensors, numbers and dicts."""
        return {
            **self.step.state(),
            "best": self.best,
            "log_bytes": self.log_bytes,
            "faint": self.faint,
            "seconds": self.seconds,
        }

    def checkpoint(self) -> None:
        """Write best.pt if another network was selected, and last.pt, whose log is on the disk before."""
        if self.unwritten is not None:
            save(self.folder / "best.pt", self.unwritten)
            self.unwritten = None
        with open(self.folder / "log.jsonl", "ab") as log:
            os.fsync(log.fileno())
        save(self.folder / "last.pt", self.state())
        self.kept = self.iteration

    @contextmanager
    def advise_removal(self):
        """Let the error about a damaged file of the run advise to remove its folder."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{error}; remove the folder {self.folder} to start again") from None

    def restore(self, state: dict) -> None:
        """Continue from a `state`. Raises ValueError if it, or what it counts on, is not of this run."""
        file = self.folder / "log.jsonl"
        try:
            records.check(state, STATE, "it")
            if state["iteration"] > self.config.iterations:
                raise ValueError(f"iteration {state['iteration']} of {self.config.iterations}")
            self.step.restore(state)
            self.kept = self.iteration
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if is_machines(error):
                raise
            raise ValueError(
                f"{self.folder / 'last.pt'}: not a checkpoint of this run ({brief(error)})"
            ) from None
        for name in ("best", "log_bytes", "faint", "seconds"):
            setattr(self, name, state[name])
        found = file.stat().st_size if file.exists() else 0
        if found < self.log_bytes:
            raise ValueError(f"{file}: cut short, {found} bytes of {self.log_bytes}")
        lines = records.read_log(file, self.log_bytes) if self.log_bytes else []
        if (lines[-1]["step"] if lines else 0) != self.iteration - self.step.counted:
            raise ValueError(f"{file}: does not belong to last.pt")
        if self.best["iteration"] and (there := self.selected()["iteration"]) != self.best["iteration"]:
            # Killed after best.pt and before last.pt. Its iteration comes again, and is selected again: on
            # another device too, where its score may be lower, since the network that it replaced is gone.
            self.lost = there

    @property
    def interval(self) -> int:
        return evaluation_interval(self.config.iterations)

    def due(self) -> bool:
        """Whether this iteration is evaluated: at each interval, at the end, and once early."""
        return self.iteration % self.interval == 0 or self.iteration in (
            min(1000, self.interval),
            self.config.iterations,
        )

    def train(self, stop: Event | None = None, grid: Grid | None = None, quiet: bool = False) -> bool:
        """Train to the end, or until `stop` is set; whether the end was reached.

        Progress goes to the terminal unless `quiet`, and to the grid that the run is one of.

        Raises FloatingPointError when the loss is not finite; no checkpoint is written from then on.
        """
        self.truncate_log()
        began, drawn = time.monotonic() - self.seconds, -math.inf
        saved = time.monotonic()
        with closing(
            Progress(self.folder.name, self.config.iterations, self.iteration, grid, quiet)
        ) as progress:
            while self.iteration < self.config.iterations and not (stop and stop.is_set()):
                self.step()
                due, ended = self.due(), self.iteration == self.config.iterations
                if due or self.iteration % LOG_EVERY == 0:
                    record = self.record()
                    if due:
                        test = self.begin_scoring() if self.config.score_test else None
                        record["validation"], codes = self.validate()
                        if test:
                            record["test"] = test()
                        progress.validation(self.iteration, record["validation"])
                    self.write_log(record)
                    progress.show(record)
                    self.seconds = time.monotonic() - began
                    if ended and self.call.beside:
                        at = time.monotonic()
                        try:  # workers score while the checkpoint is written
                            self.tested = self.begin_test(self.best["iteration"] == self.iteration)
                        except Exception:  # no memory for it, for example: the training is saved first
                            self.checkpoint()
                            raise
                        began += time.monotonic() - at  # part of `finish`, which is not counted
                    elif due and not ended and time.monotonic() - drawn > DRAW_SECONDS:
                        self.draw(self.validation, codes)
                        drawn = time.monotonic()
                now = time.monotonic()
                if due and (ended or now - saved > EVALUATED_SECONDS) or now - saved > SAVE_SECONDS:
                    self.seconds = now - began
                    self.means()  # a network that is not finite is not kept
                    self.checkpoint()
                    saved = time.monotonic()
        self.seconds = time.monotonic() - began
        if self.iteration < self.config.iterations:
            self.means()  # a network that is not finite is not kept
            self.checkpoint()
        return self.iteration == self.config.iterations

    def means(self) -> list[float]:
        """loss, rec and kl since the log's last line. Raises FloatingPointError if the loss is not finite."""
        loss, rec, kl = (self.step.sums / max(self.step.counted, 1)).tolist()
        if not math.isfinite(loss):
            good = (
                f"the last good checkpoint, last.pt, is of iteration {self.kept}"
                if self.kept
                else "there is no checkpoint yet"
            )
            raise FloatingPointError(
                f"{self.folder}: the loss is not finite between iterations "
                f"{self.iteration - self.step.counted + 1} and {self.iteration} (rec {rec:g}, kl {kl:g}, "
                f"beta {self.step.objective.beta().item():g}); {good}; "
                "try another --seed or a longer --schedule"
            )
        return [loss, rec, kl]

    def record(self) -> dict:
        """One line of the log: means since the line before, and the weights at this moment."""
        loss, rec, kl = self.means()
        self.faint = self.faint + self.step.counted if kl < COLLAPSED else 0
        sigmas = [*self.step.objective.sigmas().tolist(), None, None]
        self.step.sums.zero_()
        self.step.counted = 0
        return {
            "step": self.iteration,
            "loss": loss,
            "rec": rec,
            "kl": kl,
            "beta": self.step.objective.beta().item(),
            "sigma_0": sigmas[0],
            "sigma_1": sigmas[1],
            "lr": self.step.optimizer.param_groups[0]["lr"].item(),
            "collapsed": self.faint >= 1000,
        }

    @property
    def quick(self) -> bool:
        """Whether sap_classification is left out of evaluations in training: a longer run has the time."""
        return self.interval < 10_000

    def begin_scoring(self) -> Callable[[], dict]:
        """Score the test images as the validation images are; what is returned waits for the scores."""
        vae, index = self.step.vae, self.test
        given = vae, self.dataset, index, RECONSTRUCTED, self.quick, self.call
        return evaluation.begin_evaluation(*given)[-1]

    def validate(self) -> tuple[dict[str, float], np.ndarray]:
        """Scores and codes of the validation images; selects the network if none was better (Sec. 6.5)."""
        vae, index = self.step.vae, self.validation
        given = vae, self.dataset, index, RECONSTRUCTED, self.quick, self.call
        scores, codes = evaluation.evaluate(*given)
        by = self.select
        score = self.iteration if by == "last" else -scores["rec"] if by == "rec" else scores[by]
        score = -math.inf if math.isnan(score) else score
        # An evaluation before the first interval never wins, NaN only where there is nothing else.
        early = self.iteration % self.interval and self.iteration < self.config.iterations
        again = self.lost and self.iteration >= self.lost
        if not early and (again or self.better(score, scores["kl"]) or not self.best["iteration"]):
            self.lost = 0
            self.best = {"iteration": self.iteration, "score": score, "kl": scores["kl"]}
            weights = {name: weight.cpu().clone() for name, weight in vae.state_dict().items()}
            self.unwritten = {
                "network": vae.settings,
                "vae": weights,
                "beta": self.step.objective.beta().item(),
                **self.best,
            }
        return scores, codes

    def better(self, score: float, kl: float) -> bool:
        """Whether a network is better than the selected one.

        Of equal scores the earlier is, unless it knew less than half as much of its images.
        """
        if score == self.best["score"]:
            return self.best.get("kl", math.inf) < kl / 2
        return score > self.best["score"]

    def truncate_log(self) -> None:
        """Drop the lines that a killed process wrote after its last checkpoint: they come again."""
        with open(self.folder / "log.jsonl", "ab") as log:
            log.truncate(self.log_bytes)

    def write_log(self, record: dict) -> None:
        file = self.folder / "log.jsonl"
        with naming(file), open(file, "ab") as log:
            log.write(json.dumps(record).encode() + b"\n")
            log.flush()
            self.log_bytes = log.tell()

    def draw(self, index: np.ndarray, codes: np.ndarray, note: str = "") -> None:
        shown = latents.shown(self.step.vae, self.dataset, index, codes)
        self.drawn()
        self.drawn = self.call.later(workers.draw, self.folder, *shown, note, self.log_bytes)

    def selected(self) -> dict:
        """The network that was selected, and of which iteration. Raises ValueError if it is damaged."""
        file = self.folder / "best.pt"
        if not file.exists():
            raise ValueError(f"{file}: not there")
        best = load_checkpoint(file)
        try:
            records.check(best, BEST, "it")
            check_tensors(best["vae"], self.step.vae.state_dict())
        except ValueError as error:
            raise ValueError(f"{file}: not the network of this run ({brief(error)})") from None
        return best

    def begin_test(self, selected: bool, last: float = 0) -> tuple[float, Callable[[], dict]]:
        """Begin to score the network on the test images: its KL, and a function that waits for all scores.

        selected  whether it is the selected one, which is drawn, too
        last      KL of the last network, where this is another
        """
        given = self.step.vae, self.dataset, self.test
        terms, codes, scored = evaluation.begin_evaluation(*given, call=self.call)
        if selected:
            self.draw(self.test, codes, unlearned(terms["kl"], last))
        return terms["kl"], scored

    def finish(self) -> dict:
        """Score the selected and the last network on the test images, draw the first, write results.json."""
        with self.advise_removal():
            best = self.selected()
        last = {"iteration": self.iteration, "beta": self.step.objective.beta().item()}
        if best["iteration"] == self.iteration:
            self.step.vae.load_state_dict(best["vae"])
            scores = (self.tested or self.begin_test(True))[1]()
            last = {**scores, **last}
        else:  # two networks, scored at once where others score
            kl, scored = self.tested or self.begin_test(False)
            self.step.vae.load_state_dict(best["vae"])
            scores = self.begin_test(True, kl)[1]()
            last |= scored()
        self.drawn()
        rec_mean = scores.pop("rec_mean")
        lines = records.read_log(self.folder / "log.jsonl")
        results = {
            "scores": {"rec": scores.pop("rec"), "kl": scores.pop("kl"), "beta": best["beta"], **scores},
            "rec_mean": rec_mean,
            "bins": 10,
            "images": len(self.test),
            "selected": {
                "iteration": best["iteration"],
                "score": best["score"],
                "by": "last iteration" if self.select == "last" else f"validation {self.select}",
            },
            "last": last,
            "equilibrium": self.equilibrium(lines),
            "collapsed": any(line.get("collapsed") for line in lines),
            "settings": dataclasses.asdict(self.config),
            "elbo": self.step.description,
            "dataset": self.dataset.source,
            "content": self.dataset.content,
            "seconds": self.seconds,
            "threads": self.threads,
            **machine(self.device),
        }
        if self.began_at != results["commit"]:
            results["began_at_commit"] = self.began_at
        write_whole(self.folder / "results.json", json.dumps(results, indent=1).encode())
        return results

    def equilibrium(self, lines: list[dict]) -> dict:
        """Residuals s_i^4 / L_i - 1 at the end of training, L_i the mean over the last 1,000 iterations."""
        steps = np.array([line["step"] for line in lines])
        weights = np.diff(steps, prepend=0) * (steps > self.config.iterations - 1000)
        rec, kl = (
            float(np.average([line[term] for line in lines], weights=weights)) for term in ("rec", "kl")
        )
        residuals = self.step.objective.equilibrium(rec, kl)
        return (
            {
                "rec": rec,
                "kl": kl,
                "residuals": residuals,
                "transient": self.config.iterations < self.config.schedule,
            }
            if residuals
            else {}
        )


def fit(
    config: Config | None = None,
    out: Path | str = "runs",
    data: Path | str = "data",
    progress: bool = True,
    **settings,
) -> dict:
    """Carry out a run as `python run.py` does: train it, score it, draw it. The content of its results.json.

    config    the settings, or give them as keywords: `fit(model="vae", seed=1)`
    out       folder of the runs; the run's own folder in it is named by its settings
    data      folder of archives and prepared sets
    progress  show a bar, or lines where there is no terminal

    A run that was stopped is resumed from its last checkpoint, of at most five minutes before (Ctrl-C writes
    none here), and a finished one is read. It trains the same under no_grad, inference_mode, autocast and
    another default type or device; these, threads, denormals and the GPU's stream are afterwards what they
    were before. Raises ValueError for settings, folders and files that do not fit, FloatingPointError if the
    loss is not finite.
    """
    if config is not None and settings:
        raise TypeError("expected a Config or settings as keywords, not both")
    config = config or Config(**settings)
    folder = Path(out) / config.name
    results = finished(config, folder)
    if results is not None:
        compare_images(config, folder, results, data)
        return results
    device = pick_device(config.device)
    with thread_settings_kept(device):
        dataset = lvae_min.data.load(config.dataset, data).to(device)
        run = Run(dataclasses.replace(config, device=str(device)), folder, dataset)
        if run.unscored:
            warnings.warn(f"{dataset.name}: its folders are no factor: {run.unscored}", stacklevel=2)
        try:
            run.train(quiet=not progress)
            return run.finish()
        finally:
            run.close()


def load(run: Path | str) -> VAE:
    """The network of a run, the one that was selected (`--select`), on the CPU: a `VAE` in eval mode.

    run  the folder of a run, finished or not
    Raises ValueError if there is no network in it yet, or a damaged one.
    """
    return selected_network(run)[0]


def selected_network(run: Path | str) -> tuple[VAE, int]:
    """What `load` gives, and of which iteration it is."""
    file = Path(run) / "best.pt"
    if not file.exists():
        raise ValueError(f"{file}: not there; {run} is no run, or no network was selected yet")
    best = load_checkpoint(file)
    try:
        form = {"shape": records.sizes, "latents": records.count}
        records.check(best, {"network": form, "vae": {}, "iteration": records.whole}, "it")
        networks = layers(**best["network"])  # a file's size bounds what is allocated
        expected = nn.ModuleDict(dict(zip(("encoder", "decoder"), networks, strict=True)))
        check_tensors(best["vae"], expected.state_dict())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: not the network of a run ({brief(error)})") from None
    vae = VAE(**best["network"])
    vae.load_state_dict(best["vae"])
    return vae.eval(), best["iteration"]
