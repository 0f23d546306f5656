"""What the scripts of this folder share: finished runs, which of them belong together, and their provenance.

A run is a folder with `results.json` and `log.jsonl`; those of figures/data are enough for all but
Fig. 4 and scoring.py.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # lvae_min, installed or not
DATA = HERE / "data"

from lvae_min.config import OLD_DEFAULTS, Config, evaluation_interval  # noqa: E402
from lvae_min.data import SPECS  # noqa: E402
from lvae_min.lines import one_line  # noqa: E402
from lvae_min.losses import OBJECTIVES  # noqa: E402
from lvae_min.records import read_log, read_results  # noqa: E402

SHARED = ("latents", "precision", "select", "warmup")  # settings that runs of one protocol share too


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: Path
    results: dict
    log: list[dict]

    def __getitem__(self, setting: str):
        return self.results["settings"][setting]

    @property
    def protocol(self) -> tuple:
        """What runs must share to stand side by side: data set, iterations, schedule and the like."""
        settings = {**OLD_DEFAULTS, **self.results["settings"]}
        return tuple(settings[name] for name in ("dataset", "iterations", "schedule", *SHARED))

    @property
    def freeze(self) -> float | None:
        """`--sigma-freeze` of a run that learns scales, where it is not the default."""
        usual = Config(model=self["model"], iterations=self["iterations"], schedule=self["schedule"])
        given = self.results["settings"].get("sigma_freeze", usual.sigma_freeze)
        return given if OBJECTIVES[self["model"]].has_scales and given != usual.sigma_freeze else None

    @property
    def looks(self) -> list[dict]:
        """Lines of the log with validation scores that the selection looked at: no first look."""
        interval = evaluation_interval(self["iterations"])
        return [
            line
            for line in self.log
            if "validation" in line and (line["step"] % interval == 0 or line["step"] == self["iterations"])
        ]


def read(folder: Path) -> list[Finished]:
    """The finished runs in a folder. Raises ValueError for a damaged one."""
    runs = []
    for file in sorted(folder.glob("*/results.json")):
        try:
            run = Finished(file.parent, read_results(file), read_log(file.parent / "log.jsonl"))
            if not run.log:
                raise ValueError("log.jsonl is empty")
        except (ValueError, OSError) as error:
            raise ValueError(f"{file.parent}: damaged ({one_line(error)[:300]}); "
                             "remove it and run it again") from None
        runs.append(run)
    return runs


def cut(protocol: tuple) -> str:
    """Iterations in words, with the schedule if that was cut short."""
    _, iterations, schedule, *_ = protocol
    return f"{iterations:,}" + ("" if schedule == iterations else f" of {schedule:,}")


def named(protocol: tuple) -> str:
    """A protocol in words: data set, iterations, and what is not as usual."""
    others = "".join(f", {name} {value}" for name, value in unusual(protocol).items())
    return f"{protocol[0]}, {cut(protocol)} iterations{others}"


def unusual(protocol: tuple) -> dict:
    """The settings of a protocol beyond its iterations that are not the defaults, as flags without dashes."""
    dataset, _, _, *shared = protocol
    spec = SPECS.get(dataset)
    found = dict(zip(SHARED, shared, strict=True))
    usual = (spec.latents or len(spec.factors)) if spec else found["latents"]
    defaults = {"latents": usual, **OLD_DEFAULTS}
    return {name: value for name, value in found.items() if value != defaults[name]}


def flags(protocol: tuple) -> str:
    """The flags of run.py that make a run of this protocol, without the method."""
    dataset, iterations, schedule, *_ = protocol
    return (
        f"--dataset {dataset} --iterations {iterations}"
        + ("" if schedule == iterations else f" --schedule {schedule}")
        + "".join(f" --{name} {value}" for name, value in unusual(protocol).items())
    )


def worth(run: Finished) -> float:
    score = run.results["selected"]["score"]
    return -math.inf if math.isnan(score) else score


def selected(runs: list[Finished]) -> list[Finished]:
    """One run a seed: that whose validation score is best (Sec. 6.5), the first of equal ones; NaN never."""
    best = {}
    for run in sorted(runs, key=lambda run: run.folder.name):
        if run["seed"] not in best or worth(run) > worth(best[run["seed"]]):
            best[run["seed"]] = run
    return [best[seed] for seed in sorted(best)]


def spread(values: list[float], digits: int = 2) -> str:
    """Mean, and sample standard deviation if there is more than one value."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def provenance(runs: list[Finished]) -> str:
    """Where these runs were made, in a sentence."""
    commits = sorted({run.results["commit"] or "unknown" for run in runs})
    machines = sorted(
        {
            f"{run.results['device']}, {run.results['threads']} thread{'s' * (run.results['threads'] > 1)}, "
            f"torch {run.results['versions']['torch']}"
            for run in runs
        }
    )
    minutes = sorted(round(run.results["seconds"] / 60) for run in runs)
    taken = f"{minutes[0]} minutes" if minutes[0] == minutes[-1] else f"{minutes[0]} to {minutes[-1]} minutes"
    seeds = ", ".join(map(str, sorted({run["seed"] for run in runs})))
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {taken}, seed {seeds} (commit {', '.join(commits)}; "
        f"{'; '.join(machines)})"
    )


def arguments(doc: str, networks: bool = False) -> argparse.Namespace:
    """The command line of a script: the folder of the runs, and that of the data if it uses `networks`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("runs"),
        help="folder of the runs (default: runs); figures/data has those of the README",
    )
    if networks:
        parser.add_argument(
            "--data", type=Path, default=Path("data"), help="folder of archives and prepared sets"
        )
    given = parser.parse_args()
    if not given.folder.is_dir():
        parser.error(f"{given.folder}: no such folder; python run.py makes runs/")
    return given


def missing(what: str, command: str) -> None:
    """Say what a figure lacks, and what makes it."""
    print(f"missing: {what}; make it with\n    python run.py {command}")


def save(figure, name: str) -> Path:
    file = HERE / name
    figure.savefig(file, dpi=100)
    print(f"written: {file}")
    return file


def write(name: str, text: str) -> None:
    file = HERE / name
    file.write_text(text + "\n")
    print(f"written: {file}")


def script(main) -> None:
    """Run a script's main; a user's mistake is one line."""
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
