"""The settings of a run and the learning rates that follow from them (Sec. 6.3).

PyTorch is not imported here: it takes a second, and a command line is read and refused without it.
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from lvae_min.datasets.specs import NAMES, SPECS, is_path, own_name, spec_of
from lvae_min.io.text import one_line
from lvae_min.methods import CONTROL, METHODS, PAPER_ITERATIONS, gain_factor
from lvae_min.report import REGRESSION, SCORES

PAPER_RATE = 1e-4  # Sec. 6.3: the peak of the OneCycle of 300,000 iterations
START, END = 10, 100  # the peak is divided by them: 1e-5 and 1e-6 in Sec. 6.3
MAX_RATE = 2e-3  # of a schedule that names no rate: higher ones brought nothing
MAX_SIGMA_RATE = 1e-2
TOO_FAST = 1e-3  # nearly all runs with such a peak ended with a low MIG
CELEBA_ITERATIONS = 1_000_000  # Sec. 8
BATCHES = (32, 64, 128, 256)  # one of them is selected (Sec. 6.3)
LONGEST = 10_000_000  # iterations: their learning rates are kept, half a gigabyte while computed
MOVABLE = ("device", "threads", "loss", "graph", "score_test")  # where and how a run is done, not what it is
# Settings that older runs did not write down, and what they were.
OLD_DEFAULTS = {
    "precision": "float32",
    "select": "beta_vae",
    "warmup": "cosine",
    "paper": False,
    "rate": PAPER_RATE,
    "rate_form": "onecycle",
}


def setting(default, text: str):
    return dataclasses.field(default=default, metadata={"help": text})


def control_defaults(name: str) -> str:
    """What a setting of the controllers is by default, in words."""
    return ", ".join(
        f"{METHODS[model].controls[name]:g} for {model}" for model in METHODS if METHODS[model].controls
    )


@dataclass(frozen=True)
class Config:
    """Settings of a run. One left at None follows from the others, as its help says.

    Without `paper` a run is short: a schedule of minutes and the learning rate that belongs to it. With it,
    what is not given is as in Sec. 6.3 (for CelebA Sec. 8).

    A setting has the type that stands beside it, or, where its default is None, may be given as None.

    Raises ValueError for an unknown name or an impossible value.
    """

    dataset: str = setting(
        "dsprites",
        f"data set: {', '.join(SPECS)}, or the path of your images: a folder, an .npy, .npz or .h5",
    )
    model: str = setting("lvae", f"method: {', '.join(METHODS)}")
    paper: bool = setting(
        False,
        "train as in Sec. 6.3: 300,000 iterations, peak rate 1e-4, the network of the "
        "best validation score (celeba, Sec. 8: 1M iterations of batch 128 at a "
        "constant rate of 1e-4, the last network); other flags take precedence",
    )
    iterations: int = setting(
        None,
        "training iterations (Sec. 6.3: up to 300,000; default: the "
        "schedule if that is given, or else "
        "10,000; 5,000 for celeba)",
    )
    schedule: int = setting(
        None,
        "length of the OneCycle learning-rate schedule in iterations; "
        "fewer iterations than that truncate it (default: the iterations; "
        "with --paper 300,000)",
    )
    rate: float = setting(
        None,
        "learning rate: the peak of the schedule, which starts at a tenth and "
        "ends at a hundredth of it (default: 1e-4 sqrt(300,000 / schedule), at "
        "most 2e-3; Sec. 6.3: 1e-4)",
    )
    rate_form: str = setting(None, "onecycle or constant (Sec. 8, for CelebA; default: onecycle)")
    warmup: str = setting(
        "linear",
        "rise of the learning rate in the first half of the schedule: linear, or "
        "along a cosine (Sec. 6.3 does not say)",
    )
    batch_size: int = setting(None, "images a batch (Sec. 6.3: 32, 64, 128 or 256; default: 64)")
    seed: int = setting(0, "seed of weights, batches and noise")
    beta: float = setting(2.0, "weight of the KL term, for beta-vae (Sec. 6.3: 2 or 4)")
    kl_target: float | None = setting(
        None,
        "KL in nats that a controller steers to at the end of its ramp "
        f"(Sec. 6.3: 18; default: {control_defaults('kl_target')})",
    )
    kl_start: float | None = setting(
        None, f"KL in nats at which that ramp begins (default: {control_defaults('kl_start')})"
    )
    kl_rise: float | None = setting(
        None, f"nats that the ramp rises in each period (default: {control_defaults('kl_rise')})"
    )
    kl_period: float | None = setting(
        None,
        "iterations of a period in a schedule of 300,000, stretched with "
        f"others (default: {control_defaults('kl_period')})",
    )
    kp: float | None = setting(
        None,
        "proportional gain of a controller in a schedule of 300,000; as much "
        "larger in a shorter one, up to 30 times (Sec. 6.3: 0.01; default: "
        f"{control_defaults('kp')})",
    )
    ki: float | None = setting(
        None,
        f"integral gain of a controller, which grows likewise (Sec. 6.3; default: {control_defaults('ki')})",
    )
    beta_start: float | None = setting(
        None,
        "beta before the first iteration of a controller, for "
        "control-vae its integral alone (Sec. 6.3; default: "
        f"{control_defaults('beta_start')})",
    )
    latents: int | None = setting(
        None,
        "dimensions of z (default: the number of factors, Sec. 6.3; 10 for celeba and "
        "with fewer than two factors)",
    )
    sigma_freeze: float = setting(
        None,
        "fraction of the schedule in which learned scales stay at 1 "
        "(default: 0.05; 0 with --paper and at a schedule of 300,000)",
    )
    select: str = setting(
        None,
        "network that is scored and drawn at the end: last, the last one, or "
        "the best of a validation score (Sec. 6.5): "
        f"{', '.join(SCORES)}, rec (the lowest); without factors rec or last "
        "(default: last; with --paper beta_vae)",
    )
    score_test: bool = setting(
        False,
        "score the test images too at each evaluation, for log.jsonl alone; training and selection stay",
    )
    precision: str = setting(
        "float32",
        "of the network's products in training: float32, tf32 (on a GPU's "
        "tensor cores, 11 bits), or bf16, which is faster and "
        "rounds to 8 bits; scores are always float32's",
    )
    loss: str = setting("auto", "where the loss is computed: fused (C++/CUDA), torch, or auto")
    device: str = setting("auto", "cpu, cuda, cuda:1, ..., or auto")
    graph: str = setting("auto", "an iteration as one CUDA graph: on, off, auto (if a GPU holds the images)")
    threads: int | None = setting(None, "CPU threads of a run (default: all cores, shared by --jobs)")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            kind: Any = field.type
            value = getattr(self, field.name)
            fits = isinstance(value, kind) or (isinstance(value, int) and float in (kind, *get_args(kind)))
            fits = value is field.default or (fits and (kind is bool) == isinstance(value, bool))
            named = " or ".join(part.__name__ for part in get_args(kind) or [kind] if part is not type(None))
            self.check(field.name, fits, f"{named}, not {type(value).__name__}")
        # They would be printed, and some make no file's name.
        self.check(
            "dataset",
            not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", self.dataset),
            "no control characters and no bytes that are not UTF-8; rename it",
        )
        self.check("dataset", self.dataset in SPECS or is_path(self.dataset), NAMES)
        self.check("model", self.model in METHODS, " or ".join(METHODS))
        self.check(
            "schedule", self.schedule is None or 1 <= self.schedule <= 2**53, "at least 1, at most 2^53"
        )
        given = "schedule" if self.iterations is None and self.schedule else "iterations"
        self.fill(self.defaults())
        self.check(given, 1 <= self.iterations <= LONGEST, f"at least 1, at most {LONGEST:,}")
        self.fill({"schedule": self.usual_schedule()})
        self.check("schedule", self.iterations <= self.schedule, f"at least the {self.iterations} iterations")
        self.fill(self.follow())
        self.check("rate", 0 < self.rate <= 1, "more than 0, at most 1")
        self.check("rate_form", self.rate_form in ("onecycle", "constant"), "onecycle or constant")
        self.check("warmup", self.warmup in ("linear", "cosine"), "linear or cosine")
        self.check("batch_size", self.batch_size >= 1, "at least 1")
        self.check("seed", 0 <= self.seed < 2**63, "0 to 2^63 - 1")
        self.check("beta", 0 <= self.beta <= 1e30, "0 or more, at most 1e30")
        self.check("latents", self.latents is None or 1 <= self.latents <= 10_000, "1 to 10,000")
        self.check("sigma_freeze", 0 <= self.sigma_freeze <= 1, "0 to 1")
        self.check("select", self.select in (*SCORES, "rec", "last"), " or ".join([*SCORES, "rec", "last"]))
        self.check("precision", self.precision in ("float32", "tf32", "bf16"), "float32, tf32 or bf16")
        self.check("loss", self.loss in ("fused", "torch", "auto"), "fused, torch or auto")
        self.check("graph", self.graph in ("on", "off", "auto"), "on, off or auto")
        self.check("threads", self.threads is None or 1 <= self.threads <= 1024, "1 to 1024")
        self.settle()

    def check(self, name: str, fine: bool, expected: str) -> None:
        if not fine:
            raise ValueError(
                f"--{name.replace('_', '-')} {one_line(getattr(self, name))[:120]}: expected {expected}"
            )

    def fill(self, values: dict) -> None:
        """Give settings that are None these values."""
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def defaults(self) -> dict:
        """Settings that follow from the data set and `paper` alone."""
        celeba = self.paper and self.dataset == "celeba"  # Sec. 8
        usual = self.paper_length() if self.paper else spec_of(self.dataset).iterations
        iterations = self.schedule or usual
        return {
            "iterations": iterations,
            "batch_size": 128 if celeba else 64,
            "rate_form": "constant" if celeba else "onecycle",
            "select": "beta_vae" if self.paper and not celeba else "last",
        }

    def paper_length(self) -> int:
        return CELEBA_ITERATIONS if self.dataset == "celeba" else PAPER_ITERATIONS

    def usual_schedule(self) -> int:
        return max(self.paper_length(), self.iterations) if self.paper else self.iterations

    def follow(self) -> dict:
        """Settings that follow from the length of the schedule."""
        long = self.paper or self.schedule >= PAPER_ITERATIONS
        # Differs from the paper, which names 1e-4 for 300,000 iterations alone.
        fitted = min(PAPER_RATE * math.sqrt(PAPER_ITERATIONS / self.schedule), MAX_RATE)
        return {"rate": PAPER_RATE if self.paper else fitted, "sigma_freeze": 0.0 if long else 0.05}

    def settle(self) -> None:
        """Reset settings that the method does not use: two runs that differ in them alone are one run.

        Those of a controller that were not given are the method's. Raises ValueError for one out of range.
        """
        method = METHODS[self.model]
        if not method.has_beta:
            object.__setattr__(self, "beta", Config.beta)
        if not method.has_scales:
            object.__setattr__(self, "sigma_freeze", 0.0)
        self.fill(method.controls)
        for name in CONTROL:
            value = getattr(self, name)
            if name not in method.controls:
                object.__setattr__(self, name, None)
            else:
                low = 1e-6 if name == "kl_period" else -1e6
                self.check(name, low <= value <= 1e6, f"a number from {low:g} to 1e6")

    @property
    def notes(self) -> list[str]:
        """What a user should know of these settings before a run, in lines.

        How they differ from the paper's, and what they are too short or too fast for.
        """
        paper = Config(self.dataset, self.model, paper=True)
        learned = METHODS[self.model].has_scales
        settings = {
            "iterations": ("{:,} iterations", paper.iterations),
            "schedule": ("a schedule of {:,}", paper.schedule),
            "rate": ("a rate of {:.2g}", paper.rate),
            "rate_form": ("a {} rate", paper.rate_form),
        }
        others = [
            text.format(getattr(self, name)) + f" (paper: {value:,})"
            if isinstance(value, int)
            else text.format(getattr(self, name)) + f" (paper: {value})"
            for name, (text, value) in settings.items()
            if getattr(self, name) != value and not (name == "schedule" and self.schedule == self.iterations)
        ]
        batches = (paper.batch_size,) if self.dataset == "celeba" else BATCHES
        if self.batch_size not in batches:
            theirs = " or ".join(", ".join(map(str, batches)).rsplit(", ", 1))
            others.append(f"batches of {self.batch_size:,} (paper: {theirs})")
        if self.select != paper.select:
            choice = {name: f"the best {title} score" for name, title in (SCORES | REGRESSION).items()}
            choice |= {"last": "the last network", "rec": "the lowest rec"}
            others.append(f"{choice[self.select]} (paper: {choice[paper.select]} of validation images)")
        peak = sigma_peak(self)
        if learned and peak != self.rate:
            others.append(f"sigma at a rate of {peak:.2g} (paper: the network's)")
        if learned and self.sigma_freeze != paper.sigma_freeze:
            held = math.ceil(self.sigma_freeze * self.schedule)
            others.append(f"sigma held at its start for {held:,} iterations (paper: never)")
        hint = "; --paper trains as the paper did" if others and not self.paper else ""
        if controller := self.controller_notes():
            others += controller
            hint += hint and ", but for the controller"
        lines = [f"differs from the paper: {'; '.join(others)}{hint}"] if others else []
        if self.rate >= TOO_FAST:
            lines.append(
                f"a rate of {self.rate:.2g} soon draws good images, but 17 of 18 short runs of "
                f"beta-VAE with a rate of {TOO_FAST:g} or more ended with a low MIG (docs/reproduction.md)"
            )
        if self.schedule < METHODS[self.model].shortest:
            lines.append(
                f"a schedule of {self.schedule:,} is too short for the controller of {self.model}, "
                f"which needs {METHODS[self.model].shortest:,}"
            )
        return lines

    def controller_notes(self) -> list[str]:
        """How the settings of the controller, if the method has one, differ from the paper's."""
        found: list[str] = []
        given = METHODS[self.model].controls
        if not given:
            return found
        target = given["kl_target"]
        if self.kl_rise and self.kl_start != self.kl_target:
            ramp = ("kl_start", "kl_rise", "kl_period")
            theirs = ", as in its authors' code" * all(getattr(self, name) == given[name] for name in ramp)
            found.append(
                f"a KL target that goes from {self.kl_start:g} to {self.kl_target:g} nats, "
                f"by {self.kl_rise:g} every {self.kl_period:g} of 300,000 iterations{theirs} "
                f"(paper: {target:g}, no ramp named)"
            )
        elif self.kl_start != target:
            found.append(f"a KL target of {self.kl_start:g} nats (paper: {target:g})")
        found += [
            f"--{name.replace('_', '-')} {getattr(self, name):g} (paper: {given[name]:g})"
            for name in ("kp", "ki", "beta_start")
            if getattr(self, name) != given[name]
        ]
        return found

    @property
    def name(self) -> str:
        """The run's folder: data set, method, and settings that are not what they would be by themselves.

        Where it is done is no part of it: a run may be stopped here and continued there.
        """
        usual = dataclasses.asdict(
            Config(self.dataset, self.model, self.paper, self.iterations, self.schedule)
        )
        alone = Config(self.dataset, self.model, self.paper)
        usual |= {"iterations": alone.iterations}
        usual |= {"schedule": Config(self.dataset, self.model, self.paper, self.iterations).schedule}
        parts = [own_name(self.dataset) if is_path(self.dataset) else self.dataset, self.model]
        parts += ["paper"] * self.paper
        for setting_name, value in dataclasses.asdict(self).items():
            if value != usual[setting_name] and setting_name not in MOVABLE:
                shown = str(value).removesuffix(".0")  # all digits: names differ
                parts.append(setting_name.replace("_", "-") + shown)
        return "-".join(parts)


def with_defaults(stored: dict) -> dict:
    """Settings as an older run wrote them down, with those that it did not know.

    Raises ValueError for a schedule that is no whole number above 0.
    """
    method = METHODS.get(stored.get("model", ""))
    controls = dict(method.controls) if method else {}
    if controls:  # gains did not grow in a shorter schedule: what would give the same ones now
        if not (type(schedule := stored["schedule"]) is int and schedule > 0):
            raise ValueError(f"a schedule of {one_line(schedule)[:40]}")
        controls |= {name: controls[name] / gain_factor(schedule) for name in ("kp", "ki")}
    return {**OLD_DEFAULTS, **dict.fromkeys(CONTROL), **controls, **stored}


def evaluation_interval(iterations: int) -> int:
    """Iterations between evaluations: 10,000 (Fig. 3), or a tenth of a shorter run.

    A tenth below 1,000 is raised to that in runs of 1,000 iterations or more, where evaluations would take
    more than a tenth of the time.
    """
    return max(min(10_000, iterations // 10), 1000 if iterations >= 1000 else 1)


def one_cycle(schedule: int, iterations: int, warmup: str = "linear", peak: float = PAPER_RATE) -> np.ndarray:
    """Learning rate of each iteration (Sec. 6.3): up to `peak` halfway, then down.

    It starts at a tenth of `peak` and ends at a hundredth of it, along a cosine; `warmup` is the form of the
    rise, "linear" or "cosine".

    A cosine makes it torch's OneCycleLR(max_lr=peak, total_steps=schedule, pct_start=0.5, div_factor=10,
    final_div_factor=10, cycle_momentum=False). Its default for the last one would cycle Adam's beta_1, which
    Sec. 6.3 gives as 0.9.
    """
    # Differs from the paper, perhaps: it names a cosine for the fall alone, and no form for the rise.
    step, top = np.arange(iterations), max(schedule / 2 - 1, 1e-9)
    to_climb = 1 - step / top if warmup == "linear" else (np.cos(np.pi * step / top) + 1) / 2
    up = peak + (peak / START - peak) * to_climb
    fall = (step - top) / max(schedule - 1 - top, 1e-9)
    down = peak / END + (peak - peak / END) / 2 * (np.cos(np.pi * fall) + 1)
    return np.where(step <= top, up, down)


def sigma_peak(config: Config) -> float:
    """Peak of the learning rate of the loss's own learned scales.

    Adam moves a scale by at most the sum of its rates. That of the paper's schedule is enough to reach the
    fixed point of Eq. 5; the peak grows as the schedule gets shorter, so that the sum stays the same, up to
    1e-2, and is never below the network's. At the paper's 300,000 iterations both are 1e-4, and with `paper`
    they are always the same. (A constant rate has twice the sum.)
    """
    if config.paper:
        return config.rate
    return max(config.rate, min(PAPER_RATE * PAPER_ITERATIONS / config.schedule, MAX_SIGMA_RATE))


def learning_rates(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates of the network and of the loss's own learned scales, one of each an iteration."""
    # Differs from the paper, which trains all with one rate: see `sigma_peak`.
    peaks = config.rate, sigma_peak(config)
    if config.rate_form == "constant":
        network, sigma = (np.full(config.iterations, peak) for peak in peaks)
    else:
        network, sigma = (
            one_cycle(config.schedule, config.iterations, config.warmup, peak) for peak in peaks
        )
    return network, sigma * (np.arange(config.iterations) >= config.sigma_freeze * config.schedule)
