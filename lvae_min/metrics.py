"""The six disentanglement scores of Sec. 6.4, equal to those of the implementation that the paper used.

Factors are (M, K) ground-truth values and codes (M, L) posterior means, a row an image. By default each
factor is binned into 10 bins, as that implementation does; `discrete=True` takes its values as they are. All
six are `f(factors, codes, discrete) -> float`, 1 is best, and chance is near 0 except for IRS and
Explicitness.

Where the reference gives NaN or fails, this file decides: a constant factor is left out, a constant code
carries no information, one latent has its own value as its gap. Values that are not finite, shapes that do
not match, and factors that are all constant raise ValueError.

Reference: Carbonneau et al. 2022, "Measuring disentanglement: a review of metrics", and their code
(ubisoft-laforge-DisentanglementMetrics, commit 05d5667), here called the reference.

    python -m lvae_min.metrics codes.npz        the six scores of arrays `factors` and `codes`
"""

import argparse
import functools
import sys
import warnings
import zipfile
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

BINS = 10               # of the reference
BATCH = 200             # samples a vote of the beta-VAE and FactorVAE scores
CHUNK = 64              # votes drawn at once, so that they stay in the cache
TITLES = {"beta_vae": "beta-VAE", "factor_vae": "FactorVAE", "explicitness": "Explicitness",
          "irs": "IRS", "mig": "MIG", "sap": "SAP"}                          # in the order of Table 2


@dataclass
class Groups:
    """A factor: the samples of each of its V values."""

    labels: np.ndarray          # (M,) int64, 0 to V - 1
    order: np.ndarray           # (M,) rows sorted by label
    count: np.ndarray           # (V,) rows of a label
    start: np.ndarray           # (V,) where they begin in `order`

    @classmethod
    def of(cls, values: np.ndarray) -> "Groups":
        whole = values.astype(np.int64) if 0 <= values.min() and values.max() < 4 * len(values) else None
        if whole is not None and (whole == values).all():                       # no need to sort
            labels = (np.cumsum(np.bincount(whole) > 0) - 1).take(whole)
        else:
            labels = np.unique(values, return_inverse=True)[1].reshape(-1)
        count = np.bincount(labels)
        order = np.argsort(labels.astype(np.uint16) if len(count) < 2**16 else labels, kind="stable")
        return cls(labels, order, count, np.cumsum(count) - count)

    def rows(self, value: int) -> np.ndarray:
        return self.order[self.start[value]:self.start[value] + self.count[value]]


def checked(factors: ArrayLike, codes: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Factors that are not constant (M, K) and codes (M, L), float64. Raises ValueError for anything else."""
    arrays = []
    for name, given in (("factors", factors), ("codes", codes)):
        try:
            array = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name}: expected numbers, got {np.asarray(given).dtype}") from None
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"{name} of shape {array.shape}: expected (samples, {name}), neither of them 0")
        broken = (~np.isfinite(array)).sum(0)
        if broken.any():
            column = broken.argmax()
            raise ValueError(f"{name}: column {column} is not finite in {broken[column]} of {len(array)} "
                             "rows")
        arrays.append(array)
    factors, codes = arrays
    if len(factors) != len(codes):
        raise ValueError(f"{len(factors)} rows of factors and {len(codes)} of codes: expected equally many")
    varied = factors.min(0) < factors.max(0)
    if not varied.any():
        raise ValueError(f"factors: all {len(varied)} columns are constant: there is nothing to score")
    return factors[:, varied], codes


def min_max(x: np.ndarray) -> np.ndarray:
    """Columns scaled to [0, 1]; a constant one becomes 0.

    x * s - min * s in this order, as the reference: (x - min) / (max - min) puts values on other sides of bin
    edges.
    """
    low, span = x.min(0), np.ptp(x, axis=0)
    slope = 1 / np.where(span < 10 * np.finfo(float).eps, 1.0, span)
    return x * slope + (0 - low * slope)


def binned(x: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bin of each value, 0 to bins - 1, of `bins` equal ones over the column's range; edges go up."""
    scaled, index = min_max(x), np.zeros(x.shape, np.int64)
    for edge in np.linspace(0, 1, bins + 1)[1:-1]:
        index += scaled >= edge
    return index


def prepared(factors: ArrayLike, codes: ArrayLike, discrete: bool) -> tuple[list[Groups], np.ndarray]:
    """The factors as groups of samples, and the codes, checked."""
    factors, codes = checked(factors, codes)
    return [Groups.of(column) for column in (factors if discrete else binned(factors)).T], codes


def gap(matrix: np.ndarray) -> float:
    """Mean over factors of the largest less the second largest of a row (K, L); of one latent, its value."""
    best = np.sort(np.pad(matrix, ((0, 0), (1, 0))), axis=1)                 # a latent of value 0 beside them
    return float((best[:, -1] - best[:, -2]).mean())


def one_thread() -> AbstractContextManager:
    """NumPy's BLAS on one thread: these products are small, and threads that wait cost more than they do."""
    return blas_controller().limit(limits=1)


@functools.cache
def blas_controller():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api="openblas")


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of a histogram."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def mutual_information(factors: ArrayLike, codes: ArrayLike, discrete: bool = False,
                       bins: int = BINS) -> np.ndarray:
    """I(factor; code) / H(code) for each pair, (K, L) in [0, 1], from histograms; codes are in `bins` bins.

    A constant code has 0 for all factors. Rows are the factors that are not constant.
    """
    groups, codes = prepared(factors, codes, discrete)
    codes, matrix = binned(codes, bins), np.zeros((len(groups), codes.shape[1]))
    for k, factor in enumerate(groups):
        for latent in range(codes.shape[1]):
            cells = np.bincount(factor.labels * bins + codes[:, latent], minlength=len(factor.count) * bins)
            joint = cells.reshape(-1, bins)                                     # (V, bins) rows in common
            code = entropy(joint.sum(0))
            matrix[k, latent] = (entropy(joint.sum(1)) + code - entropy(joint)) / code if code > 0 else 0.0
    return matrix


def mig(factors: ArrayLike, codes: ArrayLike, discrete: bool = False, bins: int = BINS) -> float:
    """Mutual information gap (Chen et al. 2018), 0 to 1.

        1/K sum_k (I(k; best code) / H(best code) - I(k; second) / H(second))

    The reference divides by the entropy of the binned code; Chen et al. and most libraries divide by that of
    the factor, so that their numbers are others. A constant code counts as 0 (the reference: NaN).
    """
    return gap(mutual_information(factors, codes, discrete, bins))


def sap(factors: ArrayLike, codes: ArrayLike, discrete: bool = False) -> float:
    """Separated attribute predictability (Kumar et al. 2018), 0 to 1.

        1/K sum_k (S[k, best code] - S[k, second]),   S = cov(factor, code)^2 / (var(factor) var(code))

    S is the R^2 of a line through the factor over the code, on the values as they are (nothing is binned):
    the reference's regression form. `discrete=True` is its classification form: S is the accuracy of a
    decision tree, depth chosen by cross-validation (seconds to minutes). A constant code has S = 0 in the
    first form.
    """
    factors, codes = checked(factors, codes)
    if discrete:
        return gap(tree_accuracy(factors, codes))
    varied = np.ptp(codes, axis=0) > 0                                     # a variance of 0 may round to more
    factors, codes = factors - factors.mean(0), (codes - codes.mean(0)) * varied
    spread = np.outer((factors**2).sum(0), (codes**2).sum(0))                   # (K, L)
    return gap((factors.T @ codes) ** 2 / np.where(spread > 0, spread, 1))


def tree_accuracy(factors: np.ndarray, codes: np.ndarray, folds: int = 10, depths: int = 9) -> np.ndarray:
    """Accuracy (K, L) of a tree that reads a factor from one code, of the depth with the best
    cross-validation.

    On one feature a tree of depth d is the deeper tree cut at d, so that one fit serves all depths.
    """
    from sklearn.model_selection import StratifiedKFold

    scaled, matrix = min_max(codes), np.empty((factors.shape[1], codes.shape[1]))
    for k, values in enumerate(factors.T):
        labels = Groups.of(values).labels
        if np.bincount(labels).max() < folds:
            raise ValueError(f"factors: no value of factor {k} has the {folds} rows for cross-validation")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of values with fewer rows than folds
            splits = list(StratifiedKFold(folds).split(labels, labels))
        for latent, code in enumerate(scaled.T):
            held_out = np.array([accuracy_by_depth(code[a], labels[a], code[b], labels[b], depths)
                                 for a, b in splits])
            # numpy's mean of one fold after the other: ties between depths are decided in the last bit.
            best = np.argmax([np.ascontiguousarray(column).mean() for column in held_out.T])
            matrix[k, latent] = accuracy_by_depth(code, labels, code, labels, depths)[best]
    return matrix


def accuracy_by_depth(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray,
                      depths: int) -> np.ndarray:
    """Test accuracy (depths,) of trees of depth 1, 2, ... on one feature."""
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(max_depth=depths).fit(x[:, None], y)
    tree, node = model.tree_, np.zeros(len(x_test), np.int64)
    answer = model.classes_[tree.value[:, 0].argmax(1)]                         # of each node
    x_test, accuracy = x_test.astype(np.float32), np.empty(depths)              # as the trees read it
    for depth in range(depths):
        below = np.where(x_test <= tree.threshold[node], tree.children_left[node], tree.children_right[node])
        node = np.where(tree.children_left[node] >= 0, below, node)
        accuracy[depth] = (answer[node] == y_test).mean()
    return accuracy


def irs(factors: ArrayLike, codes: ArrayLike, discrete: bool = False) -> float:
    """Interventional robustness score (Suter et al. 2019), 0 to 1.

        R_l = max_k (1 - mean over values v of D[l, k = v] / D[l]),   IRS = sum_l D[l] R_l / sum_l D[l]

    D[l] is the largest deviation of code l from its mean, D[l, k = v] that among the samples with factor k at
    v. Not invariant to the scale of a code; not 0 by chance, and larger with few samples. All codes constant:
    0.
    """
    groups, codes = prepared(factors, codes, discrete)
    codes = np.ascontiguousarray(codes[:, np.ptp(codes, axis=0) > 0].T)         # (L, M)
    if not len(codes):
        return 0.0
    whole = np.abs(codes - codes.mean(1, keepdims=True)).max(1)                 # (L,)
    robust = np.empty((len(groups), len(codes)))
    for k, factor in enumerate(groups):
        ordered = codes.take(factor.order, axis=1)
        mean = np.add.reduceat(ordered, factor.start, axis=1) / factor.count    # (L, V)
        above = np.maximum.reduceat(ordered, factor.start, axis=1) - mean
        below = mean - np.minimum.reduceat(ordered, factor.start, axis=1)
        robust[k] = 1 - np.maximum(above, below).mean(1) / whole
    return float(np.average(robust.max(0), weights=whole))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), in the memory of x."""
    np.exp(np.negative(x, out=x), out=x)
    x += 1
    return np.reciprocal(x, out=x)


def fit_one_vs_rest(x: np.ndarray, factor: Groups, tolerance: float = 1e-9) -> np.ndarray:
    """Weights (V, L + 1), intercept last, of a logistic regression for each value of a factor against the
    others.

        sum_i s_i logloss_i + |w|^2 / 2,   s_i = M / (2 rows on i's side): both sides weigh the same

    Newton's method for all values at once, to convergence. A value whose gradient grew takes half its last
    step back.
    """
    samples, values = len(x), len(factor.count)
    design = np.vstack([x.T, np.ones(samples)])                                 # (L + 1, M)
    upper = np.triu_indices(len(design))
    products = np.ascontiguousarray((design[upper[0]] * design[upper[1]]).T)    # (M, pairs), for the Hessians
    design_t = np.ascontiguousarray(design.T)
    inside, outside = samples / (2 * factor.count), samples / (2 * (samples - factor.count))
    pull = np.add.reduceat(design_t[factor.order], factor.start, axis=0) * inside[:, None]
    ridge = np.append(np.ones(len(design) - 1), 0)                              # the intercept is free
    weights, step = np.zeros((2, values, len(design)))
    before, active = np.full(values, np.inf), np.arange(values)
    for _ in range(100):
        own = np.full(values, -1)
        own[active] = np.arange(len(active))
        rows = np.flatnonzero(own[factor.labels] >= 0)                     # samples whose own value is active
        cell = own[factor.labels[rows]], rows
        p = sigmoid(weights[active] @ design)                                   # (active, M)
        curve = p * p
        np.subtract(p, curve, out=curve)                                        # p (1 - p)
        ratio = (inside / outside)[factor.labels[rows]]
        p[cell] *= ratio
        curve[cell] *= ratio
        gradient = (p @ design_t) * outside[active, None] - pull[active] + ridge * weights[active]
        steepest = np.abs(gradient).max(1)
        grew = steepest > 4 * before[active]
        step[active[grew]] /= 2
        weights[active[grew]] += step[active[grew]]
        moved, kept = active[~grew], np.flatnonzero(~grew)
        hessian = np.zeros((len(moved), len(design), len(design)))
        hessian[:, upper[0], upper[1]] = hessian[:, upper[1], upper[0]] = \
            (curve @ products)[kept] * outside[moved, None]
        hessian += np.diag(ridge + 1e-12)
        step[moved] = np.linalg.solve(hessian, gradient[kept, :, None])[..., 0]
        weights[moved] -= step[moved]
        before[moved] = steepest[kept]
        active = np.setdiff1d(active, moved[(gradient[kept] * step[moved]).sum(1) <= tolerance])
        if not len(active):
            break
    return weights


def mean_auc(scores: np.ndarray, factor: Groups) -> float:
    """Mean over the values of a factor of the area under the ROC curve of its row (V, M); ties count half."""
    total = 0.0
    for value, own in enumerate(factor.count):
        ranked, mine = np.sort(scores[value]), np.sort(scores[value, factor.rows(value)])
        rank = (np.searchsorted(ranked, mine, "left") + np.searchsorted(ranked, mine, "right") + 1) / 2
        total += (rank.sum() - own * (own + 1) / 2) / (own * (len(ranked) - own))
    return total / len(factor.count)


def explicitness(factors: ArrayLike, codes: ArrayLike, discrete: bool = False) -> float:
    """Explicitness (Ridgeway and Mozer 2018), 1 at best: how well a linear model reads each value from all
    codes.

        2 (AUC - 1/2), AUC the mean over factors and values of the one-vs-rest area under the ROC curve

    One logistic regression a value on codes scaled to [0, 1], probabilities divided by their sum, scored on
    the samples it was fitted to: above 0 by chance, and more so with few samples. The reference stops its
    solver early and is within 1e-5 of this optimum (with scikit-learn 1.4 and newer within 1.3e-4).
    """
    groups, codes = prepared(factors, codes, discrete)
    x, total = min_max(codes), 0.0
    with one_thread():
        for factor in groups:
            weights = fit_one_vs_rest(x, factor)
            p = sigmoid(weights[:, :-1] @ x.T + weights[:, -1:])                # (V, M)
            p /= p.sum(0)
            total += mean_auc(p, factor)
    return 2 * (total / len(groups) - 0.5)


def usable_values(groups: list[Groups]) -> list[np.ndarray]:
    """The values of each factor that at least two samples have. Raises ValueError if a factor has none."""
    usable = [np.flatnonzero(factor.count > 1) for factor in groups]
    for k, values in enumerate(usable):
        if not len(values):
            raise ValueError(f"factors: no two of the {len(groups[k].labels)} samples share a value of "
                             f"factor {k}; this score compares samples that do")
    return usable


def mean_differences(codes: np.ndarray, factor: Groups, values: np.ndarray, votes: int,
                     random: np.random.Generator) -> np.ndarray:
    """Mean |difference| (votes, L) over 200 pairs of samples that share a value, which each pair draws."""
    grouped = codes.take(factor.order, axis=0)              # samples that share a value stay near in memory
    start, count = factor.start[values], factor.count[values].astype(np.float32)
    count *= np.float32(1 - 1e-6)                           # so that no product below rounds up to it
    means, ones = np.empty((votes, codes.shape[1]), np.float32), np.ones(BATCH, np.float32)
    for first in range(0, votes, CHUNK):
        size = min(CHUNK, votes - first) * BATCH
        value = random.integers(len(values), size=size)
        many, here = count.take(value), start.take(value)
        one = (random.random(size, np.float32) * many).astype(np.int64)
        other = (random.random(size, np.float32) * (many - 1)).astype(np.int64)
        other += other >= one                               # uniform over the others
        apart = grouped.take(here + one, axis=0)
        apart -= grouped.take(here + other, axis=0)
        np.abs(apart, out=apart)
        means[first:first + CHUNK] = ones @ apart.reshape(-1, BATCH, codes.shape[1])
    return means / BATCH


def beta_vae(factors: ArrayLike, codes: ArrayLike, discrete: bool = False, seed: int = 0,
             training: int = 10_000, test: int = 5_000) -> float:
    """beta-VAE score (Higgins et al. 2017; the reference's Z-diff), near 0 by chance and 1 at best.

    A vote draws a factor, and 200 pairs of samples that share a value of it; its features are the mean
    absolute differences of the codes, its label the factor. A multinomial logistic regression (L2, C = 1),
    solved to convergence, is fitted to 10,000 votes and tested on 5,000:

        (accuracy - 1/K) / (1 - 1/K)

    It is a sampled number (`seed`). With one factor there is nothing to tell apart: 0. Raises ValueError if
    no two samples share a value of a factor.
    """
    from sklearn.linear_model import LogisticRegression

    groups, codes = prepared(factors, codes, discrete)
    usable, random = usable_values(groups), np.random.default_rng(seed)
    if len(groups) == 1:
        return 0.0
    label = random.integers(len(groups), size=training + test)
    features = np.empty((training + test, codes.shape[1]))
    single = (codes - codes.mean(0)).astype(np.float32)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")     # of scales that differ too much, where scikit-learn takes lbfgs
        for k, factor in enumerate(groups):
            mine = np.flatnonzero(label == k)
            features[mine] = mean_differences(single, factor, usable[k], len(mine), random)
        model = LogisticRegression(solver="newton-cholesky", max_iter=10_000)
        model.fit(features[:training], label[:training])
        accuracy = (model.predict(features[training:]) == label[training:]).mean()
    return float((accuracy - 1 / len(groups)) / (1 - 1 / len(groups)))


def least_varied(codes: np.ndarray, rows: np.ndarray, votes: int, random: np.random.Generator) -> np.ndarray:
    """For each vote the code (votes,) that varies least over 200 of `rows`; codes (L, M) have variance 1."""
    rounds = -(-votes * BATCH // len(rows))
    drawn = np.concatenate([random.permutation(rows) for _ in range(rounds)])[:votes * BATCH]
    batch = codes.take(drawn, axis=1).reshape(len(codes), votes, BATCH)
    return (np.einsum("lvb,lvb->lv", batch, batch) - batch.sum(2) ** 2 / BATCH).argmin(0)


def factor_vae(factors: ArrayLike, codes: ArrayLike, discrete: bool = False, seed: int = 0,
               std_threshold: float = 0.05, training: int = 800, test: int = 800) -> float:
    """FactorVAE score (Kim and Mnih 2018; the reference's Z-min variance), near 0 by chance and 1 at best.

    A vote draws a factor, a value of it and 200 samples with that value; it goes to the code whose variance,
    divided by that over all samples, is smallest. Each code stands for the factor that most of its 800
    training votes came from; the accuracy of that on 800 test votes is scaled as the beta-VAE score.

    Codes with a standard deviation below `std_threshold` take no part; if that are all, the score is 0. A
    sampled number (`seed`). With one factor there is nothing to tell apart: 0. Raises ValueError if no two
    samples share a value of a factor.
    """
    groups, codes = prepared(factors, codes, discrete)
    usable, random = usable_values(groups), np.random.default_rng(seed)
    if len(groups) == 1 or len(codes) < 2:
        return 0.0
    some = codes if len(codes) <= 10_000 else codes[random.choice(len(codes), 10_000, replace=False)]
    std = some.std(0, ddof=1)
    active = std >= max(std_threshold, np.finfo(float).tiny)
    if not active.any():
        return 0.0
    scaled = np.ascontiguousarray(((codes - codes.mean(0))[:, active] / std[active]).T)
    ballots = np.zeros((2, len(scaled), len(groups)), np.int64)        # training and test votes, code, factor
    drawn = [np.bincount(random.integers(len(groups), size=votes), minlength=len(groups))
             for votes in (training, test)]
    for k, (factor, values) in enumerate(zip(groups, usable, strict=True)):
        share = [np.bincount(random.integers(len(values), size=votes[k]), minlength=len(values))
                 for votes in drawn]
        for value, first, second in zip(values, *share, strict=True):
            if first + second:
                winners = least_varied(scaled, factor.rows(value), first + second, random)
                ballots[0, :, k] += np.bincount(winners[:first], minlength=len(scaled))
                ballots[1, :, k] += np.bincount(winners[first:], minlength=len(scaled))
    stands_for = ballots[0].argmax(1)
    accuracy = ballots[1, np.arange(len(scaled)), stands_for].sum() / test
    return float((accuracy - 1 / len(groups)) / (1 - 1 / len(groups)))


def score(factors: ArrayLike, codes: ArrayLike, discrete: bool = False, seed: int = 0) -> dict[str, float]:
    """All six scores, in the order of Table 2; SAP is in its regression form whatever `discrete` is."""
    return {"beta_vae": beta_vae(factors, codes, discrete, seed),
            "factor_vae": factor_vae(factors, codes, discrete, seed),
            "explicitness": explicitness(factors, codes, discrete), "irs": irs(factors, codes, discrete),
            "mig": mig(factors, codes, discrete), "sap": sap(factors, codes)}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lvae_min.metrics",
                                     description="Six disentanglement scores of codes.")
    parser.add_argument("file", help="an npz with arrays factors (M, K) and codes (M, L)")
    parser.add_argument("--discrete", action="store_true", help="factors as they are, not in 10 bins")
    parser.add_argument("--seed", type=int, default=0, help="of the two sampled scores (default: 0)")
    given = parser.parse_args(arguments)
    try:
        with np.load(given.file, allow_pickle=False) as archive:
            factors, codes = archive["factors"], archive["codes"]
        scores = score(factors, codes, given.discrete, given.seed)
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile,
            zipfile.zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip("'\"")
        print(f"{given.file}: {reason}; expected an npz with arrays factors (M, K) and codes (M, L)",
              file=sys.stderr)
        return 2
    variant = "as they are" if given.discrete else "in 10 bins"
    print(f"{len(codes)} samples, {factors.shape[1]} factors {variant}, {codes.shape[1]} latents, "
          f"seed {given.seed}")
    for name, value in scores.items():
        print(f"{TITLES[name]:>12}  {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
