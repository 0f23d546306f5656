"""Six disentanglement scores of the paper's Table 2 (Sec. 6.4): how latents relate to ground-truth factors.

Every score is `f(factors, codes) -> float`: `factors` (M, K) ground-truth values, `codes` (M, L) posterior
means, one row a sample. The definitions are those of Carbonneau et al. (2022), "Measuring Disentanglement: A
Review of Metrics", which the paper uses through the reference implementation
ubisoft/ubisoft-laforge-disentanglement-metrics; its name of each score stands in the docstring. What it does
on healthy codes is done here, number for number, also where an article has another form: other libraries give
other numbers. Conventions of the file:

    discrete=False   factors are min-max scaled and cut into `bins` values (the reference's default)
    discrete=True    each distinct factor value is a category as it is
    constant factor  (range below 2.2e-15, as scikit-learn has it) is left out of every score; the reference
                     counts it or fails. If all are constant: ValueError
    constant code    (same range) carries no information; if all are constant every score is 0
    one factor       the sampled scores cannot beat chance, which is 1 already: 0
    refused          ValueError for anything not 2-D, empty, of unequal rows, not numeric, NaN, infinite or
                     beyond 1e30, or (sampled scores) a factor without two samples of one value
    seed             an integer or a numpy Generator; numpy's global generator is never used

    python -m lvae_min.metrics codes.npz [--discrete] [--seed 0]    prints all six, SAP in both of its forms
"""

import sys
from pathlib import Path
from threading import Lock

import numpy as np
from threadpoolctl import ThreadpoolController

from lvae_min.io import npy
from lvae_min.io.text import Parser, carry_out, one_line

CONSTANT = 10 * np.finfo(float).eps  # a column of a smaller range is constant
LARGEST = 1e30  # squares and fourth powers of codes stay finite
CLOSE = 1e-6  # Newton's last slope (losses are near M); one more step squares it
FOLDS, DEPTHS = 10, 9  # of the classification form of SAP
CLOSEST = np.float32(1e-7)  # codes no further apart are never split


class OneThread:
    """A context in which BLAS uses one thread: waiting for small products slows a busy machine 50-fold.

    BLAS has one setting for the whole process. Several threads may be inside at once; the last to leave puts
    back what was there.
    """

    def __init__(self):
        self.libraries, self.lock, self.inside = ThreadpoolController(), Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.limit = self.libraries.limit(limits=1, user_api="blas")
            self.inside += 1

    def __exit__(self, *_) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.limit.restore_original_limits()


# Made once, by the thread that imports this: looking for libraries while another thread loads one, matplotlib
# for a picture, can block both for ever.
ONE_THREAD = OneThread()


# Factors and codes -----------------------------------------------------------------------------------------


def _numbers(table, name: str) -> np.ndarray:
    """The table as finite float64 or integers, (M, columns); ValueError with the place of what is wrong."""
    if hasattr(table, "detach"):  # a tensor, of any type, on any device
        table = table.detach().cpu().double() if table.is_floating_point() else table.cpu()
    table = np.asarray(table)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"{name} must be a filled (samples, columns) table, got shape {table.shape}")
    if table.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got {table.dtype}")
    table = table.astype(np.int64 if np.can_cast(table.dtype, np.int64) else np.float64, order="F")
    if not np.abs(table).max() < LARGEST:  # true for NaN
        row, column = np.argwhere(~(np.abs(table) < LARGEST))[0]
        raise ValueError(
            f"{name} must be finite and below {LARGEST:g}, "
            f"got {table[row, column]} in column {column}, row {row}"
        )
    return table


def _varies(table: np.ndarray) -> np.ndarray:
    """Which columns are not constant, (columns,)."""
    return table.max(0).astype(float) - table.min(0) >= CONSTANT


def _tables(factors, codes) -> tuple[np.ndarray, np.ndarray]:
    """Checked factors without the constant ones, (M, K), and codes in float64, (M, L)."""
    factors, codes = _numbers(factors, "factors"), _numbers(codes, "codes").astype(float)
    if len(factors) != len(codes):
        raise ValueError(f"one row a sample: got {len(factors)} rows of factors and {len(codes)} of codes")
    varies = _varies(factors)
    if not varies.any():
        raise ValueError(f"every factor is constant ({len(factors)} samples of {factors[0].tolist()})")
    return factors[:, varies], codes


def _scaled(table: np.ndarray) -> np.ndarray:
    """Columns moved to [0, 1]; a constant one to 0."""
    low, span = table.min(0), table.max(0).astype(float) - table.min(0)
    scale = 1 / np.where(span < CONSTANT, 1, span)
    return table * scale + (0 - low * scale)  # (x - low) / span rounds some grid values into the bin below


def _binned(table: np.ndarray, bins: int) -> np.ndarray:
    """Index of the equal-width bin over each column's range, closed on the left, (M, columns)."""
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    scaled, index = _scaled(table), np.zeros(table.shape, np.int64, order="F")
    for edge in np.linspace(0, 1, bins + 1)[1:-1]:
        index += scaled >= edge
    return index


def _categories(factors: np.ndarray, discrete: bool, bins: int) -> list[np.ndarray]:
    """Each factor as category numbers 0, 1, ... of the values that occur: K arrays (M,)."""
    return [_numbered(column) for column in (factors if discrete else _binned(factors, bins)).T]


def _numbered(column: np.ndarray) -> np.ndarray:
    low, high = column.min(), column.max()
    if column.dtype.kind == "i" and int(high) - int(low) < 4 * len(column) + 1024:  # counting beats sorting
        present = np.bincount(column - low) > 0
        return (np.cumsum(present) - 1)[column - low]
    return np.unique(column, return_inverse=True)[1]


def _groups(label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows sorted by category, (M,), and where each category starts and how many it has, both (V,)."""
    small = label.astype(np.int16) if label.max() < 2**15 else label  # 16 bits: radix sort
    count = np.bincount(label)
    return np.argsort(small, kind="stable"), np.cumsum(count) - count, count


def _pairable(label: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_groups` without the categories of a single sample."""
    order, start, count = _groups(label)
    if count.max() < 2:
        raise ValueError(
            f"no two of {len(label)} samples share a value of factor {factor} (without the "
            "constant ones): give more samples, fewer bins, or discrete=False"
        )
    return order, start[count > 1], count[count > 1]


def _gap(matrix: np.ndarray) -> float:
    """Largest minus second largest of each row of (K, L), mean over rows; of one latent, its value."""
    top = np.sort(np.pad(matrix, ((0, 0), (1, 0))), 1)  # the padding is the runner-up of one latent
    return float((top[:, -1] - top[:, -2]).mean())


def _above_chance(accuracy: float, classes: int) -> float:
    """Accuracy moved so that guessing among `classes` gives 0 and no error 1."""
    return float((accuracy - 1 / classes) / (1 - 1 / classes))


# Compactness: MIG and SAP ----------------------------------------------------------------------------------


def _entropy(count: np.ndarray) -> float:
    p = count[count > 0] / count.sum()
    return -(p * np.log(p)).sum()


def mutual_information(factors, codes, discrete: bool = False, bins: int = 10) -> np.ndarray:
    """Normalised mutual information of every factor f and latent z, both in bins: what MIG is made of.

        NI = (H(f) + H(z) - H(f, z)) / H(z)          plug-in entropies of the joint histogram

    factors (M, K), codes (M, L) -> (K, L), each in [0, 1]. The normaliser is the entropy of the binned code
    (the reference's choice; Chen et al. divide by H(f)). A constant factor or code has 0.
    """
    factors, codes = _numbers(factors, "factors"), _tables(factors, codes)[1]
    binned = _binned(codes, bins)  # (M, L)
    information = np.zeros((factors.shape[1], codes.shape[1]))
    for i, label in enumerate(_categories(factors, discrete, bins)):
        for j in np.flatnonzero(_varies(codes)):
            joint = np.bincount(label * bins + binned[:, j], minlength=(label.max() + 1) * bins)
            joint = joint.reshape(-1, bins)  # (V, bins)
            of_code = _entropy(joint.sum(0))
            information[i, j] = (_entropy(joint.sum(1)) + of_code - _entropy(joint)) / of_code
    return information.clip(0, 1)  # rounding leaves -1e-16 where nothing is shared


def mig(factors, codes, discrete: bool = False, bins: int = 10) -> float:
    """Mutual Information Gap (Chen et al. 2018; reference `mig`): is a factor in one latent only?

        MIG = 1/K sum_f (NI(f, z_1st) - NI(f, z_2nd))       the two most informative latents of factor f

    factors (M, K), codes (M, L); in [0, 1]. NI is `mutual_information`. The reference returns NaN if a code
    is constant; here that code has NI = 0. One latent: the gap is its NI. A factor with a different value in
    every sample is as informative about every code: gap 0.
    """
    factors, codes = _tables(factors, codes)
    return _gap(mutual_information(factors, codes, discrete, bins))


def sap(factors, codes, discrete: bool = False, bins: int = 10, trees: bool | None = None) -> float:
    """Separated Attribute Predictability (Kumar et al. 2017; reference `sap`): is one latent enough?

        SAP = 1/K sum_f (S(f, z_1st) - S(f, z_2nd))
        S   = R^2 of a straight line through (z, f) = cov(f, z)^2 / (var(f) var(z))

    factors (M, K), codes (M, L); in [0, 1]. Factors count as numbers here, in no bins. A constant code has
    S = 0. One latent: the gap is its S.

    trees=True, the classification form: S is the accuracy of a decision tree (`_tree_accuracy`) on factors in
    bins, or as they are if discrete. It is the default of discrete factors, for which the reference has
    nothing else.
    """
    factors, codes = _tables(factors, codes)
    if not _varies(codes).any():
        return 0.0
    if discrete if trees is None else trees:
        return _gap(_tree_accuracy(_categories(factors, discrete, bins), _scaled(codes)))
    return _gap((_unit(factors).T @ _unit(codes)) ** 2)


def _unit(table: np.ndarray) -> np.ndarray:
    """Centred columns of length 1; a constant one is 0."""
    centred = np.where(_varies(table), table - table.mean(0), 0)
    length = np.sqrt((centred**2).sum(0))
    return centred / np.where(length > 0, length, 1)


def _tree_accuracy(labels: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Accuracy of a decision tree for each factor on each single latent, (K, L), on the rows it learned from.

    Its depth, 1 to 9, has the best mean accuracy over 10 stratified folds, unshuffled (the least on ties).
    A constant code beside others gets the share of the most frequent value, as in the reference, not 0. Where
    no value of a factor has 10 samples the reference fails; here there are fewer folds, as many as samples.
    ValueError if no value has two.
    """
    accuracy = np.empty((len(labels), codes.shape[1]))
    codes, every = codes.astype(np.float32), slice(None)  # as scikit-learn's trees compare them
    for i, label in enumerate(labels):
        most = np.bincount(label).max()
        if most < 2:
            raise ValueError(f"folds need two samples of a value, factor {i} has at most {most}")
        fold = _stratified(label, min(FOLDS, most))
        for j, order in enumerate(np.argsort(codes, 0).T):
            x, f, test = codes[order, j], label[order], fold[order]
            tests = [_depth_accuracies(x, f, test != k, test == k) for k in range(fold.max() + 1)]
            means = [np.mean(depth) for depth in zip(*tests, strict=True)]
            accuracy[i, j] = _depth_accuracies(x, f, every, every)[np.argmax(means)]
    return accuracy


def _stratified(label: np.ndarray, folds: int) -> np.ndarray:
    """The test fold of every row, (M,), as scikit-learn's StratifiedKFold without shuffling has it.

    Rows sorted by category, in order of appearance, are dealt to the folds in turn; within a category the
    folds are then put in order.
    """
    order, start, _ = _groups(label)
    seen = np.argsort(np.argsort(order[start]))[label]  # 0 is the category that appears first
    order, turn = np.argsort(seen, kind="stable"), np.arange(len(label)) % folds
    fold = np.empty(len(label), np.int64)
    fold[order] = turn[np.lexsort((turn, seen[order]))]
    return fold


def _depth_accuracies(x: np.ndarray, label: np.ndarray, train, test) -> list[float]:
    """Accuracy on rows `test` of trees of depth 1, 2, ... grown on rows `train`; x (M,) ascends, in float32.

    These are the trees of scikit-learn's DecisionTreeClassifier (CART, Gini impurity) on one feature, to the
    bit. Splits are chosen greedily, so one level more leaves those above as they are, and a node is a run of
    rows: a level of the tree is the array of its nodes' edges, 0 to M.
    """
    known, wanted, grown = x[train].astype(float), label[test], label[train]
    row = np.searchsorted((known[1:] + known[:-1]) / 2, x[test])  # shares its node, at every depth
    stuck = np.append(np.where(x[train][1:] > x[train][:-1] + CLOSEST, 0, np.inf), np.inf)
    order, first, count = _groups(grown)
    odd = np.empty(len(grown))  # 2 (rank in its category) + 1
    odd[order] = 2 * (np.arange(len(grown)) - np.repeat(first, count)) + 1
    accuracies: list[float] = []
    edge = np.array([0, len(grown)])
    cell, count = _counts(grown, edge, len(count))
    while len(accuracies) < DEPTHS:
        cut = _cuts(odd, stuck, edge, cell, count)
        edge = np.sort(np.append(edge, cut))
        cell, count = _counts(grown, edge, count.shape[1])
        answer = np.repeat(count.argmax(1), count.shape[1])[cell[row]]
        accuracies.append(np.count_nonzero(answer == wanted) / len(wanted))
        if not len(cut):
            accuracies += accuracies[-1:] * (DEPTHS - len(accuracies))
    return accuracies


def _counts(label: np.ndarray, edge: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell of each row in a table of nodes and categories, (M,), and the rows of each cell, (N, V)."""
    nodes = len(edge) - 1
    cell = np.repeat(np.arange(0, nodes * values, values), edge[1:] - edge[:-1])
    cell += label
    return cell, np.bincount(cell, minlength=nodes * values).reshape(nodes, values)


def _gini(steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """1 - (running sum of `steps`) / rows^2, written over `steps`."""
    np.cumsum(steps, out=steps)
    steps /= rows * rows
    return np.subtract(1, steps, out=steps)


def _cuts(
    odd: np.ndarray, stuck: np.ndarray, edge: np.ndarray, cell: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Where nodes are split: the first row of every right half. Of equal splits the first is taken.

    A split after row m costs M_l G_l + M_r G_r, with M_l rows before it in the node and Gini impurity
    G_l = 1 - sum_v (M_lv / M_l)^2. Running sums give sum_v M_lv^2: row m adds 2 (rank of m in its node and
    category) + 1 to it, and takes 2 (rows of its category after it) + 1 from the right half's. All are whole
    numbers, so only the order of the operations in the cost matters to the bit; it is scikit-learn's.

    odd, cell (M,); edge (N + 1,); count (N, V); stuck (M,), written on, is infinite where a row cannot be
    parted from the next and 0 elsewhere.
    """
    start, end = edge[:-1], edge[1:]
    size, squares, twice = end - start, (count * count).sum(1), 2.0 * count
    step_left = odd - (np.cumsum(twice, 0) - twice).ravel()[cell]
    step_right = step_left - twice.ravel()[cell]
    step_left[start[1:]] -= squares[:-1]  # a node begins with 0 on its left
    step_right[start] += squares  # and with all on its right
    left = np.arange(1.0, len(cell) + 1)
    right = np.repeat(end, size) - left
    left -= np.repeat(start, size)
    right[end - 1] = 1  # it is 0, and the split is impossible
    cost = left * _gini(step_left, left)
    cost += right * _gini(step_right, right)
    cost += stuck
    least = np.minimum.reduceat(cost, start)
    found = np.flatnonzero(cost == np.repeat(least, size))
    best = found[np.searchsorted(found, start)]
    split = best[(least < np.inf) & (squares < size * size)]  # of one category: not split
    stuck[split] = np.inf
    return split + 1


# Modularity and explicitness at once: IRS ------------------------------------------------------------------


def irs(factors, codes, discrete: bool = False, bins: int = 10) -> float:
    """Interventional Robustness Score (Suter et al. 2019; reference `irs`): is a latent moved by one factor?

        IRS  = sum_j M_j max_f (1 - A_jf / M_j) / sum_j M_j
        M_j  = max_m |z_mj - mean_j|                    largest deviation of latent j
        A_jf = mean_v max_{m: f=v} |z_mj - mean_j(v)|   the same with f held at v, mean over its values

    factors (M, K), codes (M, L); in [0, 1], and above 0 for random codes. Weights M_j are in the codes' own
    units, so do not standardise them. A constant code is left out. A value of one sample has deviation 0:
    few samples a value, or a factor of distinct values, inflate the score (to 1).
    """
    factors, codes = _tables(factors, codes)
    z = np.ascontiguousarray(codes[:, _varies(codes)].T)  # (L, M)
    if not len(z):
        return 0.0
    largest = abs(z - z.mean(1, keepdims=True)).max(1)  # (L,)
    robust = np.zeros(len(z))
    for label in _categories(factors, discrete, bins):
        order, start, count = _groups(label)
        held = np.take(z, order, 1)
        mean = np.add.reduceat(held, start, 1) / count  # (L, V)
        above, below = np.maximum.reduceat(held, start, 1) - mean, mean - np.minimum.reduceat(held, start, 1)
        robust = np.maximum(robust, 1 - np.maximum(above, below).mean(1) / largest)
    return float(np.average(robust, weights=largest))


# Explicitness ----------------------------------------------------------------------------------------------


def _newton(derivatives, problems: int, size: int) -> np.ndarray:
    """Minimise convex functions of `size` weights by Newton's method, `problems` at once: (problems, size).

    `derivatives(weights)` gives gradients (problems, size) and Hessians (problems, size, size). A step that
    ends where its own slope is steeper up than it was down at its start is halved. RuntimeError if 500 steps
    are not enough.
    """
    weights, step = np.zeros((2, problems, size))
    slope = np.zeros(problems)
    for _ in range(500):
        gradient, hessian = derivatives(weights)
        scale = 1 / np.sqrt(np.diagonal(hessian, 0, 1, 2))  # the solver's pivots see equal units
        scaled = hessian * scale[:, :, None] * scale[:, None, :]
        newton = -scale * np.linalg.solve(scaled, (scale * gradient)[..., None])[..., 0]
        too_far = (gradient * step).sum(1) > np.maximum(slope, CLOSE)
        slope = np.where(too_far, slope / 2, -(gradient * newton).sum(1))
        weights += np.where(too_far[:, None], -step / 2, newton)
        step = np.where(too_far[:, None], step / 2, newton)
        if slope.max() <= CLOSE and not too_far.any():
            return weights
    raise RuntimeError(f"logistic regression not converged: slope {slope.max():.3g} after 500 Newton steps")


def explicitness(factors, codes, discrete: bool = False, bins: int = 10) -> float:
    """Explicitness (Ridgeway & Mozer 2018; reference `explicitness`): can a linear model read the factors?

        explicitness = 2 * (mean over factors of the mean over their values v of AUC_v) - 1
        AUC_v        = area under the ROC curve of p_v / sum_u p_u, on the samples it was fitted on
        p_v          = sigmoid(w_v . z + b_v), balanced logistic regression of "f = v" (`_one_against_rest`)

    factors (M, K), codes (M, L), min-max scaled here; in [-1, 1], about 0 at chance for many samples (above
    it for few: same samples). Solved to convergence: the reference's own solver stops up to 1.3e-4 away.
    """
    factors, codes = _tables(factors, codes)
    if not _varies(codes).any():
        return 0.0
    z = np.hstack([_scaled(codes), np.ones((len(codes), 1))])  # (M, L + 1)
    upper = np.triu_indices(z.shape[1])
    products = z[:, upper[0]] * z[:, upper[1]]  # (M, (L + 1)(L + 2) / 2)
    areas = []
    with ONE_THREAD:
        for label in _categories(factors, discrete, bins):
            p = _sigmoid(_one_against_rest(z, products, label) @ z.T)  # (V, M)
            p /= p.sum(0)
            areas.append(_mean_area(p, label))
    return float(2 * np.mean(areas) - 1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), written over x."""
    with np.errstate(over="ignore"):  # e^-x = inf is p = 0
        np.exp(np.negative(x, out=x), out=x)
    x += 1
    return np.reciprocal(x, out=x)


def _one_against_rest(z: np.ndarray, products: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Weights (V, L + 1), bias last, of V logistic regressions "category v or another", each minimising

        1/2 |w|^2 + sum_m s_m log(1 + e^(-+ z_m w)),    s_m = M / (2 M_v) in v, M / (2 (M - M_v)) outside

    z (M, L + 1) ends in a 1; products (M, ...) are z_i z_j, i <= j: all Hessians are one matrix product.
    """
    order, start, count = _groups(label)
    samples, values = len(label), len(count)
    inside, outside = samples / (2 * count), samples / (2 * (samples - count))
    target = np.add.reduceat(z[order], start) * inside[:, None]  # sum of s z in v
    ratio = (inside / outside)[label]
    ridge = np.append(np.ones(z.shape[1] - 1), 0)  # no penalty on the bias
    upper = np.triu_indices(z.shape[1])
    rows = max(64, 2**15 // values)  # (V, rows) stays in cache

    def derivatives(w):
        gradient, curvature = np.zeros(w.shape), np.zeros((values, products.shape[1]))
        for block in (slice(i, i + rows) for i in range(0, samples, rows)):
            p = _sigmoid(w @ z[block].T)  # (V, rows)
            s = p * p
            np.subtract(p, s, out=s)  # p (1 - p)
            own = label[block] * p.shape[1] + np.arange(p.shape[1])  # one index is faster than two
            p.ravel()[own] *= ratio[block]
            s.ravel()[own] *= ratio[block]
            gradient += p @ z[block]
            curvature += s @ products[block]
        hessian = np.empty((values, *2 * w.shape[1:]))
        hessian[:, upper[0], upper[1]] = hessian[:, upper[1], upper[0]] = curvature * outside[:, None]
        hessian += np.diag(ridge + 1e-9)  # 1e-9: all p may be 0 or 1
        return gradient * outside[:, None] - target + ridge * w, hessian

    return _newton(derivatives, values, z.shape[1])


def _mean_area(score: np.ndarray, label: np.ndarray) -> float:
    """Mean over categories v of the ROC area of score[v] (V, M): share of (inside, outside) pairs in order.

    By ranks, equal scores sharing theirs.
    """
    order, start, count = _groups(label)
    areas = []
    for v, (first, inside) in enumerate(zip(start, count, strict=True)):
        ranked, own = np.sort(score[v]), np.sort(score[v, order[first : first + inside]])
        rank = (np.searchsorted(ranked, own, "left") + np.searchsorted(ranked, own, "right") + 1) / 2
        areas.append((rank.sum() - inside * (inside + 1) / 2) / (inside * (len(label) - inside)))
    return float(np.mean(areas))


# Modularity: beta-VAE and FactorVAE metrics ----------------------------------------------------------------


def beta_vae(
    factors,
    codes,
    discrete: bool = False,
    seed=0,
    bins: int = 10,
    batch: int = 200,
    train: int = 10_000,
    test: int = 5_000,
) -> float:
    """beta-VAE metric (Higgins et al. 2017; reference `z_diff`): do differences tell which factor is shared?

        example  = mean over `batch` pairs of |z - z'|, where both of a pair share their value of factor f
        beta_vae = (accuracy - 1/K) / (1 - 1/K)      of a linear classifier of f on `test` new examples

    factors (M, K), codes (M, L), in their own units; at most 1, about 0 at chance (may fall below). For each
    pair a value of f is drawn, uniformly over those with two samples, then two distinct samples of it. The
    classifier is a multinomial logistic regression with penalty 1/2 |w|^2, solved to convergence. Each pair
    is distributed as the reference's, and here the pairs are independent; the reference shuffles the samples
    of a value and takes disjoint pairs until they are used up. 0 for one factor (chance is 1) or no varying
    code.
    """
    factors, codes = _tables(factors, codes)
    generator = np.random.default_rng(seed)
    labels = _categories(factors, discrete, bins)
    groups = [_pairable(label, f) for f, label in enumerate(labels)]
    if len(groups) == 1 or not _varies(codes).any():
        return 0.0
    z = (codes - codes.mean(0)).astype(np.float32)  # centred: differences survive 24 bits
    shared = generator.integers(len(groups), size=train + test)
    example = np.empty((train + test, z.shape[1]))
    for f, group in enumerate(groups):
        example[shared == f] = _mean_differences(z, *group, (shared == f).sum(), batch, generator)
    with ONE_THREAD:
        right = _multinomial(example[:train], shared[:train], example[train:]) == shared[train:]
    return _above_chance(right.mean(), len(groups))


def _mean_differences(
    z: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
    count: np.ndarray,
    examples: int,
    batch: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Means of |z - z'| over `batch` pairs of one category each (`_groups`): (examples, L)."""
    latents = z.shape[1]
    width = max(latents, 8 if latents > 4 else 4)  # numpy copies 16 and 32 bytes fastest
    rows = np.pad(z, ((0, 0), (0, width - latents)))[order]
    below = 1 - 1e-12  # a product with it never rounds up
    values, firsts, seconds = len(count) * below, count * below, (count - 1) * below
    average = np.full(batch, 1 / batch, np.float32)
    means = np.empty((examples, width))
    for i in range(0, examples, 32):  # 32 examples at once stay in cache
        now = means[i : i + 32]
        u = generator.random(len(now) * batch)  # its digits are the value, z and z'
        value, u = _digit(u, values)
        first, u = _digit(u, firsts[value])
        second, u = _digit(u, seconds[value])
        second += second >= first  # another sample than the first
        at = start[value]
        difference = np.take(rows, at + first, 0)
        difference -= np.take(rows, at + second, 0)
        np.abs(difference, out=difference)
        now[:] = average @ difference.reshape(len(now), batch, width)
    return means[:, :latents]


def _digit(u: np.ndarray, base) -> tuple[np.ndarray, np.ndarray]:
    """First digit of u in [0, 1) in a base, as an index, and the rest, again in [0, 1); written over u."""
    u *= base
    digit = np.floor(u)
    u -= digit
    return digit.astype(np.int64), u


def _multinomial(x: np.ndarray, label: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Classes of the rows `new` by the weights W (C, L + 1), bias last, that minimise on rows x (M, L)

        1/2 |w|^2 - sum_m log softmax(W x_m)_label

    Solved for standardised x with the penalty 1/2 |w / s|^2: the same minimum, for codes in any unit.
    """
    mean, s = x.mean(0), np.maximum(x.std(0), 1e-10)
    x, new = (np.hstack([(table - mean) / s, np.ones((len(table), 1))]) for table in (x, new))
    classes, size = label.max() + 1, x.shape[1]
    ridge = np.tile(np.append(np.maximum(s**-2, 1e-6), 0), classes)  # 1e-6: a minimum in reach for any s
    upper, (one, other) = np.triu_indices(size), np.triu_indices(classes, 1)
    products = x[:, upper[0]] * x[:, upper[1]]  # x_i x_j, i <= j
    of = np.empty((size, size), np.int64)  # the column of products that is x_i x_j
    of[upper] = of[upper[::-1]] = np.arange(products.shape[1])

    def derivatives(flat):
        gradient, shared = np.zeros((classes, size)), np.zeros((len(one), products.shape[1]))
        for block in (slice(i, i + 2048) for i in range(0, len(x), 2048)):  # stays in cache
            p = flat.reshape(classes, size) @ x[block].T
            p = np.exp(p - p.max(0))
            p /= p.sum(0)  # (C, rows)
            shared += (p[one] * p[other]) @ products[block]  # sum of p_c p_d x x^T, c < d
            p[label[block], np.arange(p.shape[1])] -= 1
            gradient += p @ x[block]
        hessian = np.zeros((classes, classes, products.shape[1]))
        hessian[one, other] = hessian[other, one] = -shared
        hessian[np.diag_indices(classes)] = -hessian.sum(1)  # p_c (1 - p_c) is the sum of p_c p_d
        hessian = hessian[:, :, of].swapaxes(1, 2).reshape(2 * (classes * size,))  # (C (L + 1), ...)
        hessian += np.diag(ridge + 1e-6)  # 1e-6: shifting all biases is free
        return gradient.reshape(1, -1) + ridge * flat, hessian[None]

    weights = _newton(derivatives, 1, classes * size).reshape(classes, size)
    return (weights @ new.T).argmax(0)


def factor_vae(
    factors,
    codes,
    discrete: bool = False,
    seed=0,
    std_threshold: float = 0.05,
    bins: int = 10,
    batch: int = 200,
    train: int = 800,
    test: int = 800,
) -> float:
    """FactorVAE metric (Kim & Mnih 2018; reference `z_min_var`): which latent is still when f is held?

        vote       = argmin_j var_batch(z_j) / var(z_j)     of `batch` samples that share a value of factor f
        factor_vae = (accuracy - 1/K) / (1 - 1/K)           on `test` votes, where a latent stands for the
                                                            factor of most of its `train` votes

    factors (M, K), codes (M, L); at most 1, about 0 at chance (may fall below). Latents with a standard
    deviation below `std_threshold`, in the codes' own units, do not take part; none left: 0 (the reference
    fails). 0.05 is the default of the reference's function; its own experiments use 0.02. The value is
    uniform over those with two samples; its samples come in shuffled rounds. var(z_j) is over all samples
    (the reference draws 10,000). The draws are not the reference's, their distribution is. 0 for one factor
    (chance is 1).
    """
    factors, codes = _tables(factors, codes)
    generator = np.random.default_rng(seed)
    labels = _categories(factors, discrete, bins)
    groups = [_pairable(label, f) for f, label in enumerate(labels)]
    deviation = codes.std(0, ddof=1)
    active = (deviation >= std_threshold) & _varies(codes)
    if len(groups) == 1 or not active.any():
        return 0.0
    z = np.ascontiguousarray(((codes - codes.mean(0))[:, active] / deviation[active]).T)  # (L, M)
    votes = np.zeros((2, len(z), len(groups)))  # train, test
    held = [_tally(len(groups), n, generator) for n in (train, test)]
    for f, (order, start, count) in enumerate(groups):
        learn, check = (_tally(len(count), n[f], generator) for n in held)
        for v in np.flatnonzero(learn + check):
            samples = order[start[v] : start[v] + count[v]]
            still = _stillest(z, samples, learn[v] + check[v], batch, generator)
            votes[0, :, f] += np.bincount(still[: learn[v]], minlength=len(z))
            votes[1, :, f] += np.bincount(still[learn[v] :], minlength=len(z))
    right = votes[1][np.arange(len(z)), votes[0].argmax(1)].sum()
    return _above_chance(right / test, len(groups))


def _tally(choices: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of `choices` falls in `draws` uniform draws, (choices,)."""
    return np.bincount(generator.integers(choices, size=draws), minlength=choices)


def _stillest(z: np.ndarray, samples: np.ndarray, batches: int, batch: int, generator) -> np.ndarray:
    """Latent of least variance within each batch of `samples`, (batches,); z (L, M) has unit variances."""
    rounds = -(-batches * batch // len(samples))
    shuffled = generator.permuted(np.tile(samples, (rounds, 1)), axis=1).ravel()[: batches * batch]
    drawn = np.take(z, shuffled, 1).reshape(len(z), batches, batch)
    squares = np.einsum("lbn,lbn->lb", drawn, drawn) - drawn.sum(2) ** 2 / batch
    return squares.argmin(0)


# All six ---------------------------------------------------------------------------------------------------


def score(factors, codes, discrete: bool = False, seed=0, quick: bool = False) -> dict[str, float]:
    """The scores of Table 2, in its order, with the reference's defaults: six, and SAP's other form.

    sap                 by regression, on factors as numbers, whatever `discrete` is
    sap_classification  by decision trees: of the two forms the one that Table 2's numbers are like. It takes
                        several times as long as the six; quick=True leaves it out, for evaluations during
                        training

    factors (M, K), codes (M, L); the opening of this file says what happens to degenerate ones.
    """
    scores = {
        "beta_vae": beta_vae(factors, codes, discrete, seed),
        "factor_vae": factor_vae(factors, codes, discrete, seed),
        "explicitness": explicitness(factors, codes, discrete),
        "irs": irs(factors, codes, discrete),
        "mig": mig(factors, codes, discrete),
        "sap": sap(factors, codes),
    }
    return scores if quick else scores | {"sap_classification": sap(factors, codes, discrete, trees=True)}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m lvae_min.metrics", description="Six disentanglement scores.")
    parser.add_argument("file", type=Path, help=".npz with arrays factors (M, K) and codes (M, L)")
    parser.add_argument("--discrete", action="store_true", help="factors as they are; default: in 10 bins")
    parser.add_argument("--seed", type=int, default=0, help="of the two sampled scores (default 0)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")
    try:
        tables = npy.read_npz(args.file, ("factors", "codes"))
        factors, codes = tables["factors"], tables["codes"]
        scores = score(factors, codes, args.discrete, args.seed)
    except (ValueError, OSError, MemoryError) as error:
        print(f"{one_line(args.file)}: {one_line(error) or 'too large for this memory'}", file=sys.stderr)
        return 2
    constant = (~_varies(_numbers(factors, "factors"))).sum()
    left_out = f" ({constant} constant, left out)" if constant else ""
    print(f"{len(codes):,} samples, {factors.shape[1]} factors{left_out}, {codes.shape[1]} latents")
    print(f"factors {'as they are' if args.discrete else 'in 10 bins'}, sap by regression, seed {args.seed}")
    for name, value in scores.items():
        print(f"{name:<20}{value:8.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(carry_out(main, sys.argv[1:], "metrics"))
