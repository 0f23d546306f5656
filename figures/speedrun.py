"""The speedrun in tables: records, what the paper's setting would take, and what was tried.

    python figures/speedrun.py                   prints them
    python figures/speedrun.py --add FILE        keeps what `python -m bench.speedrun --json FILE` wrote

Reads data/speedrun.json: `records` of the CPU, each in the place of an older one of its target; `tries` of an
H200, where only the numbers reached count, not the time; `libraries`, milliseconds of their iteration.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import full
from common import DATA, script

from lvae_min.io.text import Parser

sys.path.insert(0, str(DATA.parent.parent))
from bench.speedrun import TARGETS, Race

FILE, BENCH = DATA / "speedrun.json", DATA / "bench.json"
AIMS = {
    "bronze": "L-VAE, rec 27.4 of a sampled z",
    "silver": "L-VAE, rec 21.14 of z = mu",
    "gold": "beta-VAE 4, MIG .35 and beta-VAE score .90",
}
START = {**asdict(Race()), "batches": [64]}  # settings of a race that are not named


def read() -> dict:
    return json.loads(FILE.read_text())


def table(heads: list[str], rows: list[list[str]]) -> str:
    rule = "|---|" + "--:|" * (len(heads) - 1)
    return "\n".join(
        ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]
    )


def changed(race: dict, base: dict) -> str:
    """The settings of a race that differ from others', as flags."""
    shown = {
        name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in race.items()
    }
    found = [f"--{name.replace('_', '-')} {shown[name]}" for name in race if race[name] != base.get(name)]
    return " ".join(found) or "(none)"


def duration(seconds: float) -> str:
    """In the unit that a reader would take."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def records(found: dict) -> str:
    """Each target's record: its median time, what it reached, and the settings."""
    rows = []
    for name, aim in AIMS.items():
        one = found["records"].get(name)
        if one is None or not one["reached"]:
            rows.append([name, aim, "not reached", "", "", "", ""])
            continue
        middle, times = one["median"], [row["seconds"] for row in one["seeds"]]
        rows.append(
            [name, aim, f"**{duration(middle['seconds'])}** ({min(times):.0f} to {max(times):.0f} s)"]
            + [f"{one['race']['iterations']:,}", f"{middle['rec_mean']:.2f} / {middle['rec']:.2f}"]
            + [f"{middle['kl']:.1f}", f"{middle['beta']:.2f}"]
        )
    heads = ["target", "what", "time: median (range)", "iterations", "rec of mu / sampled", "KL", "beta"]
    made = {(one["device"], one["torch"], one["commit"]) for one in found["records"].values()}
    where = "; ".join(
        f"{device}, 2 threads, torch {torch}, commit {commit}" for device, torch, commit in made
    )
    return f"{table(heads, rows)}\n\nFive seeds each, one at a time; {where}."


def reached(name: str) -> list[int | None]:
    """The first evaluation of each run of full length that meets a target."""
    method, found = "beta-vae" if name == "gold" else "lvae", []
    for other, _, _, _, log in full.complete_runs():
        if other == method:
            met = [line["step"] for line in full.validations(log) if TARGETS[name].is_met(line["validation"])]
            found.append(met[0] if met else None)
    return found


def against(found: dict) -> str:
    """What the paper's setting needs to each target: iterations, and hours at several speeds."""
    bench = json.loads(BENCH.read_text())
    step = next(row for row in bench["step"] if row["network"] == "MLP" and row["batch"] == 64)
    speeds = {
        f"ours ({bench['device']})": step["ours, ms"],
        f"stock PyTorch ({bench['device']})": step["stock, ms"],
    }
    libraries = found["libraries"]
    speeds |= {f"{name} ({libraries['device']})": ms for name, ms in libraries["ms"].items()}
    first = {name: reached(name) for name in AIMS}
    rows = []
    for way, ms in speeds.items():
        cells = [way, f"{ms:.0f}"]
        for steps in first.values():
            cells.append(", ".join("never" if one is None else duration(one * ms / 1e3) for one in steps))
        rows.append(cells)
    steps = [", ".join("never" if one is None else f"{one:,}" for one in each) for each in first.values()]
    rows.insert(0, ["iterations needed", "", *steps])
    heads = ["the paper's setting", "ms an iteration", *AIMS]
    note = (
        "Two numbers: seeds 0 and 1 of full length, at the first of their evaluations, each 10,000 "
        f"iterations, that meets the target. Hours: iterations times milliseconds. {libraries['note']}"
    )
    return f"{table(heads, rows)}\n\n{note}"


def silver(found: dict) -> str:
    """What was tried for silver on the CPU."""
    given, rows = found["tries"]["silver"], []
    for one in given["rows"]:
        cells = [", ".join(f"{seed[name]:.2f}" for seed in one["seeds"]) for name in ("rec_mean", "beta")]
        times = ", ".join(duration(seed["seconds"]) for seed in one["seeds"])
        rows.append([f"`{changed(one['race'], START)}`", times, *cells])
    where = f"{given['device']}, 2 threads, torch {given['torch']}, commit {given['commit']}"
    return f"{table(['settings', 'time', 'rec of mu', 'beta'], rows)}\n\nA number a seed; {where}."


def tries(found: dict, target: str) -> str:
    """What single changes gave on an H200: a row a change, a number a seed."""
    given = found["tries"][target]
    names = ("rec", "rec_mean", "kl") if target == "bronze" else ("rec_mean", "kl", "beta_vae", "mig")
    heads, rows = ["change", *names], []
    for one in given["rows"]:
        cells = [", ".join(f"{seed[name]:.2f}" for seed in one["seeds"]) for name in names]
        rows.append([f"`{changed(one['race'], given['base'])}`", *cells])
    base = changed(given["base"], START)
    made = found["tries"]
    note = f"A number a seed, {given['base']['precision']} products. All others: `{base}`. "
    return f"{table(heads, rows)}\n\n{note}{made['device']}, torch {made['torch']}, commit {made['commit']}."


def texts() -> dict[str, str]:
    found = read()
    return {
        "speedrun records": records(found),
        "speedrun against": against(found),
        "speedrun tries": tries(found, "bronze"),
        "speedrun silver": silver(found),
        "speedrun gold": tries(found, "gold"),
        "speedrun commands": commands(found),
    }


def commands(found: dict) -> str:
    """The flags of each record."""
    lines = []
    for name, one in found["records"].items():
        lines.append(f"    python -m bench.speedrun {name} {changed(one['race'], START)}")
    return "\n".join(lines)


def add(file: Path) -> None:
    """Keep the attempts of a file: the faster one of each target that is reached, or else the last."""
    found, new = read(), json.loads(file.read_text())
    for one in new["attempts"]:
        before = found["records"].get(one["target"])
        slower = before and before["reached"] and before["median"]["seconds"] < one["median"]["seconds"]
        if len(one["seeds"]) < 5 or not one["reached"] or slower:
            print(f"not kept: {one['target']}, {one['median']['seconds']:.0f} s")
            continue
        made = {"device": new["device"], "commit": new["commit"], "torch": new["versions"]["torch"]}
        found["records"][one["target"]] = {**one, **made}
        print(f"kept: {one['target']}, {one['median']['seconds']:.0f} s")
    FILE.write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--add", type=Path, metavar="FILE", help="keep its attempts")
    given = parser.parse_args()
    if given.add:
        add(given.add)
    else:
        print("\n\n".join(texts().values()))


if __name__ == "__main__":
    script(main)
