"""The speedrun in tables: records, what the paper's setting would take, and what was tried.

    python figures/speedrun.py                   prints them
    python figures/speedrun.py --add FILE        keeps what `python -m bench.speedrun --json FILE` wrote

Reads data/speedrun.json: `records` of the CPU; `tries` of an H200, which a loop over bench.speedrun.run made
in one process (python -m bench.speedrun --device cuda repeats each), and of the CPU; `libraries`,
milliseconds of an iteration of theirs.
"""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import full
from common import DATA, markdown, script
from paper import METHODS

from lvae_min.io.text import Parser

sys.path.insert(0, str(DATA.parent.parent))
from bench.speedrun import SEEDS, TARGETS, Race, flag, shown

FILE, BENCH = DATA / "speedrun.json", DATA / "bench.json"
SAID = {"rec": "rec {:g} of a sampled z", "rec_mean": "rec {:g} of z = mu", "mig": "MIG {:g}"}
SAID |= {"beta_vae": "beta-VAE score {:g}"}
HEADS = {
    "rec_mean": "rec of mu ↓",
    "rec": "rec, sampled z ↓",
    "kl": "KL",
    "beta_vae": "beta-VAE ↑",
    "mig": "MIG ↑",
}


def read() -> dict:
    return json.loads(FILE.read_text())


def table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown(heads, rows))


def changed(race: dict, base: Race | dict) -> str:
    """The settings of a race that differ from others', as flags; (none) if none does."""
    other = {name: shown(value) for name, value in (base if isinstance(base, dict) else asdict(base)).items()}
    found = [f"{flag(name)} {shown(value)}" for name, value in race.items() if shown(value) != other[name]]
    return " ".join(found) or "(none)"


def aim(name: str) -> str:
    """What a target is, in words."""
    target = TARGETS[name]
    wanted = {**target.at_least, **target.at_most}
    method = METHODS[target.model] + ", beta 4" * (target.model == "beta-vae")
    return f"{method}: " + ", ".join(SAID[term].format(value) for term, value in wanted.items())


def duration(seconds: float) -> str:
    """In the unit that a reader would take."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def records(found: dict) -> str:
    """Each target's record: its median time, what it reached, and the settings."""
    rows = []
    for name in TARGETS:
        one = found["records"].get(name)
        if one is None:
            rows.append([name, aim(name), "not reached", "", "", "", ""])
            continue
        middle, times = one["median"], [row["seconds"] for row in one["seeds"]]
        settled = math.sqrt(middle["rec"] / middle["kl"])
        rows.append(
            [name, aim(name), f"**{duration(middle['seconds'])}** ({min(times):.0f} to {max(times):.0f} s)"]
            + [f"{one['race']['iterations']:,}", f"{middle['rec_mean']:.2f} / {middle['rec']:.2f}"]
            + [f"{middle['kl']:.1f}", f"{middle['beta']:.2f} ({settled:.2f})"]
        )
    heads = ["target", "what", "time: median (range)", "iterations", "rec of mu / sampled", "KL"]
    heads.append("beta (fixed point)")
    where = dict.fromkeys(made(one) for one in found["records"].values())
    return (
        f"{table(heads, rows)}\n\nFive seeds each, one at a time; {'; '.join(where)} (+: not yet committed)."
    )


def made(one: dict) -> str:
    return f"{one['device']}, {one['threads']} threads, torch {one['torch']}, commit {one['commit']}"


def reached(name: str) -> list[int | None]:
    """The first evaluation of each run of full length that meets a target."""
    method, found = TARGETS[name].model, []
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
    first = {name: reached(name) for name in TARGETS}
    rows = []
    for way, ms in speeds.items():
        cells = [way, f"{ms:.0f}"]
        for steps in first.values():
            cells.append(", ".join("never" if one is None else duration(one * ms / 1e3) for one in steps))
        rows.append(cells)
    steps = [", ".join("never" if one is None else f"{one:,}" for one in each) for each in first.values()]
    rows.insert(0, ["iterations needed", "", *steps])
    heads = ["the paper's setting", "ms an iteration", *TARGETS]
    note = (
        "One number per seed of full length (0 and 1): the first evaluation (one every 10,000 "
        "iterations) that meets the target. Never: not within 300,000. Times: iterations times "
        f"milliseconds. {libraries['note']}"
    )
    return f"{table(heads, rows)}\n\n{note}"


def silver(found: dict) -> str:
    """What was tried for silver on the CPU."""
    given, rows = found["tries"]["silver"], []
    for one in given["rows"]:
        cells = [", ".join(f"{seed[name]:.2f}" for seed in one["seeds"]) for name in ("rec_mean", "beta")]
        times = ", ".join(duration(seed["seconds"]) for seed in one["seeds"])
        rows.append([f"`{changed(one['race'], TARGETS['silver'].race)}`", times, *cells])
    heads = ["python -m bench.speedrun silver", "time", HEADS["rec_mean"], "beta"]
    base = changed(asdict(TARGETS["silver"].race), Race())
    return f"{table(heads, rows)}\n\nOne number per seed; without flags `{base}`. {made(given)}."


def tries(found: dict, target: str) -> str:
    """What single changes gave on an H200: a row a change, a number a seed."""
    given = found["tries"][target]
    names = ("rec", "rec_mean", "kl") if target == "bronze" else ("rec_mean", "kl", "beta_vae", "mig")
    rows = []
    for one in given["rows"]:
        cells = [", ".join(f"{seed[name]:.2f}" for seed in one["seeds"]) for name in names]
        refused = " (against the rules)" * (one["race"]["sigma_rate"] < one["race"]["rate"])
        rows.append([f"`{changed(one['race'], given['base'])}`{refused}", *cells])
    base = changed(given["base"], TARGETS[target].race)
    others = found["tries"]
    note = (
        f"One number per seed, from 0 on. (none): `python -m bench.speedrun {target} --device cuda "
        f"{base}`; the other rows add to it. {others['device']}, torch {others['torch']}, commit "
        f"{others['commit']}, many at once."
    )
    return f"{table(['change', *(HEADS[name] for name in names)], rows)}\n\n{note}"


def texts() -> dict[str, str]:
    found = read()
    return {
        "speedrun records": records(found),
        "speedrun against": against(found),
        "speedrun tries": tries(found, "bronze"),
        "speedrun silver": silver(found),
        "speedrun gold": tries(found, "gold"),
    }


def add(file: Path) -> None:
    """Keep those attempts of a file that reached their target with all seeds, faster than the record."""
    found, new = read(), json.loads(file.read_text())
    if not isinstance(new, dict) or "attempts" not in new:
        raise ValueError(f"{file}: expected what python -m bench.speedrun --json writes")
    for one in new["attempts"]:
        name, seconds = one["target"], one["median"]["seconds"]
        before = found["records"].get(name, {"median": {"seconds": math.inf}})
        reasons = {
            "it did not reach the target": not TARGETS[name].is_met(one["median"]),
            f"its seeds are not {', '.join(map(str, SEEDS))}": [row["seed"] for row in one["seeds"]]
            != list(SEEDS),
            "a record is made on two cores of a CPU": new["threads"] != 2 or "NVIDIA" in new["device"],
            f"the record is {before['median']['seconds']:.0f} s": before["median"]["seconds"] <= seconds,
        }
        if why := next((reason for reason, holds in reasons.items() if holds), ""):
            print(f"not kept: {name}, {seconds:.0f} s: {why}")
            continue
        own = {key: new[key] for key in ("device", "threads", "commit")}
        found["records"][name] = {**one, **own, "torch": new["versions"]["torch"]}
        print(f"kept: {name}, {seconds:.0f} s; put its settings into TARGETS of bench/speedrun.py")
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
