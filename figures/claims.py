"""What the paper says of dSprites (Sec. 4.1 and 7, Table 3): whether it holds, also in part, or is open.

    python figures/claims.py      writes claims.md beside this file

The verdicts follow from the numbers, by a rule for each claim: of the last networks of full length, seed by
seed, and of the means over the seeds of the default. Where these disagree, the claim is open.
"""

from collections.abc import Callable
from operator import gt, lt

import full
import keep
import numpy as np
import pool
import rate
from betas import BETAS, OURS, over_beta, pairs
from common import script, write
from paper import COLUMNS, METHODS, SELECTED_ITERATION, TABLE_2
from samples import ENOUGH, concordance, paired
from scipy.stats import spearmanr

from lvae_min.config import Config
from lvae_min.io.text import Parser
from lvae_min.losses import PAPER_ITERATIONS

SIX = COLUMNS[1:]
CLEAR = 4  # of the six scores: that many decide
HOLDS, NOT, OPEN, PART = "**holds**", "**does not hold**", "**open**", "**holds in part**"
Verdict = tuple[str, str, str]  # verdict, deciding number, the heading of the page that has its table
BETA_2, BETA_4 = "beta-VAE, beta 2", "beta-VAE, beta 4"


class Evidence:
    """The numbers that decide, by method."""

    def __init__(self, rows: list[dict]):
        default = [row for row in rows if pool.is_default(row) and row["dataset"] == "dsprites"]
        self.rows = default
        self.seeds = next(iter(pool.groups(default).values()), {})
        more = full.more_runs()
        self.long = complete(more)
        self.logs = {SEED_0: full.full_length()["lvae"]}
        self.logs |= {label(row): log for row, log in full.more_logs(more) if row["model"] == "lvae"}

    def means(self, score: str) -> dict[str, float]:
        """Over the seeds of the default."""
        found = {name: pool.values(runs, score) for name, runs in self.seeds.items()}
        return {name: float(np.mean(some)) for name, some in found.items() if some}

    def places(self, score: str) -> dict[str, tuple[int, int, float]]:
        """Rank of L-VAE from the best on, of how many, and its value: at full length, and at the default."""
        every = {
            name: {method: row[score] for method, row in rows.items()} for name, rows in self.long.items()
        }
        sign, found = -1 if score == "rec_mean" else 1, {}
        for name, values in {**every, DEFAULT: self.means(score)}.items():
            if OURS in values and len(values) > 1:
                better = sum(sign * value > sign * values[OURS] for value in values.values())
                found[name] = 1 + better, len(values), values[OURS]
        return found

    def leads(self, score: str) -> bool:
        """Whether L-VAE is clearly better than each other method with enough of its seeds."""
        others = [runs for name, runs in self.seeds.items() if name != OURS]
        ends = [clear(self.seeds[OURS], runs, score) for runs in others]
        known = [end for end in ends if end is not None]
        return bool(known) and min(known) > 0


def clear(ours: list[dict], theirs: list[dict], score: str) -> int | None:
    """1 if ours are clearly better, by the seeds that both have, -1 if worse, 0 if neither; None: too few."""
    sides = pool.both_values(pool.side_by_side(ours, theirs), score)
    if not sides:
        return None
    _, low, high, _ = paired(*(pool.goodness(score, side) for side in sides))
    return None if low is None else (low > 0) - (high < 0)


def clear_scores(ours: list[dict], theirs: list[dict]) -> tuple[int, int, int]:
    """Of the six scores: how many can be compared, how many are clearly higher, and how many lower."""
    found = [end for score in SIX if (end := clear(ours, theirs, score)) is not None]
    return len(found), found.count(1), found.count(-1)


def label(row: dict) -> str:
    rise = "" if row["warmup"] == "linear" else f", {row['warmup']} rise"
    products = "" if row["precision"] == "tf32" else f", {row['precision']}"
    return f"full length, seed {row['seed']}{rise}{products}"


def complete(more: list[dict]) -> dict[str, dict[str, dict]]:
    """Last networks of full length, by seed and by method: those of seed 0, and others of all six methods."""
    rows = [row for row in rate.kept() if row["iterations"] == PAPER_ITERATIONS]
    found = {SEED_0: {rate.name_of(row): row for row in rows}}
    for row in more:
        scores = {name: row[f"last_{name}"] for name in keep.NUMBERS}
        found.setdefault(label(row), {})[full.title_of(row)] = scores
    six = set(METHODS.values())
    return {name: rows for name, rows in found.items() if {title.split(",")[0] for title in rows} == six}


def by_seed(long: dict[str, dict[str, dict]]) -> dict[tuple[str, int], dict]:
    """The same rows by method and seed."""
    seeds = {label: int(label.split("seed ")[1].split(",")[0]) for label in long}
    return {(method, seeds[label]): row for label, rows in long.items() for method, row in rows.items()}


def agreed(found: list[bool]) -> str:
    return HOLDS if found and all(found) else OPEN if any(found) or not found else NOT


def ordered(values: list[float], falling: bool) -> str:
    steps = np.diff(values) * (-1 if falling else 1)
    return HOLDS if (steps > 0).all() else NOT


def term(found: Evidence, score: str, falling: bool, what: str) -> Verdict:
    """A term for beta 1, 2 and 4 at the default."""
    means = found.means(score)
    names = [name for name in ("VAE", BETA_2, BETA_4) if name in means]
    values = [means[name] for name in names]
    verdict = ordered(values, falling) if len(values) == 3 else OPEN
    return verdict, f"{what} " + ", ".join(f"{value:.1f}" for value in values), "seeds-at-the-default"


def balance(found: Evidence) -> Verdict:
    return term(found, "kl", True, "KL with beta 1, 2, 4:")


def costs(found: Evidence) -> Verdict:
    return term(found, "rec_mean", False, "rec of mu with beta 1, 2, 4:")


def inverse(found: Evidence) -> Verdict:
    """Rank correlation of rec with the scores over runs of beta-VAE, as in Fig. 2; and over methods.

    As the sentence is printed; whether it means the quality of the reconstruction is for the page to say.
    """
    table = [numbers for (dataset, _), numbers in TABLE_2.items() if dataset == "dsprites"]
    others = {"the methods of Table 2": [dict(zip(COLUMNS, numbers, strict=True)) for numbers in table]}
    others |= {f"the methods, {name}": list(rows.values()) for name, rows in found.long.items()}
    cells = []
    for name, rows in others.items():
        values = [test.statistic for test in correlations(rows).values()]
        cells.append(f"over {name}: {min(values):+.2f} to {max(values):+.2f}")
    runs = swept(found.rows)
    if not runs:
        return OPEN, "no run with several betas yet", "fig-2-betas"
    tests = correlations(runs)
    listed = ", ".join(f"{pool.BARE[score]} {test.statistic:+.2f}" for score, test in tests.items())
    low, high = min(row["beta"] for row in runs), max(row["beta"] for row in runs)
    number = f"rank correlation with rec over {len(runs)} runs with beta {low:g} to {high:g}: {listed}"
    sure = [test.statistic for test in tests.values() if test.pvalue < 0.05]
    falling, rising = sum(value < 0 for value in sure), sum(value > 0 for value in sure)
    verdict = HOLDS if falling >= CLEAR else NOT if rising >= CLEAR else OPEN
    clearly = f"; {falling} clearly negative, {rising} clearly positive"
    return verdict, f"{number}{clearly} ({'; '.join(cells)})", "fig-2-betas"


def swept(rows: list[dict]) -> list[dict]:
    """Terms and scores of the runs of VAE and beta-VAE at the default, of all betas."""
    (methods,) = pool.groups(rows, betas=BETAS).values() if rows else [{}]
    return [
        {name: row[f"last_{name}"] for name in keep.NUMBERS} | {"beta": row["beta"] or 1.0}
        for name, runs in over_beta(methods).items()
        for row in runs
        if name != OURS
    ]


def correlations(rows: list[dict]) -> dict:
    """Spearman's rank correlation of rec with each of the six scores: statistic and pvalue."""
    rec = [row["rec_mean"] for row in rows]
    return {score: spearmanr(rec, [row[score] for row in rows]) for score in SIX}


def one_to_two(found: Evidence) -> Verdict:
    """Scores of beta 2 against beta 1."""
    known, above, below = clear_scores(found.seeds.get(BETA_2, []), found.seeds.get("VAE", []))
    verdict = HOLDS if above >= CLEAR else NOT if below >= CLEAR else OPEN
    number = f"of {known} scores {above} are clearly higher with beta 2 than with 1, {below} clearly lower"
    return verdict, number if known else "too few seeds", "seeds-at-the-default"


def others_matter(found: Evidence) -> Verdict:
    """Scores at full length, with its low rate, against the default's, of the same methods and seeds.

    No interval: the pairs are those of a few methods and two seeds, not independent.
    """
    default = {(pool.name_of(row), row["seed"]): row for row in found.rows}
    both = [(row, default[run]) for run, row in by_seed(found.long).items() if run in default]
    counts, changed = [], 0
    for score in SIX:
        sides = [row[score] for row, _ in both], [row[f"last_{score}"] for _, row in both]
        higher, lower = sum(map(gt, *sides)), sum(map(lt, *sides))
        changed += len(both) >= ENOUGH and len(both) in (higher, lower)
        counts.append(f"{pool.BARE[score]} {higher}")
    seeds = len({row["seed"] for row in (default[run] for run in by_seed(found.long) if run in default)})
    number = (
        f"{changed} of 6 scores change alike from the default to full length in all {len(both)} pairs of the "
        f"same method and seed, of {seeds} seeds; higher there: {', '.join(counts)}"
    )
    return HOLDS if changed >= CLEAR else OPEN, number, "does-a-short-run-predict-a-long-one"


def below_one(found: Evidence) -> Verdict:
    """Scores of the beta below 1 against VAE. The paper shows it on MPI3D and Isaac3D."""
    (methods,) = pool.groups(found.rows, betas=None).values() if found.rows else [{}]
    low = {name: runs for name, runs in methods.items() if runs[0]["beta"] and runs[0]["beta"] < 1}
    if not low:
        return OPEN, "no run with beta < 1 yet", "fig-2-betas"
    cells, verdict = [], OPEN
    for name, runs in low.items():
        known, above, below = clear_scores(runs, methods.get("VAE", []))
        counts = f"{above} of {known} scores clearly higher than with beta 1, {below} lower"
        cells.append(f"{name}: {counts if known else 'too few seeds'}")
        verdict = HOLDS if above >= CLEAR else NOT if verdict == OPEN and below >= CLEAR else verdict
    return verdict, "; ".join(cells), "fig-2-betas"


def in_logs(judge: Callable[[list[dict]], tuple[bool, str]]) -> Callable[[Evidence], Verdict]:
    """A claim about the course of L-VAE at full length, judged in each log."""

    def of(found: Evidence) -> Verdict:
        judged = {name: judge(log) for name, log in found.logs.items()}
        cells = [f"{cell} ({name})" for name, (_, cell) in judged.items()]
        return agreed([agrees for agrees, _ in judged.values()]), "; ".join(cells), FULL

    return of


def peak(log: list[dict]) -> tuple[bool, str]:
    """A rise from the start, where sigma_0 is 1, and then a lower mean change, up or down, per iteration."""
    steps = [0, *(line["step"] for line in log)]
    values = [1.0, *(line["sigma_0"] for line in log)]
    top = values.index(max(values))
    cell = f"peak {values[top]:.2f} at {steps[top]:,}, {values[-1]:.2f} at the end"
    if not 0 < top < len(log):
        return False, cell
    changes = np.abs(np.diff(values))
    before, after = changes[:top].sum() / steps[top], changes[top:].sum() / (steps[-1] - steps[top])
    return after < before, f"{cell}; change per 10,000 iterations {1e4 * before:.2g}, then {1e4 * after:.2g}"


def falls(log: list[dict]) -> tuple[bool, str]:
    """By the validation scores, as the paper's Fig. 3, from the peak of sigma_0 on."""
    top = max(full.validations(log), key=lambda line: line["sigma_0"])
    before, after = (line["validation"]["beta_vae"] for line in (top, log[-1]))
    return after < before, f"{before:.2f} at {top['step']:,}, {after:.2f} at the end"


def best_iteration(log: list[dict]) -> tuple[bool, str]:
    """Within an evaluation of the paper's."""
    step = full.selected(log, "beta_vae")["step"]
    return abs(step - SELECTED_ITERATION) <= 10_000, f"{step:,}"


def above_one(log: list[dict]) -> tuple[bool, str]:
    """At the end and where the beta-VAE score selects."""
    end, chosen = log[-1]["beta"], full.selected(log, "beta_vae")["beta"]
    return min(end, chosen) > 1, f"{chosen:.2f} selected, {end:.2f} at the end"


def first(*scores: str) -> Callable[[Evidence], Verdict]:
    """Whether L-VAE is the best in these scores; at the default clearly."""

    def of(found: Evidence) -> Verdict:
        cells, best = [], []
        for score in scores:
            for name, (place, count, value) in found.places(score).items():
                alone = place == 1 and (name != DEFAULT or found.leads(score))
                near = ", not clearly" if place == 1 and not alone else ""
                cells.append(f"{pool.BARE[score]} {value:.2f}, place {place} of {count} ({name}{near})")
                best.append(alone)
        return agreed(best), "; ".join(cells), FULL

    return of


def many(found: Evidence) -> Verdict:
    """In how many of the six scores L-VAE is first or second."""
    counts = dict.fromkeys([*found.long, *[DEFAULT] * (OURS in found.seeds)], 0)
    for score in SIX:
        for name, (place, *_) in found.places(score).items():
            counts[name] += place <= 2
    text = "first or second in " + ", ".join(f"{count} of 6 ({name})" for name, count in counts.items())
    return agreed([count >= CLEAR for count in counts.values()]), text, FULL


def reconstruction(found: Evidence) -> Verdict:
    """Against how many methods rec of L-VAE is the lower one."""
    places = found.places("rec_mean")
    cells = [
        f"{value:.2f}, lower than {count - place} of {count - 1} ({name})"
        for name, (place, count, value) in places.items()
    ]
    first = all(place == 1 for place, *_ in places.values())
    last = all(place == count for place, count, _ in places.values())
    verdict = OPEN if not places else HOLDS if first else NOT if last else PART
    return verdict, f"rec of mu {'; '.join(cells)}", FULL


def no_order(found: Evidence) -> Verdict:
    """Whether the six scores order the methods alike at full length, partly, or as by chance."""
    verdicts, cells = set(), []
    for name, rows in found.long.items():
        orders = {tuple(sorted(rows, key=lambda method: -rows[method][score])) for score in SIX}
        agreement, p_value = concordance([[row[score] for row in rows.values()] for score in SIX])
        verdicts.add(NOT if len(orders) == 1 else HOLDS if p_value >= 0.05 else PART)
        cells.append(f"Kendall's W {agreement:.2f}, p = {p_value:.1g} ({name})")
    table = [numbers[1:] for (dataset, _), numbers in TABLE_2.items() if dataset == "dsprites"]
    cells.append(f"W {concordance(list(zip(*table, strict=True)))[0]:.2f} of the paper's numbers")
    return verdicts.pop() if len(verdicts) == 1 else OPEN, "; ".join(cells), FULL


def ablation(score: str, what: str) -> Callable[[Evidence], Verdict]:
    """Whether beta-VAE with the learned beta is clearly worse than L-VAE in a score."""

    def of(found: Evidence) -> Verdict:
        (methods,) = pool.groups(found.rows, betas=None).values() if found.rows else [{}]
        if not (both := pairs(methods)):
            return OPEN, "no pair at the default yet", TABLE_3
        ours, given = (list(side) for side in zip(*both, strict=True))
        end = clear(ours, given, score)
        sides = pool.both_values(both, score)
        worse = (pool.goodness(score, sides[0]) > pool.goodness(score, sides[1])).sum()
        verdict = {1: HOLDS, -1: NOT}.get(end, OPEN)
        return verdict, f"{what} in {worse} of {len(both)} pairs", TABLE_3

    return of


SEED_0, DEFAULT = "full length, seed 0", "default"
FULL = "full-length-the-papers-setting-to-its-end"
TABLE_3 = "table-3-beta-vae-with-the-learned-beta"
CLAIMS: list[tuple[str, str, Callable[[Evidence], Verdict]]] = [
    ("4.1, Observation 1", "A larger beta dampens the increase of KL", balance),
    ("4.1, Observation 2", "A larger beta raises the reconstruction loss", costs),
    (
        "4.1, Observation 2",
        "In most cases disentanglement is inversely proportional to the reconstruction loss",
        inverse,
    ),
    ("4.1, Observation 3", "Disentanglement depends on other hyperparameters too", others_matter),
    ("4.1, Observation 3", "beta 2 gives better disentanglement than beta 1", one_to_two),
    ("4.1, Observation 4", "beta < 1 can increase disentanglement (seen on MPI3D and Isaac3D)", below_one),
    ("7.1", "sigma_0 rises to a peak, then changes less", in_logs(peak)),
    ("7.1", "The beta-VAE score decreases slightly as sigma_0 does", in_logs(falls)),
    ("7.1", "The best beta-VAE score is at iteration 50,000", in_logs(best_iteration)),
    ("7.1", "sigma_0 surpasses sigma_1: beta_hat > 1 (1.39)", in_logs(above_one)),
    ("7.2", "Modularity: L-VAE has the best beta-VAE and FactorVAE scores", first("beta_vae", "factor_vae")),
    ("7.2", "L-VAE has the best explicitness", first("explicitness")),
    ("7.2", "L-VAE has the best IRS", first("irs")),
    ("7.2", "L-VAE is superior or on par in many of the six scores", many),
    ("7.2", "L-VAE's reconstruction is better than or on par with others", reconstruction),
    ("7.2", "The six scores give no consistent order of the methods", no_order),
    ("Table 3, caption", "With the learned beta given, rec is higher", ablation("rec_mean", "higher")),
    (
        "Table 3, caption",
        "With the learned beta given, the beta-VAE score is lower",
        ablation("beta_vae", "lower"),
    ),
]


def text(rows: list[dict]) -> str:
    found, every = Evidence(rows), []
    lines = ["| Sec. | the paper says of dSprites | here | deciding number |", "|---|---|---|---|"]
    for section, claim, judge in CLAIMS:
        verdict, number, anchor = judge(found)
        every.append(verdict)
        lines.append(f"| {section} | {claim} | {verdict} | {number} ([table](#{anchor})) |")
    named = {HOLDS: "hold", PART: "hold in part", NOT: "do not hold", OPEN: "are open"}
    counts = ", ".join(f"{every.count(verdict)} {words}" for verdict, words in named.items())
    note = (
        f"Of {len(every)} claims {counts}. A claim about the six scores holds if {CLEAR} or more of them "
        f"clearly agree with it, does not hold if {CLEAR} or more clearly say the opposite, and is open "
        "otherwise; a score changes with other hyperparameters if it is higher in every pair, or lower in "
        "every pair. A claim that is judged at full length, seed by seed, and at the default holds if all of "
        "these agree with it, does not hold if none does, and is open otherwise. "
        f"Full length: {PAPER_ITERATIONS:,} iterations, the last network; the learning rate of seed 0 "
        "rises along a cosine, that of others along a line. Default: means over the seeds, "
        f"{Config().iterations:,} iterations. Place: the rank of L-VAE, 1 for the best. "
        "Clearly: the 95 % interval of the difference, pair by pair (Student's t), does not contain 0, or "
        "for a correlation p < .05; not corrected for the number of comparisons. In part: against some "
        "methods and not against others, or in some respects. Kendall's W: 1 where all six scores give one "
        "order, 1/6 on average by chance."
    )
    return "\n".join([*lines, "", note])


def main() -> None:
    Parser(description=__doc__).parse_args()
    found = text(keep.rows(keep.TABLE))
    write("claims.md", found)
    print(found)


if __name__ == "__main__":
    script(main)
