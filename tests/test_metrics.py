import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvae_min import metrics

GOLDEN = json.loads((Path(__file__).parent / "golden_scores.json").read_text())["scores"]
SIZES = {
    "ds": (3, 6, 40, 32, 32),
    "mpi": (6, 6, 2, 3, 3, 40, 40),
    "edge": (11, 21, 5),
    "small": (3, 6, 40, 32, 32),
}
DRAWN = {
    "ds_perfect": (101, 10_000),
    "ds_noisy": (104, 10_000),
    "ds_rotation": (103, 10_000),
    "mpi_rotation": (202, 10_000),
    "mpi_random": (204, 5000),
    "edge_grid": (301, 5000),
    "small_n": (302, 300),
}  # seed, samples
SCORES = (metrics.beta_vae, metrics.factor_vae, metrics.explicitness, metrics.irs, metrics.mig, metrics.sap)


def drawn(case):
    """Factors and codes of a golden case, from its seed alone (numpy's legacy generator, which is frozen)."""
    seed, samples = DRAWN[case]
    random, sizes = np.random.RandomState(seed), np.array(SIZES[case.split("_")[0]])
    factors = np.stack([random.randint(0, size, samples) for size in sizes], 1)
    standard = (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)
    if case.endswith("perfect"):
        codes = factors / (sizes - 1)
    elif case.endswith("rotation"):
        rotation, upper = np.linalg.qr(random.randn(len(sizes), len(sizes)))
        codes = standard @ (rotation * np.sign(np.diag(upper)))
    elif case == "edge_grid":  # codes on the edges of bins
        f0, f1, f2 = factors.T
        codes = np.stack([f0, 0.5 + 0.05 * f0, -3 + 0.25 * f1, 0.1 * f0 + 0.2 * f2], 1)
    else:
        noise = random.randn(*factors.shape)
        codes = noise if case == "mpi_random" else standard + {"ds_noisy": 0.3, "small_n": 0.2}[case] * noise
    return factors, codes.astype(np.float32)


@pytest.fixture(scope="module", params=GOLDEN)
def case(request):
    return request.param, *drawn(request.param)


@pytest.mark.parametrize("variant", ["bins", "discrete"])
def test_deterministic_scores_equal_the_reference(case, variant):
    name, factors, codes = case
    found = {
        score: getattr(metrics, score)(factors, codes, discrete=variant == "discrete")
        for score in ("mig", "irs", "explicitness")
    }
    if variant == "bins":
        found["sap"] = metrics.sap(factors, codes)
    assert found == pytest.approx({score: GOLDEN[name][variant][score] for score in found}, abs=1e-6)


@pytest.mark.parametrize("variant", ["bins", "discrete"])
def test_sampled_scores_are_within_the_spread_of_the_reference(case, variant):
    name, factors, codes = case
    for score in ("beta_vae", "factor_vae"):
        mean, std = GOLDEN[name][variant][score]
        assert getattr(metrics, score)(factors, codes, discrete=variant == "discrete") == pytest.approx(
            mean, abs=3 * std + 0.01
        )


@pytest.mark.parametrize("name", ["small_n", "edge_grid"])
def test_sap_of_trees_equals_the_reference(name):
    factors, codes = drawn(name)
    assert metrics.sap(factors, codes, discrete=True) == pytest.approx(
        GOLDEN[name]["discrete"]["sap_trees"], abs=1e-6
    )


def grid(*sizes, copies=40):
    """A complete grid of factors, each combination `copies` times: (M, K)."""
    return np.tile(
        np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, len(sizes)), (copies, 1)
    )


def test_codes_that_are_the_factors_score_one():
    factors = grid(2, 2, 2)
    assert [score(factors, factors.astype(float), discrete=True) for score in SCORES[:5]] == pytest.approx(
        [1] * 5
    )
    assert metrics.sap(factors, factors.astype(float)) == pytest.approx(1)


@pytest.mark.parametrize("score", SCORES)
def test_order_and_sign_of_latents_do_not_matter(score):
    factors, codes = drawn("small_n")
    assert score(factors, -codes[:, [3, 0, 4, 1, 2]]) == pytest.approx(score(factors, codes), abs=0.05)


@pytest.mark.parametrize("score", [metrics.explicitness, metrics.mig, metrics.sap])
def test_scale_and_shift_of_codes_do_not_matter(score):
    factors, codes = drawn("small_n")
    stretch = np.array([1, 16, 0.25, 2, 4.0])  # powers of two: no rounding
    assert score(factors, codes * stretch) == pytest.approx(score(factors, codes), abs=1e-9)


def test_mig_and_sap_are_two_thirds_when_one_of_three_factors_is_missed():
    factors = grid(2, 3, 4)
    codes = factors[:, :2].astype(float)
    assert metrics.mig(factors, codes, discrete=True) == pytest.approx(2 / 3)
    assert metrics.sap(factors, codes) == pytest.approx(2 / 3)


def test_mig_and_sap_are_zero_when_each_latent_has_a_double():
    factors = grid(2, 3, 4)
    codes = np.hstack([factors, factors]).astype(float)
    assert (
        metrics.mig(factors, codes, discrete=True)
        == metrics.sap(factors, codes)
        == pytest.approx(0, abs=1e-12)
    )


def test_a_rotation_by_45_degrees_hides_factors_from_single_latents_but_not_from_all():
    factors = grid(8, 8)
    standard = factors - 3.5
    codes = standard @ np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    assert metrics.sap(factors, codes) == pytest.approx(0, abs=1e-12)
    assert metrics.mig(factors, codes, discrete=True) < 0.01
    assert metrics.explicitness(factors, codes, discrete=True) == pytest.approx(
        metrics.explicitness(factors, standard, discrete=True), abs=0.05
    )


def test_a_collapsed_encoder_scores_zero_in_all():
    factors = drawn("small_n")[0]
    for codes in (np.zeros((300, 4)), np.full((300, 4), 0.1)):
        found = metrics.score(factors, codes)
        assert (
            list(found.values()) == pytest.approx([0] * 6, abs=0.03)
            and found["factor_vae"] == found["mig"] == 0
        )


def test_dead_latents_take_no_part_in_factor_vae():
    factors, codes = drawn("small_n")
    dead = codes[:, :1] * 0 + 0.01 * factors[:, :1]  # follows factor 0, but below the threshold
    live = metrics.factor_vae(factors, codes[:, 1:])
    assert metrics.factor_vae(factors, np.hstack([dead, codes[:, 1:]])) == live
    assert metrics.factor_vae(factors, np.hstack([dead, codes[:, 1:]]), std_threshold=0.001) > live


def test_a_constant_code_changes_neither_mig_nor_sap_nor_irs():
    factors, codes = drawn("small_n")
    with_constant = np.hstack([codes, np.full((300, 1), 7.0)])
    for score in (metrics.mig, metrics.sap, metrics.irs):
        assert score(factors, with_constant) == pytest.approx(score(factors, codes), abs=1e-12)


def test_a_constant_factor_is_left_out():
    factors, codes = drawn("small_n")
    with_constant = np.hstack([np.full((300, 1), 3), factors])
    assert metrics.score(with_constant, codes) == metrics.score(factors, codes)
    with pytest.raises(ValueError, match="all 2 columns are constant"):
        metrics.mig(with_constant[:, [0, 0]], codes)


def test_the_gap_of_one_latent_is_its_value():
    factors, codes = drawn("small_n")
    assert metrics.mig(factors, codes[:, :1]) == pytest.approx(
        metrics.mutual_information(factors, codes[:, :1]).mean()
    )
    assert metrics.sap(factors[:, :1], codes[:, :1]) == pytest.approx(
        np.corrcoef(factors[:, 0], codes[:, 0])[0, 1] ** 2
    )


def test_with_one_factor_the_scores_that_tell_factors_apart_are_zero():
    factors, codes = drawn("small_n")
    found = metrics.score(factors[:, :1], codes)
    assert found["beta_vae"] == found["factor_vae"] == 0 and found["explicitness"] > 0.5


def test_samples_that_share_no_value_are_named():
    with pytest.raises(ValueError, match="no two of the 50 samples share a value of factor 1"):
        metrics.beta_vae(
            np.stack([np.arange(50) % 2, np.arange(50)], 1), np.random.rand(50, 2), discrete=True
        )


@pytest.mark.parametrize("score", SCORES[:2])
def test_sampled_scores_repeat_with_their_seed_and_leave_the_global_one_alone(score):
    factors, codes = drawn("small_n")
    codes = codes + np.random.default_rng(0).normal(0, 3, codes.shape)
    state = np.random.get_state()[1].copy()
    found = [score(factors, codes, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2] and (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize(
    "factors, codes, message",
    [
        (
            np.zeros((5, 2)),
            np.full((5, 3), np.nan),
            "factors: all 2|codes: column 0 is not finite in 5 of 5 rows",
        ),
        (np.arange(6).reshape(3, 2), np.ones((4, 2)), "3 rows of factors and 4 of codes"),
        (np.arange(3), np.ones((3, 2)), r"factors of shape \(3,\): expected \(samples, factors\)"),
        (np.ones((0, 2)), np.ones((0, 2)), r"factors of shape \(0, 2\)"),
        ([["a"]], [[1.0]], "factors: expected numbers"),
        (np.arange(4).reshape(2, 2), [[1, np.inf], [2, 3]], "codes: column 1 is not finite in 1 of 2 rows"),
    ],
)
def test_arrays_that_cannot_be_scored_are_named(factors, codes, message):
    for score in SCORES:
        with pytest.raises(ValueError, match=message):
            score(factors, codes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_scores_of_any_table_are_numbers_in_their_range_or_a_value_error(
    seed, samples, n_factors, latents, discrete
):
    random = np.random.default_rng(seed)
    factors = random.integers(0, random.integers(1, 9, n_factors), (samples, n_factors))
    codes = random.normal(size=(samples, latents)).round(random.integers(0, 4)) * 10.0 ** random.integers(
        -9, 9, latents
    )
    for score in SCORES[:5] + (lambda f, c, _: metrics.sap(f, c),):
        try:
            assert -1.0 <= score(factors, codes, discrete) <= 1 + 1e-9
        except ValueError as error:
            assert str(error).startswith("factors: ")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lvae_min.metrics", *map(str, arguments)], capture_output=True, text=True
    )


def test_command_prints_the_six_scores_of_a_file(tmp_path):
    factors, codes = drawn("small_n")
    np.savez(tmp_path / "codes.npz", factors=factors, codes=codes)
    done = command(tmp_path / "codes.npz", "--discrete", "--seed", 3)
    expected = metrics.score(factors, codes, discrete=True, seed=3)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "300 samples, 5 factors as they are, 5 latents, seed 3"
    assert [line.split() for line in lines[1:]] == [
        [metrics.TITLES[name], f"{value:.4f}"] for name, value in expected.items()
    ]


@pytest.mark.parametrize(
    "damage", ["missing", "text", "array missing", "pickled", "mismatch", "nan", "cut", "lying"]
)
def test_command_refuses_a_bad_file_in_one_line(tmp_path, damage):
    file = tmp_path / "codes.npz"
    codes = np.ones((3, 2)) if damage != "nan" else np.full((3, 2), np.nan)
    factors = np.arange(8).reshape(4, 2)[: 4 if damage == "mismatch" else 3]
    if damage == "text":
        file.write_text("not a zip")
    elif damage != "missing":
        np.savez(
            file,
            codes=codes,
            **(
                {}
                if damage == "array missing"
                else {"factors": np.array([[{}]]) if damage == "pickled" else factors}
            ),
        )
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    if damage == "lying":
        file.write_bytes(file.read_bytes().replace(b"(3, 2)", b"(9**9, "[:6]))
    done = command(file)
    assert done.returncode == 2 and done.stdout == ""
    assert str(file) in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
