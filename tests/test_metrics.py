"""Facts about metrics.py: closed forms, degenerate codes, parity with the reference, command line."""

import inspect
import json
import math
import subprocess
import sys
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import MinMaxScaler
from sklearn.tree import DecisionTreeClassifier

from lvae_min import metrics

DSPRITES, MPI3D = (3, 6, 40, 32, 32), (6, 6, 2, 3, 3, 40, 40)
GOLDEN = json.loads((Path(__file__).parent / "golden_scores.json").read_text())["cases"]
SIX = (metrics.beta_vae, metrics.factor_vae, metrics.explicitness, metrics.irs, metrics.mig, metrics.sap)
DETERMINISTIC = ("mig", "sap", "irs", "explicitness")
QUICK = {
    "beta_vae": {"batch": 20, "train": 300, "test": 200},
    "factor_vae": {"batch": 20, "train": 50, "test": 50},
}


def grid(*sizes):
    """Every combination of factor values once."""
    return np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), 1)


def standardised(factors, sizes):
    """Factors with the mean 0 and variance 1 of their uniform distribution."""
    sizes = np.array(sizes)
    return (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)


def rotated(factors, sizes, random):
    q, r = np.linalg.qr(random.randn(len(sizes), len(sizes)))
    return standardised(factors, sizes) @ (q * np.sign(np.diag(r)))


def one_dead_code(factors, sizes, random):
    h, n = standardised(factors, sizes).T, len(factors)
    noisy = [column + 0.2 * random.randn(n) for column in h[:3]]
    return np.stack([*noisy[:2], np.full(n, 0.25), noisy[2], h[3], h[4]], 1)


def on_bin_edges(factors, sizes, random):
    f = factors.T
    return np.stack([f[0], 0.5 + 0.05 * f[0], 0.25 * f[1] - 3, 0.1 * f[0] + 0.2 * f[2]], 1)


def with_noise(scale):
    return lambda factors, sizes, random: standardised(factors, sizes) + scale * random.randn(*factors.shape)


CASES = {  # name: samples, factor sizes, seed, codes
    "ds_perfect": (10_000, DSPRITES, 101, lambda f, sizes, random: f / (np.array(sizes) - 1)),
    "ds_rotation": (10_000, DSPRITES, 103, rotated),
    "ds_noisy": (10_000, DSPRITES, 104, with_noise(0.3)),
    "ds_const_code": (5_000, DSPRITES, 106, one_dead_code),
    "mpi_rotation": (10_000, MPI3D, 202, rotated),
    "mpi_random": (5_000, MPI3D, 204, lambda f, sizes, random: random.randn(*f.shape)),
    "edge_grid": (5_000, (11, 21, 5), 301, on_bin_edges),
    "small_n": (300, DSPRITES, 302, with_noise(0.2)),
}


def case(name):
    """Factors and codes the reference was run on; numpy promises RandomState never changes."""
    samples, sizes, seed, codes = CASES[name]
    random = np.random.RandomState(seed)
    factors = np.stack([random.randint(0, size, samples) for size in sizes], 1)
    return factors, codes(factors, sizes, random).astype(np.float32)


def noisy(samples=1000, sizes=(3, 4, 5), latents=4, seed=0):
    """Random factors and latents that are mixtures of them with noise."""
    generator = np.random.default_rng(seed)
    factors = generator.integers(sizes, size=(samples, len(sizes)))
    mixture = generator.standard_normal((len(sizes), latents))
    codes = standardised(factors, sizes) @ mixture
    return factors, codes + 0.3 * generator.standard_normal(codes.shape)


# Parity with the reference implementation


@pytest.mark.parametrize("variant", ["discrete", "bins"])
@pytest.mark.parametrize("name", CASES)
def test_deterministic_scores_equal_the_reference(name, variant):
    factors, codes = case(name)
    wanted = {key: value for key, value in GOLDEN[name][variant].items() if key in DETERMINISTIC}
    assert len(wanted) >= 2
    for key, value in wanted.items():
        arguments = {} if key == "sap" else {"discrete": variant == "discrete"}
        assert getattr(metrics, key)(factors, codes, **arguments) == pytest.approx(value, abs=1e-6), key


@pytest.mark.parametrize("variant", ["discrete", "bins"])
@pytest.mark.parametrize("name", CASES)
def test_sampled_scores_agree_with_the_reference_within_their_spread(name, variant):
    factors, codes = case(name)
    for key in ("beta_vae", "factor_vae"):
        mean, spread = GOLDEN[name][variant][key]
        got = getattr(metrics, key)(factors, codes, discrete=variant == "discrete", seed=1)
        assert abs(got - mean) <= 3 * spread + 0.01, key


def test_sampled_scores_have_the_defaults_of_the_reference():
    """Of two functions at 05d5667.

    z_diff(nb_bins=10, batch_size=200, nb_training=10000, nb_eval=5000)
    z_min_var(nb_bins=10, batch_size=200, nb_training=800, nb_eval=800, std_threshold=0.05)
    """
    wanted = {
        metrics.beta_vae: {"seed": 0, "bins": 10, "batch": 200, "train": 10_000, "test": 5_000},
        metrics.factor_vae: {
            "seed": 0,
            "bins": 10,
            "batch": 200,
            "train": 800,
            "test": 800,
            "std_threshold": 0.05,
        },
    }
    for f, defaults in wanted.items():
        parameters = inspect.signature(f).parameters
        assert {name: parameters[name].default for name in defaults} == defaults, f.__name__
    for f in SIX:
        parameters = inspect.signature(f).parameters
        assert parameters["bins"].default == 10 and parameters["discrete"].default is False, f.__name__


@pytest.mark.parametrize(
    "name, seed, beta_vae, factor_vae",
    [
        ("mpi_random", 0, 0.0008666667, 0.024375),
        ("mpi_random", 1, -0.0040333333, 0.0302083333),
        ("mpi_rotation", 0, 0.9787666667, 0.8891666667),
        ("ds_rotation", 1, 0.9985, 0.7703125),
    ],
)
def test_a_seed_gives_the_same_draws_in_every_version(name, seed, beta_vae, factor_vae):
    """Numbers of this implementation, with its defaults.

    One of 5,000 examples and one of 800 votes may differ where sums are rounded in another way.
    """
    factors, codes = case(name)
    assert metrics.beta_vae(factors, codes, seed=seed) == pytest.approx(beta_vae, abs=1.3 / 5000)
    assert metrics.factor_vae(factors, codes, seed=seed) == pytest.approx(factor_vae, abs=1.3 / 800)


@pytest.mark.parametrize(
    "name, variant",
    [(name, variant) for name in CASES for variant in GOLDEN[name] if "sap_trees" in GOLDEN[name][variant]],
)
def test_sap_by_trees_equals_the_reference(name, variant):
    factors, codes = case(name)
    wanted = GOLDEN[name][variant]["sap_trees"]
    got = metrics.sap(factors, codes, discrete=variant == "discrete", trees=True)
    assert got == pytest.approx(wanted, abs=1e-11)  # stored to 12 digits
    if variant == "discrete" and name == "small_n":
        assert got == metrics.sap(factors, codes, discrete=True)  # their default
        assert metrics.sap(factors, codes, True, trees=False) == metrics.sap(factors, codes)


# The trees of SAP


@st.composite
def labelled_codes(draw):
    """Codes, some of them alike or closer than a tree can split, and categories 0, 1, ... that all occur."""
    samples = draw(st.integers(2, 60))
    number = draw(
        st.sampled_from(
            [
                st.integers(0, 4),
                st.floats(0, 1),
                st.integers(0, 20).map(lambda i: 0.5 + 3e-8 * i),
                st.integers(0, 20).map(lambda i: 1e-7 * i),
                st.integers(0, 20).map(lambda i: 0.25 + 1.2e-7 * i),
                st.just(0.3),
            ]
        )
    )
    codes = draw(st.lists(number, min_size=samples, max_size=samples))
    values = draw(st.integers(0, 5))
    labels = draw(st.lists(st.integers(0, values), min_size=samples, max_size=samples))
    return np.array(codes, float), np.unique(labels, return_inverse=True)[1]


def trees_right(code, label, train, test):
    """Accuracy of scikit-learn's tree of each depth."""
    trees = [DecisionTreeClassifier(max_depth=depth).fit(code[train], label[train]) for depth in range(1, 10)]
    return [tree.score(code[test], label[test]) for tree in trees]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(table=labelled_codes(), data=st.data())
def test_trees_are_those_of_scikit_learn_at_every_depth(table, data):
    code, label = table
    test = np.array(data.draw(st.lists(st.booleans(), min_size=len(code), max_size=len(code))))
    if test.all() or not test.any():
        test = np.arange(len(code)) == 0
    order = np.argsort(code.astype(np.float32))
    x, label, test = code.astype(np.float32)[order], label[order], test[order]
    got = metrics._depth_accuracies(x, label, ~test, test)
    assert got == trees_right(x[:, None], label, ~test, test)


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_trees_choose_as_scikit_learn_where_only_rounding_decides(seed):
    """Mirrored categories: a split and its mirror image cost the same but for the last bit."""
    half = np.random.default_rng(seed).integers(0, 3, 20)
    x, label, test = (
        np.arange(40, dtype=np.float32),
        np.append(half, half[::-1]),
        np.arange(40) % 4 == seed % 4,
    )
    assert metrics._depth_accuracies(x, label, ~test, test) == trees_right(x[:, None], label, ~test, test)


@pytest.mark.parametrize("name", ["ds_noisy", "mpi_random", "edge_grid"])
def test_trees_of_thousands_of_samples_are_those_of_scikit_learn(name):
    factors, codes = case(name)
    label = metrics._categories(factors, False, 10)[2]
    for column in metrics._scaled(codes.astype(float)).T[:3]:
        order = np.argsort(column.astype(np.float32))
        x, f, every = column.astype(np.float32)[order], label[order], slice(None)
        assert metrics._depth_accuracies(x, f, every, every) == trees_right(x[:, None], f, every, every)


def stratified(label, folds):
    """The fold in which scikit-learn tests each row."""
    fold = np.empty(len(label), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values rarer than the folds
        for number, (_, test) in enumerate(StratifiedKFold(folds).split(label[:, None], label)):
            fold[test] = number
    return fold


@settings(max_examples=150, deadline=None, derandomize=True)
@given(table=labelled_codes(), folds=st.integers(2, 10))
def test_folds_are_those_of_scikit_learn(table, folds):
    _, label = table
    if np.bincount(label).max() >= folds:
        assert metrics._stratified(label, folds).tolist() == stratified(label, folds).tolist()


def sap_of_two(label, codes):
    """SAP of one factor and two latents: the depth of the best mean over the folds, then its tree."""
    scaled, share = metrics._scaled(codes), []
    fold = stratified(label, min(10, np.bincount(label).max()))
    for column in scaled.T[:, :, None]:
        right = np.array([trees_right(column, label, fold != k, fold == k) for k in range(fold.max() + 1)])
        depth = np.argmax([np.mean(right[:, d].copy()) for d in range(9)])
        share.append(trees_right(column, label, slice(None), slice(None))[depth])
    return abs(share[0] - share[1])


@settings(max_examples=10, deadline=None, derandomize=True)
@given(table=labelled_codes(), seed=st.integers(0, 2**32 - 1))
def test_sap_by_trees_is_what_its_definition_says(table, seed):
    code, label = table
    codes = np.stack([code, np.random.default_rng(seed).integers(0, 6, len(code)) + label], 1)
    if np.ptp(label) == 0 or np.bincount(label).max() < 2:
        with pytest.raises(ValueError, match="constant|need two samples of a value, factor 0 has at most 1"):
            metrics.sap(label[:, None], codes, True)
    else:
        wanted = sap_of_two(label, codes) if metrics._varies(codes).any() else 0
        assert metrics.sap(label[:, None], codes, True) == pytest.approx(wanted, abs=1e-15)


def test_sap_by_trees_compares_codes_in_single_precision():
    random = np.random.default_rng(0)
    steps, label = random.integers(0, 20, 60), random.integers(0, 3, 60)
    close = 0.3 + 1.01e-7 * steps
    close[:2] = 0, 1
    codes = np.stack([close, np.zeros(60)], 1)
    assert metrics.sap(label[:, None], codes, True) == pytest.approx(sap_of_two(label, codes), abs=1e-15)


def test_sap_by_trees_takes_two_samples_of_a_value():
    factors = np.array([[0], [0], [1]])
    assert 0 <= metrics.sap(factors, factors, trees=True) <= 1
    with pytest.raises(ValueError, match="need two samples of a value, factor 0 has at most 1"):
        metrics.sap(factors[1:], factors[1:], trees=True)


def test_sap_by_trees_has_fewer_folds_where_no_value_has_ten_samples():
    factors = grid(4, 4)  # the reference fails
    assert metrics.sap(factors, factors, trees=True) >= 1 / 2 - 1 / 4  # a single split, against none


# Closed forms


def test_one_latent_per_factor_scores_one():
    factors = grid(2, 4, 8, 10)
    for codes in (factors, factors[:, [2, 0, 3, 1]], 0.5 - 3.0 * factors):
        for f in (metrics.irs, metrics.mig, metrics.beta_vae, metrics.factor_vae):
            assert f(factors, codes, discrete=True) == pytest.approx(1, abs=1e-9), f.__name__
        assert metrics.sap(factors, codes) == pytest.approx(1, abs=1e-9)


def test_explicitness_is_one_for_binary_factors_and_below_for_more_values():
    assert metrics.explicitness(grid(2, 2, 2), grid(2, 2, 2), discrete=True) == pytest.approx(1, abs=1e-12)
    assert 0.3 < metrics.explicitness(grid(5, 5), grid(5, 5), discrete=True) < 0.95


def test_mig_is_two_thirds_when_one_of_three_factors_is_missed():
    factors = grid(4, 4, 4)
    assert metrics.mig(factors, factors[:, :2], discrete=True) == pytest.approx(2 / 3, abs=1e-12)
    assert metrics.sap(factors, factors[:, :2]) == pytest.approx(2 / 3, abs=1e-12)


def test_a_duplicated_latent_closes_the_gap():
    factors = grid(4, 5)
    assert metrics.mig(factors, np.repeat(factors, 2, 1), discrete=True) == pytest.approx(0, abs=1e-12)
    assert metrics.sap(factors, np.repeat(factors, 2, 1)) == pytest.approx(0, abs=1e-12)


def test_turning_two_latents_by_45_degrees_closes_the_gap():
    factors = grid(9, 9)
    turned = (factors - 4) @ [[1, -1], [1, 1]]
    assert metrics.mig(factors, turned, discrete=True) == pytest.approx(0, abs=1e-12)
    assert metrics.sap(factors, turned) == pytest.approx(0, abs=1e-12)
    assert metrics.irs(factors, turned, discrete=True) == pytest.approx(0.5, abs=1e-12)  # held: 4 of 8


def test_mutual_information_is_divided_by_the_entropy_of_the_code():
    factors, codes = grid(4, 3), grid(2, 2, 3)[:, [0, 2]]  # a code that distinguishes 2 of 4 values
    information = metrics.mutual_information(factors, codes, discrete=True)
    assert information == pytest.approx(np.eye(2), abs=1e-12)  # by the factor's entropy it would be 1/2
    information = metrics.mutual_information(factors[:, :1] // 2, grid(4, 3)[:, :1], discrete=True)
    assert information == pytest.approx(np.array([[0.5]]), abs=1e-12)


def test_bins_of_ten_merge_neighbouring_values():
    factors = grid(20, 3)
    parity = factors[:, :1] % 2  # what two merged values differ in
    assert metrics.mutual_information(factors, parity) == pytest.approx(np.array([[0], [0]]), abs=1e-12)
    for variant in ({"bins": 20}, {"discrete": True}):
        information = metrics.mutual_information(factors, parity, **variant)
        assert information == pytest.approx(np.array([[1], [0]]), abs=1e-12)


def test_irs_weighs_latents_by_their_range():
    factors = grid(2, 2)
    codes = np.stack([3 * factors[:, 0], (factors[:, 0] - 0.5) * (factors[:, 1] - 0.5)], 1)
    wanted = 1.5 / (1.5 + 0.25)  # scores 1 and 0, deviations 1.5 and 0.25
    assert metrics.irs(factors, codes, discrete=True) == pytest.approx(wanted, abs=1e-12)


def test_explicitness_is_at_the_minimum_of_its_objective():
    """Gradient of 1/2 |w|^2 + sum s log(1 + e^-+zw), written out for one category at a time, vanishes."""
    factors, codes = noisy(200)
    z = np.hstack([codes / np.ptp(codes, 0), np.ones((200, 1))])
    upper = np.triu_indices(z.shape[1])
    weights = metrics._one_against_rest(z, z[:, upper[0]] * z[:, upper[1]], factors[:, 2])
    for value, w in enumerate(weights):
        is_value = factors[:, 2] == value
        s = np.where(is_value, 100 / is_value.sum(), 100 / (~is_value).sum())
        gradient = (s * (1 / (1 + np.exp(-z @ w)) - is_value)) @ z + np.append(w[:-1], 0)
        assert abs(gradient).max() < 1e-6


def test_newton_finds_a_minimum_its_full_steps_would_run_away_from():
    """sqrt(1 + (w - c)^2): a full step maps w - c to -(w - c)^3."""
    centre = np.array([[0.5], [3.0]])

    def derivatives(w):
        square = 1 + (w - centre) ** 2
        return (w - centre) / square**0.5, (square**-1.5)[..., None]

    assert metrics._newton(derivatives, 2, 1) == pytest.approx(centre, abs=1e-6)


def test_a_sigmoid_is_written_over_its_argument_without_a_warning():
    x = np.array([-1e4, -1.0, 0.0, 1e4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics._sigmoid(x)
    assert found is x and x == pytest.approx([0, 1 / (1 + math.e), 0.5, 1])


def test_the_hessian_stays_positive_where_every_probability_is_0_or_1(monkeypatch):
    """The bias has no penalty, so that its second derivative would be 0 there."""
    monkeypatch.setattr(metrics, "_newton", lambda derivatives, *_: derivatives(np.full((2, 2), 1e4)))
    z = np.stack([np.linspace(0.5, 1, 6), np.ones(6)], 1)
    upper = np.triu_indices(2)
    _, hessian = metrics._one_against_rest(z, z[:, upper[0]] * z[:, upper[1]], np.arange(6) % 2)
    assert np.allclose(hessian, [[1, 0], [0, 1e-9]], rtol=1e-6, atol=0)


def test_explicitness_counts_equal_scores_half():
    factors = np.array([[0, 0, 0, 0, 1, 1, 1, 1]]).T
    codes = np.array([[0, 0, 0, 1, 0, 1, 1, 1]]).T  # true positives 3/4, false ones 1/4
    assert metrics.explicitness(factors, codes) == pytest.approx(3 / 4 - 1 / 4, abs=1e-12)


def test_scores_ignore_what_their_definition_ignores():
    factors, codes = noisy()
    moved = codes * [2.0, 0.5, -4.0, 1.0] + 8.0
    for f in (metrics.explicitness, metrics.sap):
        assert f(factors, moved) == pytest.approx(f(factors, codes), abs=1e-6), f.__name__
    assert metrics.irs(factors, 2 * codes + 8) == pytest.approx(metrics.irs(factors, codes), abs=1e-9)
    for f in SIX[2:]:
        assert f(factors[:, ::-1], codes[:, ::-1]) == pytest.approx(f(factors, codes), abs=1e-7), f.__name__


def test_random_codes_are_near_chance():
    factors, _ = noisy(5000)
    codes = np.random.default_rng(1).standard_normal((5000, 3))
    scores = metrics.score(factors, codes, discrete=True)
    assert abs(scores["beta_vae"]) < 0.05 and abs(scores["factor_vae"]) < 0.1
    assert scores["mig"] < 0.01 and scores["sap"] < 0.01 and 0 < scores["explicitness"] < 0.1


def test_factor_vae_is_scored_on_votes_it_did_not_learn_from():
    factors, _ = noisy(2000, sizes=(4, 4, 4, 4))
    codes = np.random.default_rng(1).standard_normal((2000, 8))
    scores = [metrics.factor_vae(factors, codes, True, seed, train=30, test=2000) for seed in range(3)]
    assert abs(np.mean(scores)) < 0.08  # on its own 30 votes: above 0.3


def test_factor_vae_leaves_out_latents_below_the_threshold():
    factors = grid(4, 5, 5)
    codes = factors * [1.0, 1.0, 0.02]  # standard deviation 0.028
    assert metrics.factor_vae(factors, codes, discrete=True, std_threshold=0.02) == pytest.approx(1, abs=1e-9)
    assert metrics.factor_vae(factors, codes, discrete=True) < 0.6


def test_factor_vae_measures_deviations_without_bias():
    factors = grid(2, 2)
    codes = 0.1 * factors  # 0.05 by M samples, 0.0577 by M - 1
    assert metrics.factor_vae(factors, codes, discrete=True, std_threshold=0.055) == pytest.approx(1)
    assert metrics.factor_vae(factors, codes, discrete=True, std_threshold=0.06) == 0  # no latent takes part


# Degenerate input


def test_tensors_are_scored_like_arrays_also_where_they_want_gradients():
    factors = np.random.default_rng(0).integers(0, 4, (300, 2))
    codes = torch.from_numpy(factors * 0.5 + 1).requires_grad_()
    wanted = metrics.mig(factors, codes.detach().numpy())
    assert metrics.mig(torch.from_numpy(factors), codes) == wanted
    assert metrics.mig(factors, codes.bfloat16()) == wanted


@pytest.mark.parametrize("discrete", [False, True])
def test_every_score_is_zero_not_nan_for_a_collapsed_encoder(discrete):
    factors, codes = noisy()
    for value in (0.0, 0.1, -3e5):
        scores = metrics.score(factors, np.full_like(codes, value), discrete)
        assert len(scores) == 7 and set(scores.values()) == {0.0}
    assert metrics.sap(factors, np.ones((1000, 1)), discrete) == 0


def test_a_dead_latent_leaves_the_gaps_and_the_classifiers_as_they_are():
    factors, codes = noisy()
    dead = np.hstack([codes, np.full((len(codes), 1), 0.1)])
    for f in SIX:
        assert f(factors, dead) == pytest.approx(f(factors, codes), abs=1e-7), f.__name__


def test_a_constant_factor_is_left_out():
    factors, codes = noisy()
    constant = np.insert(factors, 1, 7, 1)
    for discrete in (False, True):
        assert metrics.score(constant, codes, discrete) == metrics.score(factors, codes, discrete)
    assert metrics.mutual_information(constant, codes)[1].tolist() == [0] * 4  # rows are the input's


def test_one_latent_is_its_own_gap():
    factors = grid(4, 4)
    assert metrics.mig(factors, factors[:, :1], discrete=True) == pytest.approx(0.5, abs=1e-12)
    assert metrics.sap(factors, factors[:, :1]) == pytest.approx(0.5, abs=1e-12)
    assert all(math.isfinite(value) for value in metrics.score(factors, factors[:, :1]).values())


def test_one_factor_is_scored_save_that_nothing_beats_chance():
    scores = metrics.score(grid(5, 6)[:, :1], grid(5, 6), discrete=True)
    assert scores["beta_vae"] == scores["factor_vae"] == 0
    assert scores["mig"] == pytest.approx(1)
    assert scores["irs"] == pytest.approx(2 / (2 + 2.5))  # the second latent follows no factor


def test_fewer_latents_than_factors_are_scored():
    factors, codes = noisy(sizes=(3, 4, 5, 2, 2), latents=2)
    assert all(0 <= value <= 1 for value in metrics.score(factors, codes, discrete=True).values())


def test_latents_far_from_0_count_as_much_as_those_near_it():
    factors = grid(*[4] * 4)
    codes = factors + np.array([0, 0, -1e8, 1e8])
    assert metrics.beta_vae(factors, codes, discrete=True, **QUICK["beta_vae"]) == pytest.approx(1, abs=0.02)


def test_large_and_small_units_are_scored():
    factors, codes = noisy(300)
    for unit in (1e-12, 1e12, [1e-20, 1, 1e20, 1e29]):
        assert all(math.isfinite(value) for value in metrics.score(factors, codes * unit).values())
    assert metrics.beta_vae(factors, codes + 1e8) == pytest.approx(metrics.beta_vae(factors, codes), abs=0.02)


@pytest.mark.parametrize("seed", [20, 29, 47])
def test_beta_vae_converges_for_codes_of_forty_orders_of_magnitude(seed):
    generator = np.random.default_rng(seed)
    factors = generator.integers(0, 3, (10, 3))
    codes = generator.standard_normal((10, 3)) * 10.0 ** generator.integers(-20, 20, (10, 3))
    assert -0.5 <= metrics.beta_vae(factors, codes, discrete=True) <= 1


def test_labels_may_be_of_any_type_and_size():
    factors, codes = noisy()
    wanted = metrics.score(factors, codes, discrete=True)
    spread = (factors * 60 - 120).astype(np.int8)
    for same in (spread, factors.astype(np.uint64), factors * 10**15, factors / 7):
        got = metrics.score(same, codes, discrete=True)
        assert {k: v for k, v in got.items() if k != "sap"} == {k: v for k, v in wanted.items() if k != "sap"}
    assert metrics.mig(factors > 1, codes, discrete=True) > 0


def table_with(value, row, column):
    table = np.zeros((10, 2))
    table[row, column] = value
    return table


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"codes": np.zeros((10, 0))}, r"codes must be a filled .* got shape \(10, 0\)"),
        ({"codes": np.zeros(10)}, r"codes must be .* got shape \(10,\)"),
        ({"factors": np.zeros((2, 5, 2))}, r"factors must be .* got shape \(2, 5, 2\)"),
        ({"codes": np.zeros((9, 2))}, "got 10 rows of factors and 9 of codes"),
        ({"codes": np.zeros((10, 2), complex)}, "codes must be real numbers, got complex128"),
        ({"factors": np.full((10, 2), "a")}, "factors must be real numbers, got <U1"),
        ({"codes": table_with(np.nan, 3, 1)}, "codes must be finite .* got nan in column 1, row 3"),
        ({"codes": table_with(-np.inf, 2, 0)}, "codes must be finite .* got -inf in column 0, row 2"),
        ({"codes": table_with(-1e31, 2, 0)}, r"below 1e\+30, got -1e\+31 in column 0, row 2"),
        ({"codes": table_with(1e30, 4, 1)}, r"below 1e\+30, got 1e\+30 in column 1, row 4"),
        ({"factors": table_with(np.nan, 3, 1)}, "factors must be finite .* got nan in column 1, row 3"),
        ({"factors": np.full((10, 2), 3)}, r"every factor is constant \(10 samples of \[3, 3\]\)"),
    ],
)
def test_wrong_input_is_refused_by_every_score(wrong, message):
    arguments = {"factors": grid(5, 2), "codes": grid(5, 2), **wrong}
    for f in (*SIX, metrics.score):
        with pytest.raises(ValueError, match=message):
            f(**arguments)
    if "constant" not in message:
        with pytest.raises(ValueError, match=message):
            metrics.mutual_information(**arguments)


def test_what_cannot_be_sampled_or_cut_is_refused():
    factors = np.stack([np.arange(30), np.arange(30) % 2], 1)
    for f in (metrics.beta_vae, metrics.factor_vae, metrics.score):
        with pytest.raises(ValueError, match="no two of 30 samples share a value of factor 0"):
            f(factors, factors, discrete=True)
    with pytest.raises(ValueError, match="factor 0 has at most 1"):
        metrics.sap(factors, factors, discrete=True)
    for f in (metrics.mig, partial(metrics.sap, trees=True)):
        with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
            f(factors, factors, bins=1)
    assert metrics.mig(grid(2, 2), grid(2, 2), bins=2) == pytest.approx(1, abs=1e-12)


def test_a_value_of_one_sample_is_never_drawn():
    """Its partner would be a sample of another value."""
    order, start, count = metrics._pairable(np.array([2, 0, 1, 2, 0, 3]), 0)
    assert [order[a : a + n].tolist() for a, n in zip(start, count, strict=True)] == [[1, 4], [0, 3]]
    factors = np.array([[0], [0], [1], [2], [2]] * 2)[[0, 1, 2, 3, 4, 0, 1, 3, 4]]
    factors = np.hstack([factors, np.array([[0, 1, 0, 1, 0, 1, 0, 1, 0]]).T])
    codes = np.array(factors, float)
    codes[2] += 1e6
    for f, arguments in ((metrics.beta_vae, QUICK["beta_vae"]), (metrics.factor_vae, QUICK["factor_vae"])):
        assert -1 <= f(factors, codes, discrete=True, **arguments) <= 1


def test_a_column_is_constant_below_ten_roundings_of_one():
    factors = grid(2, 8)
    least = 10 * np.finfo(float).eps
    for unit, wanted in ((least, 1.0), (0.9 * least, 0.5)):
        codes = factors * [unit, 1.0]
        assert metrics.mig(factors, codes, discrete=True) == pytest.approx(wanted, abs=1e-12)
        assert metrics.sap(factors, codes) == pytest.approx(wanted, abs=1e-12)
        assert metrics.mig(factors, codes[:, :1], discrete=True) == pytest.approx(wanted - 0.5, abs=1e-12)


def test_scaling_is_that_of_scikit_learn_to_the_bit():
    """(x - low) / span, or times 1 / span, puts other values into a bin."""
    columns = np.arange(12.0)[:, None] * [0.1, 0.7, 1 / 3, 1e-9] + [0.3, -3, 1e3, 0]
    assert np.array_equal(metrics._scaled(columns), MinMaxScaler().fit_transform(columns))


def test_rows_are_sorted_by_category_however_many_there_are():
    for values in (3, 2**15 - 1, 2**15, 2**15 + 1, 2**16 + 1):
        label = np.arange(values)[::-1].repeat(2)
        order, start, count = metrics._groups(label)
        assert np.array_equal(label[order], np.arange(values).repeat(2))
        assert np.array_equal(start, 2 * np.arange(values)) and set(count.tolist()) == {2}


def test_mutual_information_is_never_outside_0_and_1():
    for sizes in ((3, 7), (5, 6), (9, 7), (2, 3, 5)):
        information = metrics.mutual_information(grid(*sizes), grid(*sizes), discrete=True)
        assert information.min() >= 0 and information.max() <= 1
    factor = np.arange(14)[:, None] % 3
    code = factor * 7 % 10  # 2e-16 above 1 before it is cut off
    assert metrics.mutual_information(factor, code, discrete=True) == 1


def test_newton_gives_up_where_there_is_no_minimum():
    steps = []

    def slope_of_one(w):
        steps.append(w)
        return np.ones((1, 1)), np.ones((1, 1, 1))

    with pytest.raises(RuntimeError, match="not converged: slope 1 after 500 Newton steps"):
        metrics._newton(slope_of_one, 1, 1)
    assert len(steps) == 500


@pytest.mark.parametrize("samples", [300, 5000])  # within a block of rows, and beyond two
def test_multinomial_regression_is_at_the_minimum_of_its_objective(monkeypatch, samples):
    """Gradient of 1/2 |w|^2 - sum log softmax(W x)_label in the codes' own units, written out, vanishes."""
    random = np.random.default_rng(0)
    x, label = random.standard_normal((samples, 3)) * [1, 5, 0.1] + 2, random.integers(0, 3, samples)
    x[:, 0] += label
    found, newton = [], metrics._newton
    monkeypatch.setattr(metrics, "_newton", lambda *given: found.append(newton(*given)) or found[-1])
    answer = metrics._multinomial(x, label, x)
    scaled = found[0].reshape(3, 4)
    w = scaled[:, :3] / x.std(0)
    logits = x @ w.T + scaled[:, 3] - w @ x.mean(0)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = p - np.eye(3)[label]
    assert abs(error.T @ x + w).max() < 1e-3 and abs(error.sum(0)).max() < 1e-3
    assert np.array_equal(answer, logits.argmax(1))


def test_the_stillest_latent_has_the_least_variance_wherever_its_mean_is():
    random = np.random.default_rng(0)
    z = np.stack([5 + 0.1 * random.standard_normal(50), 0.2 * random.standard_normal(50)])
    still = metrics._stillest(z, np.arange(50), 30, 20, random)
    assert still.tolist() == [0] * 30


def test_factor_vae_counts_a_latent_at_the_threshold():
    factors = grid(4, 5, 5)
    deviation = float((factors * 1.0).std(0, ddof=1)[0])
    codes = factors * 1.0
    assert metrics.factor_vae(factors, codes, discrete=True, std_threshold=deviation) == pytest.approx(1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), samples=st.integers(1, 40), factors=st.integers(1, 4), latents=st.integers(1, 4))
def test_small_tables_give_a_score_in_range_or_a_value_error(data, samples, factors, latents):
    table = data.draw(
        st.lists(
            st.lists(st.integers(0, 4), min_size=factors, max_size=factors),
            min_size=samples,
            max_size=samples,
        )
    )
    numbers = st.one_of(st.integers(-2, 2), st.floats(-1e29, 1e29), st.floats(-1, 1))
    codes = data.draw(
        st.lists(st.lists(numbers, min_size=latents, max_size=latents), min_size=samples, max_size=samples)
    )
    discrete = data.draw(st.booleans())
    for f in SIX:
        arguments = {} if f is metrics.sap else {"discrete": discrete}
        try:
            value = f(np.array(table), np.array(codes, float), **arguments, **QUICK.get(f.__name__, {}))
        except ValueError as error:
            assert "constant" in str(error) or "no two of" in str(error)
        else:
            lowest = -1 if f in SIX[:3] else 0
            assert isinstance(value, float) and lowest <= value <= 1 + 1e-9, f.__name__


# Seeds


@pytest.mark.parametrize("f", [metrics.beta_vae, metrics.factor_vae, metrics.score])
def test_a_seed_repeats_its_numbers_and_leaves_the_global_generator_alone(f):
    factors, codes = noisy(latents=2)
    state = np.random.get_state()[1].copy()
    assert f(factors, codes, seed=3) == f(factors, codes, seed=3) != f(factors, codes, seed=4)
    assert np.array_equal(np.random.get_state()[1], state)


def test_scores_leave_their_arguments_alone():
    factors, codes = noisy(300)
    before = factors.copy(), codes.copy()
    metrics.score(factors, codes)
    assert np.array_equal(factors, before[0]) and np.array_equal(codes, before[1])


@pytest.mark.parametrize("discrete", [False, True])
def test_quick_scores_are_the_scores_without_sap_by_trees(discrete):
    factors, codes = noisy(300, sizes=(3, 4, 25))
    scores = metrics.score(factors, codes, discrete)
    assert scores.pop("sap_classification") == metrics.sap(factors, codes, discrete, trees=True) > 0
    assert metrics.score(factors, codes, discrete, quick=True) == scores


def test_score_holds_the_six_in_the_order_of_table_2_and_sap_by_trees():
    factors, codes = noisy(300, sizes=(3, 4, 25))
    scores = metrics.score(factors, codes, discrete=True, seed=5)
    names = ["beta_vae", "factor_vae", "explicitness", "irs", "mig", "sap", "sap_classification"]
    assert list(scores) == names
    assert scores["beta_vae"] == metrics.beta_vae(factors, codes, True, 5)
    assert scores["factor_vae"] == metrics.factor_vae(factors, codes, True, 5)
    assert scores["explicitness"] == metrics.explicitness(factors, codes, True)
    assert scores["irs"] == metrics.irs(factors, codes, True)
    assert scores["mig"] == metrics.mig(factors, codes, True)
    assert scores["sap"] == metrics.sap(factors, codes)


def test_score_passes_discrete_and_seed_to_each_score(monkeypatch):
    calls = []
    for f in SIX:
        name = f.__name__
        monkeypatch.setattr(
            metrics, name, lambda *got, name=name, **named: calls.append((name, *got, named)) or 0.5
        )
    for asked, discrete, seed in (((), False, 0), ((True, 5), True, 5)):
        calls.clear()
        assert set(metrics.score("factors", "codes", *asked).values()) == {0.5}
        each = [(discrete, seed)] * 2 + [(discrete,)] * 3 + [(), (discrete,)]
        names = [f.__name__ for f in SIX] + ["sap"]
        expected = [(name, "factors", "codes", *more, {}) for name, more in zip(names, each, strict=True)]
        assert calls == [*expected[:-1], (*expected[-1][:-1], {"trees": True})]


def test_products_are_on_one_thread_until_the_last_thread_has_left():
    def threads(blas=True):
        libraries = [each for each in one.libraries.info() if (each["user_api"] == "blas") is blas]
        return {library["num_threads"] for library in libraries}

    one = metrics.OneThread()
    with one.libraries.limit(limits=2):
        before, others = threads(), threads(blas=False)
        if before != {2}:
            pytest.skip("the BLAS of this machine does not take two threads")
        for _ in range(2):
            with one:
                with one:
                    assert threads() == {1} and threads(blas=False) == others
                assert threads() == {1}
            assert threads() == before


def test_pairs_share_their_value_and_never_a_sample():
    """Codes 10 v + sample number: |z - z'| is at least 1, and below 3 only if both have one value."""
    codes = np.array([[10.0 * v + i] for v in range(4) for i in range(3)], np.float32)
    group = np.arange(12), np.arange(0, 12, 3), np.full(4, 3)
    difference = metrics._mean_differences(codes, *group, 6000, 1, np.random.default_rng(0))
    assert set(difference.ravel().tolist()) == {1.0, 2.0}
    assert difference.mean() == pytest.approx(4 / 3, abs=0.03)  # pairs 01, 12, 02 alike


# Command line


def python(*arguments):
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])


def test_command_line_prints_sizes_bins_and_seed_above_the_scores(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(metrics, "score", lambda *given: calls.append(given) or {"mig": 0.25, "beta_vae": 1})
    factors, codes = np.arange(12).reshape(4, 3), np.ones((4, 2))
    for number, table in enumerate((factors, np.insert(factors, 0, 1, 1))):
        np.savez(tmp_path / f"{number}.npz", factors=table, codes=codes)
    assert metrics.main([str(tmp_path / "0.npz")]) == 0
    scores = "mig                   0.2500\nbeta_vae              1.0000\n"
    head = "4 samples, 3 factors, 2 latents\nfactors in 10 bins, sap by regression, seed 0\n"
    assert capsys.readouterr().out == head + scores
    assert metrics.main([str(tmp_path / "1.npz"), "--discrete", "--seed", "7"]) == 0
    head = "4 samples, 4 factors (1 constant, left out), 2 latents\n"
    assert capsys.readouterr().out == head + "factors as they are, sap by regression, seed 7\n" + scores
    (*tables, discrete, seed), (*_, as_they_are, other) = calls
    assert all(map(np.array_equal, tables, (factors, codes)))
    assert (discrete, seed, as_they_are, other) == (False, 0, True, 7)


def test_command_line_describes_itself(capsys):
    with pytest.raises(SystemExit) as end:
        metrics.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and text.startswith("usage: python -m lvae_min.metrics [-h] [--discrete]")
    for part in (
        " Six disentanglement scores. ",
        " file .npz with arrays factors (M, K) and codes (M, L) ",
        " --discrete factors as they are; default: in 10 bins ",
        " --seed SEED of the two sampled scores (default 0)",
    ):
        assert part in text


@pytest.mark.parametrize("seed, message", [("-1", "--seed must not be negative, got -1"), ("x", "invalid")])
def test_command_line_refuses_a_wrong_seed(capsys, seed, message):
    with pytest.raises(SystemExit) as end:
        metrics.main(["codes.npz", "--seed", seed])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_command_line_prints_the_scores_and_their_variant(tmp_path):
    factors, codes = noisy(300)
    np.savez(tmp_path / "codes.npz", factors=np.insert(factors, 0, 1, 1), codes=codes)
    done = python("-m", "lvae_min.metrics", tmp_path / "codes.npz", "--discrete", "--seed", 2)
    assert (done.returncode, done.stderr) == (0, "")
    head, variant, *rows = done.stdout.splitlines()
    assert head == "300 samples, 4 factors (1 constant, left out), 4 latents"
    assert variant == "factors as they are, sap by regression, seed 2"
    wanted = metrics.score(factors, codes, discrete=True, seed=2)
    assert [row.split() for row in rows] == [[name, f"{value:.4f}"] for name, value in wanted.items()]
    assert len({len(row) for row in rows}) == 1 and len(rows) == 7
    binned = python("-m", "lvae_min.metrics", tmp_path / "codes.npz").stdout.splitlines()
    assert binned[1] == "factors in 10 bins, sap by regression, seed 0"
    assert binned[-1].split() == ["sap_classification", f"{metrics.sap(factors, codes, trees=True):.4f}"]


def bad_files(folder):
    """Files that cannot be scored, each with what the error must say."""
    np.savez(folder / "no_codes.npz", factors=grid(3, 3))
    np.savez(folder / "pickled.npz", factors=grid(3, 3), codes=np.array([{}], object))
    np.savez(folder / "rows.npz", factors=grid(3, 3), codes=np.zeros((4, 2)))
    np.savez(folder / "nan.npz", factors=grid(3, 3), codes=np.full((9, 1), np.nan))
    (folder / "text.npz").write_text("factors, codes\n")
    np.save(folder / "array.npy", grid(3, 3))
    np.savez(folder / "whole.npz", factors=grid(30, 30), codes=grid(30, 30))
    (folder / "cut.npz").write_bytes((folder / "whole.npz").read_bytes()[:5000])
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 2), }".ljust(117) + b"\n"
    header = b"\x93NUMPY\x01\x00v\x00" + header  # announces 1.6 TB and has none
    with zipfile.ZipFile(folder / "lie.npz", "w") as archive:
        archive.writestr("factors.npy", header)
        archive.writestr("codes.npy", header)
    with zipfile.ZipFile(folder / "packed.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("factors.npy", header)
    return {
        "missing.npz": "no such file",
        ".": "no such file",
        "no_codes.npz": "no array 'codes', found 'factors.npy'",
        "pickled.npz": "holds pickled objects, which are never read",
        "rows.npz": "9 rows of factors and 4 of codes",
        "nan.npz": "got nan in column 0",
        "text.npz": "not an .npz",
        "array.npy": "not an .npz",
        "cut.npz": "not an .npz",
        "lie.npz": "is float64 (99999999999, 2), and has 0 bytes of that",
        "packed.npz": "is packed by method 12, expected stored or deflated",
    }


def test_command_line_refuses_a_bad_file_in_one_line(tmp_path, capsys):
    for name, message in bad_files(tmp_path).items():
        assert metrics.main([str(tmp_path / name)]) == 2, name
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1) and message in error, name
        assert error.startswith(f"{tmp_path / name}: ") and len(error) > len(f"{tmp_path / name}: \n"), name
    done = python("-m", "lvae_min.metrics", tmp_path / "nan.npz")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_command_line_refuses_what_is_larger_than_2_gib(tmp_path, capsys):
    file = tmp_path / "codes.npz"
    np.savez(file, factors=grid(3, 3), codes=grid(3, 3))
    content = bytearray(file.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the size in the directory
    for size, code in ((2**31 + 1, 2), (2**31, 0)):
        content[at : at + 4] = size.to_bytes(4, "little")
        file.write_bytes(content)
        assert metrics.main([str(file)]) == code
        assert ("factors would take 2,147,483,649 bytes, more than 2 GiB" in capsys.readouterr().err) == bool(
            code
        )


def test_importing_the_scores_is_light():
    done = python("-c", "import sys, lvae_min.metrics; print('sklearn' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_command_line_reports_in_one_line_that_memory_is_too_small(tmp_path, capsys, monkeypatch):
    def too_much(*_):
        raise MemoryError

    monkeypatch.setattr(metrics, "score", too_much)
    np.savez(tmp_path / "codes.npz", factors=grid(3, 3), codes=np.asfortranarray(grid(3, 3)))
    assert metrics.main([str(tmp_path / "codes.npz")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'codes.npz'}: too large for this memory\n"


def test_command_line_reports_a_member_whose_name_is_a_page_in_a_short_line(tmp_path, capsys):
    file = tmp_path / "codes.npz"
    np.savez(file, factors=grid(30, 30), codes=grid(30, 30))
    content = bytearray(file.read_bytes())
    content[26:28] = b"\xff\x1f"  # the length of the first name
    file.write_bytes(content)
    assert metrics.main([str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{file}: File name in directory") and len(error) < 500


def test_a_score_searches_for_no_libraries(monkeypatch):
    """It would hold the loader's lock and wait for Python's, and another thread that imports the reverse."""

    def search(*_):
        raise AssertionError("searches for libraries")

    monkeypatch.setattr("threadpoolctl.ThreadpoolController._load_libraries", search)
    factors = np.random.default_rng(0).integers(3, size=(500, 2))
    assert metrics.score(factors, factors + 0.1)["mig"] > 0.5
