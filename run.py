"""Train L-VAE or one of its five rivals, select a checkpoint, score it and draw it.

    python run.py --dataset dsprites --model lvae                      the paper's: 300,000 iterations
    python run.py --model lvae --iterations 20000                      the schedule fitted to 20,000
    python run.py --model lvae --iterations 50000 --schedule 300000    a sixth of the paper's schedule
    python run.py --model vae beta-vae lvae --seed 0 1 2               several values: a grid of runs

A run is a folder under --out, named by the settings that differ from the defaults. The same command continues
a run that was stopped, and skips one that is finished. It holds results.json, log.jsonl, best.pt (for
lvae_min.load) and the pictures curves.png, reconstructions.png, traversal.png and traversal.gif.
"""

import argparse
import dataclasses
import itertools
import shlex
import signal
import sys
from pathlib import Path
from threading import Event

from lvae_min import data, report
from lvae_min.config import MOVABLE, Config
from lvae_min.train import Run, finished, pick_device


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"run.py: {message}; run.py --help lists all\n")


def parse(arguments: list[str]) -> tuple[list[Config], Path, Path]:
    """The runs asked for, the folder that holds runs and the one that holds data."""
    parser = Parser(prog="run.py", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Config):
        kind = next((kind for kind in (int, float) if field.type in (kind, kind | None)), str)
        default = "" if field.default is None else f" (default: {field.default})"
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, nargs=1 if field.name in MOVABLE else "+", default=[field.default],
                            metavar=field.name.upper(), help=field.metadata["help"] + default)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--data", type=Path, default=Path("data"),
                        help="folder of archives and prepared sets (default: data)")
    given = vars(parser.parse_args(arguments))
    out, folder = given.pop("out"), given.pop("data")
    configs = [Config(**dict(zip(given, values, strict=True)))
               for values in itertools.product(*given.values())]
    return list(dict.fromkeys(configs)), out, folder


def carry_out(config: Config, folder: Path, dataset: data.Dataset, stop: Event) -> dict | None:
    """Train, score and draw one run; its results, or None if it was stopped before its end."""
    run = Run(config, folder, dataset)
    print(f"{folder}: {'continued at' if run.iteration else 'starts at'} iteration {run.iteration} of "
          f"{config.iterations}, {len(dataset)} images ({dataset.source}), {run.elbo}, "
          f"{run.device}, {run.threads} threads", flush=True)
    try:
        return run.finish() if run.train(stop) else None
    finally:
        run.close()


def summary(results: dict) -> str:
    """What a finished run found, as a few lines."""
    selected, settled = results["selected"], results["equilibrium"]
    lines = [report.table(results["scores"]),
             f"test scores (10 bins) of iteration {selected['iteration']}, selected by the validation "
             f"beta-VAE score; rec from mu: {results['rec_mean']:.2f}; {results['seconds'] / 60:.1f} min"]
    if settled:
        residuals = ", ".join(f"{name}^4 / {term} - 1 = {value:+.3f}" for term, (name, value)
                              in zip(("rec", "kl"), settled["residuals"].items(), strict=True))
        lines.append(f"fixed point of Eq. 5: {residuals}"
                     + (" (the schedule was cut short: a transient)" if settled["transient"] else ""))
    if results["collapsed"]:
        lines.append("COLLAPSED: kl stayed below 0.1 nats for 1,000 iterations; "
                     "try --sigma-freeze 0.1 or another seed")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    configs, out, data_folder = parse(arguments)
    stop, datasets = Event(), {}

    def on_signal(number, _):
        stop.set()
        signal.signal(number, signal.SIG_DFL)       # a second one ends the process at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    for config in configs:
        folder = out / config.name
        results = finished(config, folder)
        if results is not None:
            print(f"{folder}: finished before")
        else:
            if config.dataset not in datasets:
                datasets[config.dataset] = data.load(config.dataset, data_folder)
            dataset = datasets[config.dataset].to(pick_device(config.device))
            results = carry_out(config, folder, dataset, stop)
        if results is None:
            print(f"{folder}: stopped; continue with\n    python run.py {shlex.join(arguments)}")
            return 130
        print(summary(results), flush=True)
    return 0


def command(arguments: list[str]) -> int:
    """`main` with a user's mistakes told in one line; the exit code is 2 then."""
    try:
        return main(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
