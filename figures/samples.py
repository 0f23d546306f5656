"""What a few numbers of each method say: intervals, odds, shares of variance, ranks, the best of a few."""

import math

import numpy as np

ENOUGH = 4  # numbers: fewer give no interval and no rank correlation
RESAMPLES = 10_000


def difference(ours: list[float], theirs: list[float]) -> tuple[float, float | None, float | None]:
    """Difference of the means, and the ends of its 95 % interval.

    Percentiles of a bootstrap that draws the seeds of each method anew. No interval below four seeds.
    """
    mean = float(np.mean(ours) - np.mean(theirs))
    if min(len(ours), len(theirs)) < ENOUGH:
        return mean, None, None
    random = np.random.default_rng(0)
    drawn = [random.choice(found, (RESAMPLES, len(found))).mean(1) for found in (ours, theirs)]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    return mean, float(low), float(high)


def odds(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Probability that a random one of ours is higher than a random one of theirs; equal ones count half."""
    return float(np.mean((np.sign(np.subtract.outer(ours, theirs)) + 1) / 2))


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
