"""The speedrun: seconds from the command to a target, over five seeds.

    python -m bench.speedrun                         the record of each target that has one, again
    python -m bench.speedrun bronze                  of one target
    python -m bench.speedrun bronze --rise 0.2       a try: the record's settings, but for these
    python -m bench.speedrun bronze --seeds 0 1      with some of the seeds
    python -m bench.speedrun --json speedrun.json    and keep the numbers

    bronze  L-VAE, rec 27.4 of a sampled z: what 50,000 of the paper's iterations gave at first
    silver  L-VAE, rec 21.14 of z = mu: the paper's own (Table 2)
    gold    beta-VAE with beta 4, MIG .35 and a beta-VAE score of .90: the paper's setting, seed 0

A target is reached if the medians of the five seeds reach it, each of the last network on 10,000 validation
images. The time is the median, each from the command to the last iteration; scoring is not counted.
docs/speedrun.md has the rules and the records. Exit code: 0, 1 if a target was not reached, 2 for a mistake.
"""

import io
import json
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from bench import common
from lvae_min.io.text import Parser

CALLED = "python -m bench.speedrun"
SEEDS = range(5)
SCORED = 10_000  # validation images
PRECISIONS = ("float32", "tf32", "bf16")
RANGES = {  # of the settings of a race that are numbers
    **{"iterations": (1, 1e7), "rate": (1e-9, 1), "sigma_rate": (1e-9, 1), "threads": (0, 1024)},
    **{"rise": (0, 1), "start": (0, 1), "end": (0, 1), "hold": (0, 1)},
    **{"beta_1": (0, 0.999999), "beta_2": (0, 0.999999)},
}


@dataclass(frozen=True)
class Race:
    """Settings of a race; those that the paper names (Sec. 6.3) in brackets."""

    iterations: int = field(default=3000, metadata={"help": "of each seed (300,000)"})
    batches: tuple[int, ...] = field(
        default=(64,), metadata={"help": "images a batch (32 to 256); of several, each for an equal part"}
    )
    rate: float = field(default=2e-3, metadata={"help": "highest learning rate (1e-4)"})
    rise: float = field(default=0.5, metadata={"help": "part of the iterations until it is reached (half)"})
    start: float = field(default=0.1, metadata={"help": "first rate as a part of the highest (1/10)"})
    end: float = field(default=0.01, metadata={"help": "last rate as a part of the highest (1/100)"})
    sigma_rate: float | None = field(default=None, metadata={"help": "highest rate of sigma (as --rate)"})
    hold: float = field(default=0.0, metadata={"help": "part of the iterations in which sigma stays 1 (0)"})
    beta_1: float = field(default=0.9, metadata={"help": "Adam's (0.9)"})
    beta_2: float = field(default=0.999, metadata={"help": "Adam's (0.999)"})
    mean_image: bool = field(default=False, metadata={"help": "1: the last bias begins as the mean image"})
    precision: str = field(default="float32", metadata={"help": "of products: float32, tf32, bf16"})
    threads: int = field(default=0, metadata={"help": "0: one a core"})

    def __post_init__(self):
        if self.sigma_rate is None:
            object.__setattr__(self, "sigma_rate", self.rate)
        assert self.sigma_rate is not None
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN, too
                raise ValueError(f"{flag(name)} {value:g}: expected {low:g} to {high:g}")
        if self.sigma_rate < self.rate:
            raise ValueError(f"--sigma-rate {self.sigma_rate:g}: expected at least --rate, {self.rate:g}")
        if not self.batches or min(self.batches) < 1 or self.iterations < len(self.batches):
            raise ValueError(
                f"--batches {shown(self.batches)}: expected numbers from 1 on, fewer than iterations"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision {self.precision}: expected {', '.join(PRECISIONS)}")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def shown(value) -> str:
    """A setting as it is written after its flag."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(int(value) if isinstance(value, bool) else value)


@dataclass(frozen=True)
class Target:
    """Scores at least and losses at most, and the settings to start from: the record's, if there is one."""

    model: str
    at_least: dict[str, float]
    at_most: dict[str, float]
    race: Race
    reached: bool = True  # by these settings, five seeds

    def is_met(self, medians: dict[str, float]) -> bool:
        met = [medians[name] >= value for name, value in self.at_least.items()]
        return all(met + [medians[name] <= value for name, value in self.at_most.items()])


TARGETS = {
    "bronze": Target("lvae", {}, {"rec": 27.4}, Race(iterations=1700, rise=0.25)),
    "silver": Target(
        "lvae",
        {},
        {"rec_mean": 21.14},
        Race(iterations=10_000, rate=1.5e-3, rise=0.25, hold=0.5),
        reached=False,
    ),
    "gold": Target(
        "beta-vae",
        {"mig": 0.35, "beta_vae": 0.90},
        {},
        Race(iterations=20_000, rate=5e-4),
        reached=False,
    ),
}


def rates(race: Race) -> np.ndarray:
    """Learning rates (iterations, 2) of the network and of sigma: a line up, half a cosine down."""
    done = np.arange(race.iterations) / max(race.iterations - 1, 1)
    up = race.start + (1 - race.start) * done / max(race.rise, 1e-9)
    fall = (done - race.rise) / max(1 - race.rise, 1e-9)
    down = race.end + (1 - race.end) * (1 + np.cos(np.pi * fall)) / 2
    form = np.where(done < race.rise, up, down)
    return np.stack([race.rate * form, race.sigma_rate * form * (done >= race.hold)], 1)


def start_at_mean(step) -> None:
    """Let the decoder's last bias give the mean of some 6,400 training images."""
    import torch

    step.batches.turn(0)
    images = step.batches.order[: max(6400 // step.config.batch_size, 1)].flatten()
    mean = step.dataset.batch(images).float().mean(0)
    with torch.no_grad():
        step.vae.decoder[-2].bias.copy_(mean.clamp(1e-3, 1 - 1e-3).logit().flatten())


def run(target: Target, race: Race, seed: int, device_name: str = "cpu", dataset=None) -> dict[str, float]:
    """Train a network; its scores on the validation images, and the moment when training stopped.

    dataset  dSprites on that device, if it was loaded before
    """
    import torch

    from lvae_min import data, train
    from lvae_min.config import Config
    from lvae_min.evaluation import evaluate
    from lvae_min.step import Step

    device = torch.device(device_name)
    dataset = dataset or data.load("dsprites").to(device)
    split, step = data.Split.of(len(dataset)), None
    table = torch.tensor(rates(race), dtype=torch.float32, device=device)
    for part, batch_size in enumerate(race.batches, 1):
        settings = Config(
            model=target.model,
            beta=4.0,
            iterations=race.iterations,
            batch_size=batch_size,
            seed=seed,
            precision=race.precision,
        )
        before, step = step, Step(settings, dataset, split.training, device, race.threads or train.cores())
        step.rates = table[:, : step.rates.shape[1]].contiguous()
        for group in step.optimizer.param_groups:
            group["betas"] = race.beta_1, race.beta_2
        if before:
            step.restore(moved(before.state()))
        elif race.mean_image:
            start_at_mean(step)
        while step.iteration < race.iterations * part // len(race.batches):
            step()
    step.sums.tolist()  # waits for a GPU
    stopped = time.perf_counter()
    found = evaluate(step.vae, dataset, split.validation[:SCORED], quick=True)[0]
    return {**found, "beta": step.objective.beta().item(), "stopped": stopped}


def moved(state: dict) -> dict:
    """A state on the CPU, as a checkpoint has it."""
    import torch

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def timed(name: str, race: Race, seed: int, device: str) -> dict[str, float]:
    """One seed in a process of its own: what it reached, and seconds from the command to the stop."""
    began = time.perf_counter()  # one clock for all processes of a machine
    words = (name, json.dumps(asdict(race)), str(seed), device)
    found = json.loads(common.python("-m", "bench.speedrun", "--child", *words).splitlines()[-1])
    return {"seed": seed, "seconds": found.pop("stopped") - began, **found}


def medians(rows: list[dict]) -> dict[str, float]:
    """The median of each number; NaN where one is."""
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0] if name != "seed"}


def line(title: str, row: dict[str, float], target: Target) -> str:
    names = ("rec", "rec_mean", "kl", "beta", *target.at_least)
    return f"{title:8s}{row['seconds']:8.1f} s  " + "  ".join(f"{name} {row[name]:.3f}" for name in names)


def attempt(name: str, race: Race, seeds: list[int], device: str) -> dict:
    """The race with these seeds, printed as it goes."""
    target, rows = TARGETS[name], []
    print(
        f"{name}: {target.model}, " + " ".join(f"{flag(one)} {shown(it)}" for one, it in asdict(race).items())
    )
    for seed in seeds:
        rows.append(timed(name, race, seed, device))
        print(line(f"seed {seed}", rows[-1], target), flush=True)
    middle = medians(rows)
    reached = target.is_met(middle) and seeds == list(SEEDS)
    said = "  REACHED" if reached else "  not reached"
    if target.is_met(middle) and not reached:
        said = "  met, which counts with seeds 0 1 2 3 4 alone"
    print(line("median", middle, target) + said, flush=True)
    return {"target": name, "race": asdict(race), "seeds": rows, "median": middle, "reached": reached}


def options(parser: Parser) -> None:
    """A flag for each setting of a race."""
    kinds = {"batches": int, "mean_image": int, "sigma_rate": float}
    for one in fields(Race):
        several = {"nargs": "+"} if one.name == "batches" else {}
        kind = kinds.get(one.name, type(one.default))
        parser.add_argument(flag(one.name), type=kind, help=one.metadata["help"], **several)


def race_of(target: Target, given) -> Race:
    """The settings to start from, but for those that are given."""
    changes = {one.name: getattr(given, one.name) for one in fields(Race)}
    changes = {name: value for name, value in changes.items() if value is not None}
    if "rate" in changes:
        changes.setdefault("sigma_rate", max(changes["rate"], target.race.sigma_rate))
    if "batches" in changes:
        changes["batches"] = tuple(changes["batches"])
    if "mean_image" in changes:
        changes["mean_image"] = bool(changes["mean_image"])
    return replace(target.race, **changes)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        name, race, seed, device = arguments[1:]
        settings = json.loads(race)
        settings["batches"] = tuple(settings["batches"])
        print(json.dumps(run(TARGETS[name], Race(**settings), int(seed), device)))
        return 0
    parser = Parser(prog=CALLED, description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"which: {', '.join(TARGETS)} (default: those reached)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: 0 1 2 3 4")
    parser.add_argument("--device", default="cpu", help="cpu, whose time counts, or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options(parser)
    given = parser.parse_args(arguments)
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"{min(unknown)}: expected {', '.join(TARGETS)}")
    if min(given.seeds) < 0:
        parser.error(f"--seeds {min(given.seeds)}: expected 0 or more")
    names = given.targets or [name for name, target in TARGETS.items() if target.reached]
    races = {name: race_of(TARGETS[name], given) for name in names}
    from lvae_min import report
    from lvae_min.train import cores, pick_device

    device = pick_device(given.device)
    found = {**report.machine(device), "threads": cores(), "attempts": []}
    print(f"{found['device']}, torch {found['versions']['torch']}, commit {found['commit']}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))  # fails before the race, if it does
    for name, race in races.items():
        found["attempts"].append(attempt(name, race, given.seeds, str(device)))
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))
    return 0 if all(one["reached"] for one in found["attempts"]) else 1


if __name__ == "__main__":
    common.script(CALLED, main)
