"""Whether a short run tells which seed will have the better scores at full length.

    python figures/foretell.py      writes foretell.md beside this file

Of each method two seeds were trained to the end of the paper's setting. The table counts the methods in which
the seed that is ahead there is ahead in shorter runs of the same seeds, too.
"""

from itertools import combinations

import claims
import full
import keep
import pool
from common import script, write
from paper import METHODS

from lvae_min.config import Config
from lvae_min.io.text import Parser

APART = 0.02  # seeds that end nearer to one another count for nothing
SAME = ("batch_size", "warmup", "rate_form", "precision")  # the default's
SHOWN = ("beta_vae", "mig")  # scores whose values are shown
Scores = dict[tuple[str, int], dict[str, float]]  # by method and seed


def at_full_length() -> Scores:
    """The last networks of full length."""
    return claims.by_seed(claims.complete(full.more_runs()))


def shorter(rows: list[dict]) -> dict[str, Scores]:
    """The last networks of shorter runs: by their length and rate, the longest first."""
    found: dict[str, Scores] = {}
    kept = [row for row in rows if row["dataset"] == "dsprites" and not row["paper"]]
    for row in sorted(kept, key=lambda row: (-row["iterations"], -row["rate"])):
        if (
            all(row[name] == getattr(Config(), name) for name in SAME)
            and row["schedule"] == row["iterations"]
        ):
            title = title_of(row["iterations"], row["rate"])
            scores = {name: row[f"last_{name}"] for name in keep.NUMBERS}
            found.setdefault(title, {})[pool.name_of(row), row["seed"]] = scores
    return found


def title_of(iterations: int, rate: float | None) -> str:
    return f"{iterations:,} iterations, rate {rate:.2g}"


def agreement(short: Scores, long: Scores, score: str, apart: float = APART) -> tuple[int, int]:
    """In how many pairs of seeds the short runs have the same one ahead, and of how many."""
    agree = count = 0
    for one, other in combinations(sorted(long), 2):
        if one[0] == other[0] and one in short and other in short:
            end = long[one][score] - long[other][score]
            if abs(end) >= apart:
                count += 1
                agree += (short[one][score] - short[other][score]) * end > 0
    return agree, count


def text(rows: list[dict]) -> str:
    long, lengths = at_full_length(), shorter(rows)
    heads = ["runs", *(pool.BARE[score] for score in claims.SIX), "all six", "all six, of any difference"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for title, short in lengths.items():
        counts = [agreement(short, long, score) for score in claims.SIX]
        any_counts = [agreement(short, long, score, 0) for score in claims.SIX]
        totals = [tuple(map(sum, zip(*found, strict=True))) for found in (counts, any_counts)]
        if totals[0][1]:
            cells = [f"{agree} of {count}" for agree, count in [*counts, *totals]]
            lines.append("| " + " | ".join([title, *cells]) + " |")
    default = lengths.get(title_of(Config().iterations, Config().rate), {})
    columns = "".join(f" {pool.BARE[score]}, default | full length |" for score in SHOWN)
    lines += ["", f"| method | seed |{columns}"]
    lines.append("|---|--:|" + "--:|" * 2 * len(SHOWN))
    order = list(METHODS.values())
    for name, seed in sorted(long, key=lambda run: (order.index(run[0].split(",")[0]), run[1])):
        if (name, seed) in default:
            both = [(default[name, seed][score], long[name, seed][score]) for score in SHOWN]
            cells = [f"{value:.2f}" for pair in both for value in pair]
            lines.append("| " + " | ".join([name, str(seed), *cells]) + " |")
    note = (
        "First table: pairs of seeds of one method whose scores differ by "
        f"{APART:g} or more at full length, and in how many the same seed is ahead in the shorter runs; in "
        "the last column all pairs."
    )
    return "\n".join([*lines, "", note])


def main() -> None:
    Parser(description=__doc__).parse_args()
    found = text(keep.rows(keep.TABLE))
    write("foretell.md", found)
    print(found)


if __name__ == "__main__":
    script(main)
