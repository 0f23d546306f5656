"""Make the runs of the study, the most informative first: seeds, rates, betas, lengths.

    python figures/study.py [--jobs 2] [--out runs]     makes them all, which takes hours
    python figures/study.py --missing                   only those that are not in data/runs.csv
    python figures/study.py --list                      only lists them, as commands of run.py

A run that is finished is skipped, one that was stopped is resumed. On a GPU use --jobs 8. Each run scores
two networks: the last one, and the one that the validation beta-VAE score selects. `keep.py --table` and
`seeds.py` make tables of them.
"""

import argparse
import shlex
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import keep
from common import script
from paper import METHODS

from lvae_min import cli
from lvae_min.config import Config
from lvae_min.io.text import Parser
from lvae_min.report import duration, say
from lvae_min.runs import Runs
from lvae_min.stored import finished

SIX = f"--model {' '.join(sorted(METHODS, key='lvae'.__ne__))}"  # L-VAE first
SEARCHED = "--beta 4 2"  # Sec. 6.3


@dataclass(frozen=True)
class Part:
    """Runs that answer a question, as flags of run.py."""

    title: str
    flags: str
    seeds: range
    matched: bool = False  # beta-VAE with the beta that L-VAE's run of these flags and seed ended with


PARTS = (
    Part("Seeds: six methods, beta-VAE with both betas of Sec. 6.3", f"{SIX} {SEARCHED}", range(3)),
    Part("Rate: the same at the paper's 1e-4", f"{SIX} {SEARCHED} --rate 1e-4", range(3)),
    Part("More seeds", f"{SIX} {SEARCHED}", range(3, 5)),
    Part("Fig. 2: other betas (VAE is beta 1)", "--model beta-vae --beta 0.5 8 0.25", range(5)),
    Part(
        "Short against long: a fifth of the iterations",
        "--model lvae vae beta-vae --beta 4 --iterations 2000",
        range(10),
    ),
    Part("Still more seeds", f"{SIX} {SEARCHED}", range(5, 10)),
    Part("Table 3: beta-VAE with the beta that L-VAE learned", "--model lvae", range(10), matched=True),
    Part(
        "Another data set, with the convolutional network: a fifth of the iterations",
        f"--dataset arm3d {SIX} --iterations 2000",
        range(3),
    ),
    Part("The same with all iterations", f"--dataset arm3d {SIX}", range(3)),
)


@dataclass(frozen=True)
class Made:
    """The finished runs: those in a folder, and those of a table, by their settings."""

    out: Path
    table: dict[tuple[str, ...], dict] = field(default_factory=dict)

    def results(self, config: Config) -> dict | None:
        """What a finished run found; None also for damaged ones, which run.py then reports."""
        try:
            results = finished(config, self.out / config.name)
        except (ValueError, OSError):
            return None
        row = self.table.get(keep.identity(keep.settings_of(config)))
        if results or row is None:
            return results
        return {"last": {"beta": row["last_beta"]}}


def command(flags: str, *seeds: int) -> list[str]:
    """A command line of run.py, without --out."""
    return [*shlex.split(flags), "--select", "beta_vae", "--seed", *map(str, seeds)]


def commands(part: Part, made: Made) -> list[list[str]]:
    """The command lines of a part: one, or one for each beta that is known."""
    if not part.matched:
        return [command(part.flags, *part.seeds)]
    found = []
    for seed in part.seeds:
        (config,) = cli.parse(command(part.flags, seed))[0]
        results = made.results(config)
        if results:
            beta = (results.get("last") or results["scores"])["beta"]  # as figures/seeds.py pairs them
            flags = part.flags.replace("--model lvae", f"--model beta-vae --beta {beta:.4g}")
            found.append(command(flags, seed))
    return found


def runs_of(part: Part, made: Made) -> list[Config]:
    """The runs of a part, seed by seed, so that all methods are there early."""
    configs = [config for line in commands(part, made) for config in cli.parse(line)[0]]
    return sorted(configs, key=lambda config: config.seed)


def seconds(config: Config, known: dict[tuple[str, int], list[float]]) -> float | None:
    """How long a run takes: the mean of finished ones of its data set and iterations.

    If there are none, of those of its data set, in proportion to the iterations; if there are none of these,
    it is not known.
    """
    same = known.get((config.dataset, config.iterations))
    if same:
        return sum(same) / len(same)
    others = {length: times for (name, length), times in known.items() if name == config.dataset}
    done = sum(length * len(times) for length, times in others.items())
    return config.iterations * sum(map(sum, others.values())) / done if done else None


def left(made: Made, jobs: int) -> str:
    """The time that all unfinished runs of the study take, in words; empty if there are none."""
    known, pending = defaultdict(list), []
    for part in PARTS:
        runs = runs_of(part, made)
        for config in runs:
            results = made.results(config)
            if results is None:
                pending.append(config)
            elif "seconds" in results:  # the table's may be of another machine
                known[config.dataset, config.iterations].append(results["seconds"])
        waiting = part.seeds[len(runs) :] if part.matched else ()
        if waiting:  # they will have their beta in time, and L-VAE takes as long
            pending += cli.parse(command(part.flags, *waiting))[0]
    each = [seconds(config, known) for config in pending]
    sure = [one for one in each if one is not None]
    parts = [f"about {duration(sum(sure) / jobs)} for {len(sure)} runs"] if sure else []
    if len(sure) < len(each):
        parts.append(f"an unknown time for {len(each) - len(sure)} runs, of whose data set none is finished")
    return " and ".join(parts)


def carry_out(given: argparse.Namespace, made: Made, stop: Event) -> int:
    """Make all parts one after another; the exit code: 0, 2 if a run failed, 130 if they were stopped."""
    codes = [0]
    for part in PARTS:
        runs = runs_of(part, made)
        pending = [config for config in runs if made.results(config) is None]
        say(f"{part.title}: {len(runs) - len(pending)} of {len(runs)} runs finished")
        if pending:
            say(f"left over all parts: {left(made, given.jobs)}")
            codes.append(Runs(pending, given, stop, "study.py").run_all())
        if stop.is_set():
            say("stopped; the same command continues")
            return 130
    return max(codes)


def listed(made: Made) -> str:
    """All parts with their commands of run.py, and how many of their runs are finished."""
    lines = []
    for part in PARTS:
        runs = runs_of(part, made)
        done = sum(made.results(config) is not None for config in runs)
        lines.append(f"{part.title}: {done} of {len(runs)} runs finished")
        lines += [f"    python run.py {shlex.join(line)}" for line in commands(part, made)]
        unknown = len(part.seeds) - len(runs)
        if part.matched and unknown:
            lines.append(f"    and for {unknown} seeds whose L-VAE is not finished")
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of archives and prepared sets (default: data)"
    )
    parser.add_argument(
        "--missing", action="store_true", help=f"take the runs of {keep.TABLE.name} as finished"
    )
    parser.add_argument("--list", action="store_true", help="only list the runs")
    given = parser.parse_args()
    if not 1 <= given.jobs <= 1024:
        parser.error(f"--jobs {given.jobs}: expected 1 to 1024")
    lines = keep.read_lines(keep.TABLE) if given.missing else []
    made = Made(given.out, {keep.identity(line): keep.row_of(line) for line in lines})
    if given.list:
        return print(listed(made))
    sys.exit(carry_out(given, made, cli.stop_on_signals()))


if __name__ == "__main__":
    script(main)
