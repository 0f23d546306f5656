"""What the scripts of this folder share: finished runs, which of them belong together, and their provenance.

A run is a folder with `results.json` and `log.jsonl`; those of figures/data are enough for all but
Fig. 4 and scoring.py.
"""

import argparse
import dataclasses
import gzip
import math
import shlex
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # lvae_min, installed or not
DATA = HERE / "data"

from lvae_min.config import Config, evaluation_interval, with_defaults  # noqa: E402
from lvae_min.datasets.specs import SPECS  # noqa: E402
from lvae_min.io.records import check, log_lines, number, read_log, read_results  # noqa: E402
from lvae_min.io.text import Parser, one_line  # noqa: E402
from lvae_min.losses import OBJECTIVES  # noqa: E402
from lvae_min.report import SCORES  # noqa: E402

# Settings that runs of one protocol share too.
SHARED = ("latents", "paper", "precision", "rate", "rate_form", "select", "warmup")


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: Path
    results: dict
    log: list[dict]
    among: tuple[int, ...] = ()  # the batch sizes of the runs that `selected` took it from

    def __getitem__(self, setting: str):
        return self.results["settings"][setting]

    @property
    def scores(self) -> dict[str, float | None]:
        """Of the selected network on the test images; older runs have no sap_classification: None."""
        return {"sap_classification": None, **self.results["scores"], "rec_mean": self.results["rec_mean"]}

    @property
    def commits(self) -> list[str | None]:
        """Of the code that finished the run, and of that which began it if it was another."""
        return [self.results["commit"], self.results.get("began_at_commit", self.results["commit"])]

    @property
    def protocol(self) -> tuple:
        """What runs must share to be compared: data set, iterations, schedule and the like."""
        settings = with_defaults(self.results["settings"])
        return tuple(settings[name] for name in ("dataset", "iterations", "schedule", *SHARED))

    @property
    def freeze(self) -> float | None:
        """`--sigma-freeze` of a run that learns scales, where it is not the default."""
        usual = Config(
            model=self["model"],
            paper=self.results["settings"].get("paper", False),
            iterations=self["iterations"],
            schedule=self["schedule"],
        )
        given = self.results["settings"].get("sigma_freeze", usual.sigma_freeze)
        return given if OBJECTIVES[self["model"]].has_scales and given != usual.sigma_freeze else None

    @property
    def variant(self) -> str:
        """The settings of a method that differ from its defaults, as text to append to its name."""
        settings, usual = with_defaults(self.results["settings"]), OBJECTIVES[self["model"]].controls
        others = [f", {name} {settings[name]:g}" for name in usual if settings[name] != usual[name]]
        frozen = "" if self.freeze is None else f", sigma held for {self.freeze:g} of the schedule"
        return frozen + "".join(others)

    @property
    def evaluations(self) -> list[dict]:
        """Lines of the log whose validation scores the selection compared: not the early evaluation."""
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
            settings = {field.name for field in dataclasses.fields(Config)} & set(run.results["settings"])
            Config(**{name: run[name] for name in settings})
            if "beta_vae" in run.results["scores"]:
                check(run.results["scores"], dict.fromkeys(SCORES, number))
            if not run.log:
                raise ValueError("log.jsonl is empty")
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{file.parent}: damaged ({one_line(error)[:300]}); remove it and run it again"
            ) from None
        runs.append(run)
    return runs


def read_gzipped(file: Path) -> list[dict]:
    """The lines of a gzipped log. Raises ValueError for a damaged one."""
    try:
        content = gzip.decompress(file.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: damaged ({one_line(error)})") from None
    return log_lines(content, file)


def length(protocol: tuple) -> str:
    """Iterations as text, with the schedule if that was cut short."""
    _, iterations, schedule, *_ = protocol
    return f"{iterations:,}" + ("" if schedule == iterations else f" of {schedule:,}")


def protocol_title(protocol: tuple) -> str:
    """A protocol as text: data set, iterations, and settings that are not the default."""
    return f"{protocol[0]}, {length(protocol)} iterations{words(protocol, ', ')}"


def latents_of(dataset: str) -> int | None:
    """The default dimensions of z of a published data set."""
    spec = SPECS.get(dataset)
    return spec and (spec.latents or len(spec.factors))


def unusual(protocol: tuple) -> dict:
    """The settings of a protocol beyond its iterations that are not the defaults, as flags without dashes."""
    dataset, iterations, schedule, *shared = protocol
    found = dict(zip(SHARED, shared, strict=True))
    usual = dataclasses.asdict(Config(iterations=iterations, schedule=schedule, paper=found["paper"]))
    usual |= {"latents": latents_of(dataset), "paper": False}  # of own images any number may be the default
    return {name.replace("_", "-"): value for name, value in found.items() if value != usual[name]}


def words(protocol: tuple, before: str) -> str:
    """What `unusual` gives, each after `before`."""
    return "".join(
        f"{before}{name}" + f" {value}" * (value is not True) for name, value in unusual(protocol).items()
    )


def flags(protocol: tuple) -> str:
    """The flags of run.py that make a run of this protocol, without the method."""
    dataset, iterations, schedule, *shared = protocol
    paper = dict(zip(SHARED, shared, strict=True))["paper"]
    usual = Config(iterations=iterations, paper=paper).schedule
    return (
        f"--dataset {shlex.quote(dataset)} --iterations {iterations}"
        + ("" if schedule == usual else f" --schedule {schedule}")
        + words(protocol, " --")
    )


def rank(run: Finished) -> tuple:
    """Sort key of runs; the least is shown: sigma held as by default, least seed, batch 64."""
    return run.freeze is not None, run["seed"], abs(run["batch_size"] - 64)


def validation_score(run: Finished) -> float:
    """The validation score of a run's network: of the last one, the beta-VAE score (Sec. 6.5)."""
    score = run.results["selected"]["score"]
    if run.results["selected"]["by"] == "last iteration":
        score = run.log[-1].get("validation", {}).get("beta_vae", math.nan)
    return -math.inf if math.isnan(score) else score


def selected(runs: list[Finished]) -> list[Finished]:
    """One run a seed: that whose validation score is best (Sec. 6.5), the first of equal ones; NaN never."""
    best, among = {}, defaultdict(list)
    for run in sorted(runs, key=lambda run: run.folder.name):
        among[run["seed"]].append(run["batch_size"])  # beta 2 and 4 of beta-VAE are two of one size
        if run["seed"] not in best or validation_score(run) > validation_score(best[run["seed"]]):
            best[run["seed"]] = run
    return [dataclasses.replace(best[seed], among=tuple(sorted(among[seed]))) for seed in sorted(best)]


def spread(values: list[float | None], digits: int = 2) -> str:
    """Mean, and sample standard deviation if there is more than one value; nothing if one is missing."""
    if None in values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def machines(found: Iterable[tuple[str, int, str]]) -> str:
    """Devices, threads and versions of PyTorch in words; runs that differ in threads alone share an entry."""
    threads = defaultdict(set)
    for device, count, torch in found:
        threads[device, torch].add(count)
    return "; ".join(
        f"{device}, {' or '.join(map(str, sorted(counts)))} thread{'s' * (max(counts) > 1)}, torch {torch}"
        for (device, torch), counts in sorted(threads.items())
    )


def provenance(runs: list[Finished]) -> str:
    """Where these runs were made, in a sentence; duplicates count once."""
    runs = list({run.folder: run for run in runs}.values())
    commits = sorted({made or "unknown" for run in runs for made in run.commits})
    where = machines(
        (run.results["device"], run.results["threads"], run.results["versions"]["torch"]) for run in runs
    )
    minutes = sorted(round(run.results["seconds"] / 60) for run in runs)
    taken = f"{minutes[0]} minutes" if minutes[0] == minutes[-1] else f"{minutes[0]} to {minutes[-1]} minutes"
    seeds = ", ".join(map(str, sorted({run["seed"] for run in runs})))
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {taken}, seed {seeds} (commit {', '.join(commits)}; "
        f"{where})"
    )


def tex(text: str) -> str:
    """Text for LaTeX, its special characters escaped."""
    special = {character: rf"\{character}" for character in "&%$#_{}"}
    words = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    return text.translate(str.maketrans({**special, **words}))


def arguments(
    doc: str, networks: bool = False, json: bool = False, table: bool = False
) -> argparse.Namespace:
    """The command line of a script: the folder of the runs, and what else it needs.

    That is the folder of the data if it uses `networks`, a file for what it finds if it writes `json`, and
    whether it only fills its `table`.
    """
    parser = Parser(description=doc)
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
    if json:
        parser.add_argument("--json", type=Path, help="a file for the numbers, too")
    if table:
        parser.add_argument("--table", action="store_true", help="write lines of the table, copy nothing")
    given = parser.parse_args()
    if not given.folder.is_dir():
        parser.error(f"{given.folder}: no such folder; python run.py makes runs/")
    if json and given.json and not given.json.parent.is_dir():
        parser.error(f"{given.json.parent}: no such folder")
    return given


def missing(what: str, command: str, folder: Path) -> None:
    """Say what a figure of the runs in `folder` lacks, and what makes it there."""
    usual = folder.resolve() in (Path("runs").resolve(), DATA.resolve()) or folder.is_file()
    out = "" if usual else f" --out {shlex.quote(str(folder))}"
    print(f"missing: {what}; make it with\n    python run.py {command}{out}")


def save(figure, name: str, folder: Path | None = None) -> Path:
    file = (folder or HERE) / name
    figure.savefig(file, dpi=100)
    print(f"written: {file}")
    return file


def write(name: str, text: str) -> None:
    file = HERE / name
    file.write_text(text + "\n")
    print(f"written: {file}")


def markdown(heads: list[str], rows: list[list[str]], first: str = "---") -> list[str]:
    """The lines of a table; `first` is how its first column is aligned, the others are numbers."""
    rule = f"|{first}|" + "--:|" * (len(heads) - 1)
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]


def script(main) -> None:
    """Run a script's main; a user's mistake is one line."""
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
