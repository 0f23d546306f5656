"""Which runs of data/runs.csv belong together: runs are pooled over seeds alone.

A run that differs in a setting of its method is of another method, in any other setting of another protocol.
"""

import dataclasses
import math
from collections import defaultdict
from itertools import permutations

import keep
import numpy as np
from common import latents_of, machines
from paper import METHODS, row_of
from samples import ENOUGH
from table2 import SEARCHED, TITLES

from lvae_min.config import CONTROL, Config
from lvae_min.datasets.specs import SPECS
from lvae_min.losses import OBJECTIVES

OF_A_METHOD = ("beta", "sigma_freeze", *CONTROL)
# The last network does not depend on which other one is selected.
PROTOCOL = tuple(name for name in keep.SETTINGS if name not in ("model", *OF_A_METHOD, "seed", "select"))
BARE = {score: heading[:-2] for score, heading in TITLES.items()}  # without arrows
Methods = dict[str, list[dict]]
Pairs = dict[str, list[tuple[dict, dict]]]


def usual(row: dict) -> dict:
    """The settings that a run with this data set, method and length has by default."""
    spec = SPECS.get(row["dataset"])
    dataset = row["dataset"] if spec else Config.dataset
    config = Config(dataset, row.get("model"), row["paper"], row["iterations"], row["schedule"])
    return {**dataclasses.asdict(config), "latents": latents_of(row["dataset"]) or row["latents"]}


def unusual(row: dict, names: tuple[str, ...]) -> list[str]:
    """Those of the named settings that are not as by default, in words."""
    default, found = usual(row), []
    for name in names:
        value, other = (keep.text_of(values[name], keep.COLUMNS[name]) for values in (row, default))
        if row[name] is not None and value != other:
            found.append(f"{name.replace('_', ' ')} {value}")
    return found


def name_of(row: dict) -> str:
    """A method with all settings that are the method's own."""
    beta = [f"beta {row['beta']:g}"] if OBJECTIVES[row["model"]].has_beta else []
    return ", ".join([METHODS[row["model"]], *beta, *unusual(row, ("sigma_freeze", *CONTROL))])


def protocol_of(row: dict) -> tuple:
    return tuple(row[name] for name in PROTOCOL)


def settings_of(protocol: tuple) -> dict:
    return {**dict(zip(PROTOCOL, protocol, strict=True)), "model": "lvae"}


def title(protocol: tuple) -> str:
    """What the runs of a table share, in words."""
    row = settings_of(protocol)
    length = f"{row['iterations']:,}"
    length += "" if row["iterations"] == row["schedule"] else f" of {row['schedule']:,}"
    others = unusual(
        row, tuple(name for name in PROTOCOL if name not in ("dataset", "iterations", "schedule"))
    )
    latents = [f"latents {row['latents']}"] * (row["dataset"] not in SPECS)  # of own images none is usual
    return ", ".join(
        [row["dataset"], f"{length} iterations", *["as in the paper"] * row["paper"], *others, *latents]
    )


def is_usual(protocol: tuple) -> bool:
    """Whether all but data set and length is the default."""
    row = settings_of(protocol)
    return row["iterations"] == row["schedule"] and not unusual(row, PROTOCOL)


def is_default(row: dict) -> bool:
    """Whether a run is as `run.py` makes it of its data set and method, whatever its seed and method are."""
    default = Config(row["dataset"]) if row["dataset"] in SPECS else Config()
    whole = row["iterations"] == row["schedule"] == default.iterations
    return whole and not row["paper"] and is_usual(protocol_of(row))


def groups(
    rows: list[dict], network: str = "last", betas: tuple[float, ...] | None = SEARCHED
) -> dict[tuple, Methods]:
    """For each protocol its methods, as in Table 2, each with its runs, one a seed.

    network  last, or selected: runs that selected by a validation score, the scores apart and last in the key
    betas    of beta-VAE, the others are left out; None: all
    The default of dSprites comes first.
    """
    found = defaultdict(lambda: defaultdict(dict))
    for row in sorted(rows, key=lambda row: (row["seed"], row["select"])):
        searched = row["model"] != "beta-vae" or betas is None or row["beta"] in betas
        known = row["last_mig"] if network == "last" else row["validation_score"]
        if searched and known is not None:
            key = protocol_of(row) + (() if network == "last" else (row["select"],))
            found[key][name_of(row)].setdefault(row["seed"], row)  # of one training the first
    place = list(METHODS.values())
    return {
        key: {
            name: list(found[key][name].values())
            for name in sorted(found[key], key=lambda name: (place.index(name.split(",")[0]), name))
        }
        for key in sorted(found, key=lambda key: rank(key, found[key]))
    }


def rank(key: tuple, methods: dict) -> tuple:
    """Where a protocol stands: dSprites, defaults, lengths near the default's, then many runs before few."""
    row = settings_of(key[: len(PROTOCOL)])
    default = Config(iterations=None).iterations
    distance = abs(math.log(row["iterations"] / default))
    return (
        row["dataset"] != "dsprites",
        not is_usual(key[: len(PROTOCOL)]),
        distance,
        -sum(map(len, methods.values())),
        str(key),
    )


def pairs_of(found: dict[tuple, Methods], name: str) -> list[tuple[tuple, tuple]]:
    """Pairs of protocols, in both orders, that differ in `name` alone.

    Where that is iterations, each is the default of its length.
    """
    place = PROTOCOL.index(name)
    return [
        (one, other)
        for one, other in permutations(found, 2)
        if (name == "rate" and one[:place] + one[place + 1 :] == other[:place] + other[place + 1 :])
        or (name == "iterations" and one[0] == other[0] and is_usual(one) and is_usual(other))
    ]


def side_by_side(ours: list[dict], theirs: list[dict]) -> list[tuple[dict, dict]]:
    """The runs of seeds that both have."""
    others = {row["seed"]: row for row in theirs}
    return [(row, others[row["seed"]]) for row in ours if row["seed"] in others]


def common_seeds(one: Methods, other: Methods) -> Pairs:
    """Of the methods of both the runs with the same seed, side by side."""
    both = {name: side_by_side(runs, other.get(name, [])) for name, runs in one.items()}
    return {name: same for name, same in both.items() if same}


def both_values(same: list[tuple[dict, dict]], score: str, network: str = "last") -> list[list[float]]:
    """A score of either side; none at all if one run does not have it."""
    sides = [values(list(side), score, network) for side in zip(*same, strict=True)]
    return sides if sides and all(sides) else []


def values(runs: list[dict], score: str, network: str = "last") -> list[float]:
    """A score of these runs; none at all if one does not have it."""
    found = [row[f"{network}_{score}"] for row in runs]
    return [] if any(value is None or math.isnan(value) for value in found) else found


def goodness(score: str, found: list[float]) -> np.ndarray:
    """Higher is better: rec with its sign turned."""
    return np.array(found) * (-1 if score == "rec_mean" else 1)


def paper_of(row: dict) -> dict[str, float]:
    """The paper's numbers for this method; none for settings that it has not."""
    held = unusual(row, ("sigma_freeze", *CONTROL))
    return {} if held else row_of(row["dataset"], row["model"], row["beta"])


def made(methods: Methods, warnings: bool = True) -> str:
    """How many runs these are and where they were made, in sentences.

    With `warnings` also which methods have too few seeds, and which have collapsed.
    """
    runs = [row for found in methods.values() for row in found]
    commits = sorted({row[name] for row in runs for name in ("commit", "began_at_commit")} - {""})
    where = machines((row["device"], row["threads"], row["torch"]) for row in runs)
    text = f"{len(runs)} run{'s' * (len(runs) > 1)} (commit {', '.join(commits) or 'unknown'}; {where})."
    seeds = {name: len({row["seed"] for row in found}) for name, found in methods.items()}
    scarce = [f"{name} ({count})" for name, count in seeds.items() if count < ENOUGH]
    if scarce and warnings:
        text += f" Fewer than {ENOUGH} seeds, too few to say how seeds differ: {'; '.join(scarce)}."
    flat = {name: sum(row["collapsed"] for row in found) for name, found in methods.items()}
    collapsed = [f"{name} ({count})" for name, count in flat.items() if count]
    if collapsed and warnings:
        text += f" KL stayed below 0.1 nats for 1,000 iterations in some runs: {'; '.join(collapsed)}."
    return text


def block(heading: str, heads: list[str], lines: list[list[str]], note: str) -> str:
    """A table in Markdown between its heading and a note; its first column holds words."""
    marks = "|---|" + "--:|" * (len(heads) - 1)
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([f"**{heading}**", "", f"| {' | '.join(heads)} |", marks, *rows, "", note])
