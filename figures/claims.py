"""What the paper says of dSprites (Sec. 4.1 and 7): whether it holds, does not hold, or is open.

    python figures/claims.py      writes claims.md beside this file

The verdicts follow from the numbers, by a rule for each claim: of the last networks of full length
(figures/data/paper, one seed a method), and of the seeds of the default (figures/data/runs.csv).
"""

from collections.abc import Callable

import full
import keep
import numpy as np
import pool
import rate
from betas import OURS, pairs
from common import script, write
from paper import BETA_HAT, COLUMNS, METHODS, SELECTED_ITERATION
from samples import difference, explained, rank_correlation

from lvae_min.config import Config
from lvae_min.io.text import Parser
from lvae_min.losses import PAPER_ITERATIONS

SIX = COLUMNS[1:]
CLEAR = 4  # of the six scores: that many decide
HOLDS, NOT, OPEN = "**holds**", "**does not hold**", "**open**"
Verdict = tuple[str, str, str]  # verdict, deciding number, the heading of the page that has its table
BETA_2, BETA_4 = "beta-VAE, beta 2", "beta-VAE, beta 4"


class Evidence:
    """The numbers that decide, by method."""

    def __init__(self, rows: list[dict]):
        default = [row for row in rows if pool.is_default(row) and row["dataset"] == "dsprites"]
        self.rows = default
        self.seeds = next(iter(pool.groups(default).values()), {})
        self.logs = full.full_length()
        lasts = [row for row in rate.kept() if row["iterations"] == PAPER_ITERATIONS]
        self.long = {METHODS[row["method"]]: row for row in lasts}

    def means(self, score: str) -> dict[str, float]:
        """Over the seeds of the default."""
        found = {name: pool.values(runs, score) for name, runs in self.seeds.items()}
        return {name: float(np.mean(some)) for name, some in found.items() if some}

    def place(self, score: str, length: str) -> tuple[int, int, float]:
        """Rank of L-VAE from the best on, of how many, and its value."""
        found = self.means(score)
        if length == "long":
            found = {name: row[score] for name, row in self.long.items()}
        sign = -1 if score == "rec_mean" else 1
        if OURS not in found:
            return 0, len(found), np.nan
        better = sum(sign * value > sign * found[OURS] for value in found.values())
        return 1 + better, len(found), found[OURS]

    def leads(self, score: str) -> bool:
        """Whether L-VAE's seeds are clearly better than those of each other method with enough seeds."""
        ours = pool.goodness(score, pool.values(self.seeds[OURS], score))
        ends = [
            difference(ours, pool.goodness(score, pool.values(runs, score)))[1]
            for name, runs in self.seeds.items()
            if name != OURS and pool.values(runs, score)
        ]
        return all(low > 0 for low in ends if low is not None)

    def clear(self, ours: list[dict], theirs: list[dict]) -> tuple[int, int, int]:
        """Of the six scores: how many have an interval of the difference, above 0, and below 0."""
        found = [[pool.values(runs, score) for runs in (ours, theirs)] for score in SIX]
        ends = [difference(*sides)[1:] for sides in found if all(sides)]
        known = [(low, high) for low, high in ends if low is not None]
        return len(known), sum(low > 0 for low, _ in known), sum(high < 0 for _, high in known)


def ordered(values: list[float], falling: bool) -> str:
    steps = np.diff(values)
    return HOLDS if (steps < 0).all() == falling and (steps > 0).all() != falling else NOT


def over_beta(found: Evidence, score: str, falling: bool, what: str) -> Verdict:
    """A term for beta 1, 2 and 4 at the default."""
    means = found.means(score)
    names = [name for name in ("VAE", BETA_2, BETA_4) if name in means]
    values = [means[name] for name in names]
    verdict = ordered(values, falling) if len(values) == 3 else OPEN
    return verdict, f"{what} " + ", ".join(f"{value:.1f}" for value in values), "seeds-at-the-default"


def balance(found: Evidence) -> Verdict:
    return over_beta(found, "kl", True, "KL with beta 1, 2, 4:")


def costs(found: Evidence) -> Verdict:
    return over_beta(found, "rec_mean", False, "rec of mu with beta 1, 2, 4:")


def inverse(found: Evidence) -> Verdict:
    """Rank correlation of rec and of the scores over the methods at full length."""
    rec = [row["rec_mean"] for row in found.long.values()]
    ranks = [rank_correlation(rec, [row[score] for row in found.long.values()]) for score in SIX]
    number = (
        f"rank correlation with rec over the methods: {min(ranks):+.2f} to {max(ranks):+.2f}, full length"
    )
    return HOLDS if max(ranks) < 0 else NOT if min(ranks) > 0 else OPEN, number, FULL


def one_to_two(found: Evidence) -> Verdict:
    """Scores of beta 2 against beta 1."""
    known, above, below = found.clear(found.seeds.get(BETA_2, []), found.seeds.get("VAE", []))
    verdict = HOLDS if above >= CLEAR else NOT if below >= CLEAR else OPEN
    number = f"of {known} scores {above} are clearly higher with beta 2 than with 1, {below} clearly lower"
    return verdict, number, "seeds-at-the-default"


def others_matter(found: Evidence) -> Verdict:
    """MIG of beta-VAE 4 at rates below and from 1e-3 on, and what the seeds explain."""
    rows = [row for row in rate.comparable(rate.kept()) if rate.name_of(row) == BETA_4]
    ends = {}
    for high in (False, True):
        good = [row["mig"] >= rate.GOOD_MIG for row in rows if (row["peak_rate"] >= 1e-3) == high]
        ends[high] = sum(good), len(good)
    low, high = (good / count for good, count in ends.values())
    text = "beta-VAE 4 has a MIG of at least {} in {} of {} runs with a peak rate below 1e-3, {} of {} above"
    number = text.format(rate.GOOD_MIG, *ends[False], *ends[True])
    share = explained([pool.values(runs, "beta_vae") for runs in found.seeds.values()] or [[]])
    if share is not None:
        number += f"; {1 - share:.0%} of the variance of the beta-VAE score are the seeds'"
    return HOLDS if low != high else NOT, number, "how-the-default-was-chosen"


def below_one(found: Evidence) -> Verdict:
    """Scores of the beta below 1 against VAE. The paper shows it on MPI3D and Isaac3D."""
    (methods,) = pool.groups(found.rows, betas=None).values() if found.rows else [{}]
    low = {name: runs for name, runs in methods.items() if runs[0]["beta"] and runs[0]["beta"] < 1}
    if not low:
        return OPEN, "no run with beta < 1 yet", "fig-2-betas"
    cells, verdict = [], OPEN
    for name, runs in low.items():
        known, above, below = found.clear(runs, methods.get("VAE", []))
        cells.append(f"{name}: {above} of {known} scores clearly higher than with beta 1, {below} lower")
        verdict = HOLDS if above >= CLEAR else NOT if verdict == OPEN and below >= CLEAR else verdict
    return verdict, "; ".join(cells), "fig-2-betas"


def peak(found: Evidence) -> Verdict:
    log = found.logs["lvae"]
    top = max(log, key=lambda line: line["sigma_0"])
    number = f"peak {top['sigma_0']:.2f} at {top['step']:,}, {log[-1]['sigma_0']:.2f} at the end"
    return HOLDS if top["step"] < log[-1]["step"] else NOT, number, FULL


def falls(found: Evidence) -> Verdict:
    log = found.logs["lvae"]
    top = full.selected(log, "beta_vae")
    before, after = (line["validation"]["beta_vae"] for line in (top, log[-1]))
    number = f"{before:.2f} at {top['step']:,}, {after:.2f} at the end (validation)"
    return HOLDS if after < before else NOT, number, FULL


def best_iteration(found: Evidence) -> Verdict:
    step = full.selected(found.logs["lvae"], "beta_vae")["step"]
    near = abs(step - SELECTED_ITERATION) <= 10_000
    return HOLDS if near else NOT, f"{step:,} against {SELECTED_ITERATION:,}", FULL


def above_one(found: Evidence) -> Verdict:
    """beta_hat > 1, and how it compares with the paper's."""
    log, means = found.logs["lvae"], found.means("beta")
    chosen = full.selected(log, "beta_vae")["beta"]
    ends = [log[-1]["beta"], chosen, *[means[OURS]] * (OURS in means)]
    number = f"{ends[0]:.2f} at the end of full length, {ends[1]:.2f} selected there"
    number += f", {ends[2]:.2f} at the default" if len(ends) > 2 else ""
    return HOLDS if min(ends) > 1 else NOT, f"{number}; the paper's {BETA_HAT['dsprites']}", FULL


def first(*scores: str) -> Callable[[Evidence], Verdict]:
    """Whether L-VAE is the best in these scores: at full length, and at the default beyond the seeds' spread.

    Open where the two disagree.
    """

    def of(found: Evidence) -> Verdict:
        cells, agreed = [], []
        for length, name in (("long", "full length"), ("short", "default")):
            for score in scores:
                place, count, value = found.place(score, length)
                if not place:
                    continue
                alone = place == 1 and (length == "long" or found.leads(score))
                agreed.append(alone)
                near = ", within the seeds' spread" if place == 1 and not alone else ""
                cells.append(f"{pool.BARE[score]} {value:.2f}, place {place} of {count} ({name}{near})")
        verdict = HOLDS if all(agreed) else OPEN if any(agreed) else NOT
        return verdict, "; ".join(cells), FULL

    return of


def many(found: Evidence) -> Verdict:
    """In how many of the six scores L-VAE is first or second."""
    counts = {}
    for length in ("long", "short"):
        places = [found.place(score, length)[0] for score in SIX]
        counts[length] = sum(0 < place <= 2 for place in places)
    text = f"first or second in {counts['long']} of 6 at full length, in {counts['short']} at the default"
    enough = [count >= CLEAR for count in counts.values()]
    return HOLDS if all(enough) else NOT if not any(enough) else OPEN, text, FULL


def reconstruction(found: Evidence) -> Verdict:
    """Whether rec of L-VAE is lower than that of most rivals."""
    cells, lower = [], []
    for length, name in (("long", "full length"), ("short", "default")):
        place, count, value = found.place("rec_mean", length)
        if place:
            lower.append(place <= count / 2)
            cells.append(f"{value:.2f}, place {place} of {count} ({name})")
    return HOLDS if all(lower) else NOT, f"rec of mu {'; '.join(cells)}", FULL


def no_order(found: Evidence) -> Verdict:
    """Whether the first three methods differ between the scores at full length."""
    tops = set()
    for score in SIX:
        names = sorted(found.long, key=lambda name: -found.long[name][score])
        tops.add(frozenset(names[:3]))
    names = ", ".join(name for name in METHODS.values() if all(name in top for top in tops))
    number = f"first three in all six at full length: {names or 'not the same methods'}"
    return NOT if len(tops) == 1 else HOLDS, number, FULL


def ablation(found: Evidence) -> Verdict:
    """beta-VAE with the learned beta against L-VAE."""
    (methods,) = pool.groups(found.rows, betas=None).values() if found.rows else [{}]
    both = pairs(methods)
    if not both:
        return OPEN, "no pair at the default yet", TABLE_3
    values = {
        name: [[row[f"last_{name}"] for row in pair] for pair in both] for name in ("rec_mean", "beta_vae")
    }
    higher = sum(given > ours for ours, given in values["rec_mean"])
    lower = sum(given < ours for ours, given in values["beta_vae"])
    number = f"rec of mu is higher in {higher} of {len(both)} pairs, the beta-VAE score lower in {lower}"
    most = [count / len(both) for count in (higher, lower)]
    return HOLDS if min(most) > 0.75 else NOT if min(most) < 0.5 else OPEN, number, TABLE_3


FULL = "full-length-the-papers-setting-to-its-end"
TABLE_3 = "table-3-beta-vae-with-the-learned-beta"
CLAIMS: list[tuple[str, str, Callable[[Evidence], Verdict]]] = [
    ("4.1, 1", "A larger beta dampens the increase of KL", balance),
    ("4.1, 2", "A larger beta raises the reconstruction loss", costs),
    ("4.1, 2", "In most cases disentanglement is inversely proportional to the reconstruction loss", inverse),
    ("4.1, 3", "Disentanglement depends on other hyperparameters too", others_matter),
    ("4.1, 3", "beta 2 gives better disentanglement than beta 1", one_to_two),
    ("4.1, 4", "beta < 1 can increase disentanglement (seen on MPI3D and Isaac3D)", below_one),
    ("7.1", "sigma_0 rises to a peak, then changes less", peak),
    ("7.1", "The beta-VAE score decreases slightly as sigma_0 does", falls),
    ("7.1", "The best beta-VAE score is at iteration 50,000", best_iteration),
    ("7.1", "sigma_0 surpasses sigma_1: beta_hat > 1", above_one),
    ("7.2", "Modularity: L-VAE has the best beta-VAE and FactorVAE scores", first("beta_vae", "factor_vae")),
    ("7.2", "L-VAE has the best explicitness", first("explicitness")),
    ("7.2", "L-VAE has the best IRS", first("irs")),
    ("7.2", "L-VAE is superior or on par in many of the six scores", many),
    ("7.2", "L-VAE's reconstruction is better than or on par with others", reconstruction),
    ("7.2", "The six scores give no consistent order of the methods", no_order),
    ("7.3", "With the learned beta given, rec is higher and the beta-VAE score lower", ablation),
]


def text(rows: list[dict]) -> str:
    found = Evidence(rows)
    lines = ["| Sec. | the paper says of dSprites | here | deciding number |", "|---|---|---|---|"]
    for section, claim, judge in CLAIMS:
        verdict, number, anchor = judge(found)
        lines.append(f"| {section} | {claim} | {verdict} | {number} ([table](#{anchor})) |")
    note = (
        f"Full length: {PAPER_ITERATIONS:,} iterations, seed 0, the last network. Default: means over the seeds "
        f"of {Config().iterations:,} iterations. Clearly: the 95 % interval of the difference of the means "
        "does not contain 0."
    )
    return "\n".join([*lines, "", note])


def main() -> None:
    Parser(description=__doc__).parse_args()
    found = text(keep.rows(keep.TABLE))
    write("claims.md", found)
    print(found)


if __name__ == "__main__":
    script(main)
