"""The settings of a run and the learning rates that follow from them (Sec. 6.3)."""

import dataclasses
import re
from dataclasses import dataclass
from typing import get_args

import numpy as np

from lvae_min.data import NAMES, SPECS, is_path, own_name
from lvae_min.lines import one_line
from lvae_min.losses import OBJECTIVES, PAPER_ITERATIONS
from lvae_min.report import SCORES

MAX_RATE, START_RATE, END_RATE = 1e-4, 1e-5, 1e-6       # Sec. 6.3
MAX_SIGMA_RATE = 1e-2
LONGEST = 10_000_000            # iterations: their learning rates are kept, half a gigabyte while computed
OLD_DEFAULTS = {"precision": "float32", "select": "beta_vae", "warmup": "cosine"}       # not in older runs
MOVABLE = ("device", "threads", "loss", "graph")        # where and how a run is done, not what it is


def setting(default, text: str):
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """Settings of a run. A setting left at None follows from the others; the defaults are those of the paper.

    Raises ValueError for an unknown name or an impossible value.
    """

    dataset: str = setting("dsprites", f"data set: {', '.join(SPECS)}, or the path of your images: a folder, "
                                         "an .npz or an .h5")
    model: str = setting("lvae", f"method: {', '.join(OBJECTIVES)}")
    iterations: int = setting(PAPER_ITERATIONS, "training iterations (Sec. 6.3: up to 300,000)")
    schedule: int | None = setting(None, "length of the OneCycle learning-rate schedule in iterations; "
                                         "fewer iterations than that truncate it (default: the iterations)")
    warmup: str = setting("cosine", "rise of the learning rate in the first half of the schedule: along a "
                                    "cosine or linear (Sec. 6.3 does not say)")
    batch_size: int = setting(64, "images a batch (Sec. 6.3: 32, 64, 128 or 256)")
    seed: int = setting(0, "seed of weights, batches and noise")
    beta: float = setting(2.0, "weight of the KL term, for beta-vae (Sec. 6.3: 2 or 4)")
    latents: int | None = setting(None, "dimensions of z (default: the number of factors, Sec. 6.3; "
                                        "10 for celeba and without factors)")
    sigma_freeze: float | None = setting(None, "fraction of the schedule in which learned scales stay at 1 "
                                               "(default: 0 at a schedule of 300,000, 0.05 at a shorter one)")
    select: str = setting("beta_vae", "validation score that selects the network (Sec. 6.5): "
                                      f"{', '.join(SCORES)}, rec (the lowest), or last, the last iteration; "
                                      "without factors rec or last")
    precision: str = setting("float32", "of the network's products in training: float32, tf32 (on a GPU's "
                                        "tensor cores, 11 bits), or bf16, which is faster and "
                                        "rounds to 8 bits; scores are always float32's")
    loss: str = setting("auto", "where the loss is computed: fused (C++/CUDA), torch, or auto")
    device: str = setting("auto", "cpu, cuda, cuda:1, ..., or auto")
    graph: str = setting("auto", "an iteration as one CUDA graph: on, off, auto (if a GPU holds the images)")
    threads: int | None = setting(None, "CPU threads of a run (default: all cores, shared by --jobs)")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            kind, value = field.type, getattr(self, field.name)
            fits = isinstance(value, kind) or (isinstance(value, int) and float in (kind, *get_args(kind)))
            self.check(field.name, fits, f"{getattr(kind, '__name__', kind)}, not {type(value).__name__}")
        if self.schedule is None:
            object.__setattr__(self, "schedule", self.iterations)
        if self.sigma_freeze is None:
            object.__setattr__(self, "sigma_freeze", 0.05 if self.schedule < PAPER_ITERATIONS else 0.0)
        # They would be printed, and some make no file's name.
        self.check("dataset", not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", self.dataset),
                   "no control characters and no bytes that are not UTF-8; rename it")
        self.check("dataset", self.dataset in SPECS or is_path(self.dataset), NAMES)
        self.check("model", self.model in OBJECTIVES, " or ".join(OBJECTIVES))
        self.check("iterations", 1 <= self.iterations <= LONGEST, f"at least 1, at most {LONGEST:,}")
        self.check("schedule", self.iterations <= self.schedule <= 2**53,
                   f"at least the {self.iterations} iterations")
        self.check("warmup", self.warmup in ("cosine", "linear"), "cosine or linear")
        self.check("batch_size", self.batch_size >= 1, "at least 1")
        self.check("seed", 0 <= self.seed < 2**63, "0 or more")
        self.check("beta", 0 <= self.beta <= 1e30, "0 or more, at most 1e30")
        self.check("latents", self.latents is None or 1 <= self.latents <= 10_000, "1 to 10,000")
        self.check("sigma_freeze", 0 <= self.sigma_freeze <= 1, "0 to 1")
        self.check("select", self.select in (*SCORES, "rec", "last"), " or ".join([*SCORES, "rec", "last"]))
        self.check("precision", self.precision in ("float32", "tf32", "bf16"), "float32, tf32 or bf16")
        self.check("loss", self.loss in ("fused", "torch", "auto"), "fused, torch or auto")
        self.check("graph", self.graph in ("on", "off", "auto"), "on, off or auto")
        self.check("threads", self.threads is None or 1 <= self.threads <= 1024, "1 to 1024")
        if not OBJECTIVES[self.model].has_beta:
            object.__setattr__(self, "beta", Config.beta)
        if not OBJECTIVES[self.model].has_scales:
            object.__setattr__(self, "sigma_freeze", 0.0)

    def check(self, name: str, fine: bool, expected: str) -> None:
        if not fine:
            raise ValueError(f"--{name.replace('_', '-')} {one_line(getattr(self, name))[:120]}: "
                             f"expected {expected}")

    @property
    def name(self) -> str:
        """The run's folder: data set, method, and settings that are not what they would be by themselves.

        Where it is done is no part of it: a run may be stopped here and continued there.
        """
        usual = dataclasses.asdict(Config(self.dataset, self.model, self.iterations, self.schedule))
        usual |= {"iterations": PAPER_ITERATIONS, "schedule": self.iterations}
        parts = [own_name(self.dataset) if is_path(self.dataset) else self.dataset, self.model]
        for setting_name, value in dataclasses.asdict(self).items():
            if value != usual[setting_name] and setting_name not in MOVABLE:
                shown = str(value).removesuffix(".0")                # all digits: names differ
                parts.append(setting_name.replace("_", "-") + shown)
        return "-".join(parts)


def evaluation_interval(iterations: int) -> int:
    """Iterations between evaluations: 10,000 (Fig. 3), and at least ten evaluations in a run."""
    return max(min(10_000, iterations // 10), 1)


def one_cycle(schedule: int, iterations: int, warmup: str = "cosine") -> np.ndarray:
    """Learning rate of each iteration (Sec. 6.3): 1e-5 up to 1e-4 halfway, then down to 1e-6 along a cosine;
    `warmup` is the form of the rise, "cosine" or "linear".

    A cosine makes it torch's OneCycleLR(max_lr=1e-4, total_steps=schedule, pct_start=0.5, div_factor=10,
    final_div_factor=10, cycle_momentum=False). Its default for the last one would cycle Adam's beta_1, which
    Sec. 6.3 gives as 0.9.
    """
    # Differs from the paper, perhaps: it names a cosine for the fall alone, and no form for the rise.
    step, top = np.arange(iterations), max(schedule / 2 - 1, 1e-9)
    to_climb = 1 - step / top if warmup == "linear" else (np.cos(np.pi * step / top) + 1) / 2
    up = MAX_RATE + (START_RATE - MAX_RATE) * to_climb
    fall = (step - top) / max(schedule - 1 - top, 1e-9)
    down = END_RATE + (MAX_RATE - END_RATE) / 2 * (np.cos(np.pi * fall) + 1)
    return np.where(step <= top, up, down)


def learning_rates(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates of the network and of the loss's own learned scales, one of each an iteration."""
    rates = one_cycle(config.schedule, config.iterations, config.warmup)
    # Differs from the paper, which trains all with one rate: sigma's travel is the sum of its rates, and a
    # shorter schedule would not let it reach its optimum. At the paper's 300,000 iterations the factor is 1.
    factor = min(PAPER_ITERATIONS / config.schedule, MAX_SIGMA_RATE / MAX_RATE)
    moving = np.arange(config.iterations) >= config.sigma_freeze * config.schedule
    return rates, rates * factor * moving
