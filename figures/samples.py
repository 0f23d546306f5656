"""What a few numbers of each method say: intervals, shares of variance, ranks, the best of a few."""

import math

import numpy as np
from scipy import stats

ENOUGH = 4  # numbers: fewer give no interval and no rank correlation


def paired(ours: list[float], theirs: list[float]) -> tuple[float, float | None, float | None, float | None]:
    """Mean of the differences of pairs, the ends of its 95 % interval, and its p-value: Student's t test.

    Both lists are of the same seeds, in the same order. Below four pairs the mean alone is known.
    """
    each = np.subtract(ours, theirs)
    mean = float(each.mean())
    if len(each) < ENOUGH:
        return mean, None, None, None
    if np.ptp(each) < 1e-9:  # equal but for rounding: as sure as can be
        return (0.0, 0.0, 0.0, 1.0) if abs(mean) < 1e-9 else (mean, mean, mean, 0.0)
    test = stats.ttest_1samp(each, 0)
    low, high = test.confidence_interval()
    return mean, float(low), float(high), float(test.pvalue)


def holm(p_values: list[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979).

    Where nothing differs, a value below .05 is left in at most 5 % of the tables.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def concordance(found: list[list[float]]) -> tuple[float, float]:
    """Kendall's W of some scores (rows) of the same three or more methods, and its p-value (Friedman's test).

    W is 1 if all scores give one order; by chance it is 1 / the number of scores on average.
    """
    test = stats.friedmanchisquare(*zip(*found, strict=True))
    return float(test.statistic) / (len(found) * (len(found[0]) - 1)), float(test.pvalue)


def explained(found: list[list[float]]) -> float | None:
    """eta squared: the share of the variance of all values that lies between the groups.

    None where no group has two values, or all values are the same.
    """
    if len(found) < 2 or max(map(len, found)) < 2:
        return None
    every = np.concatenate(found)
    total = float(((every - every.mean()) ** 2).sum())
    within = sum(float(((np.array(group) - np.mean(group)) ** 2).sum()) for group in found)
    return 1 - within / total if total > 0 else None


def ranks(found: list[float]) -> np.ndarray:
    """Ranks from 1 on, equal values with the mean of theirs."""
    found = np.array(found)
    return (found[:, None] > found).sum(1) + ((found[:, None] == found).sum(1) + 1) / 2


def rank_correlation(one: list[float], other: list[float]) -> float | None:
    """Spearman's; None below four pairs, or where all values of a side are the same."""
    if len(one) < ENOUGH or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def best_of(validation: list[float], test: list[float], size: int) -> float:
    """The test score that is to be expected of the best of `size` runs by validation score.

    The mean over all subsets: of N runs in order, the i-th (from 0) is the best of C(i, size - 1) of them. Of
    equal ones the first counts.
    """
    order = sorted(range(len(test)), key=lambda place: (validation[place], -place))
    total = math.comb(len(test), size)
    return sum(math.comb(i, size - 1) / total * test[place] for i, place in enumerate(order))
