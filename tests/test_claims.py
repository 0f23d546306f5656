"""The verdicts on the paper's claims follow from the numbers."""

import re

import claims
import full
import keep
import numpy as np
import pytest
from claims import HOLDS, NOT, OPEN, PART
from paper import METHODS
from test_study import row, several, with_beta

NEAR = [0.50, 0.51, 0.49, 0.50]


def evidence(*rows, **long):
    """These runs of the default; at full length each method has one value as all its scores."""
    found = claims.Evidence(list(rows))
    if long:
        values = {METHODS[name.replace("_", "-")]: value for name, value in long.items()}
        names = ("rec_mean", *claims.SIX)
        found.long = {
            "full length, seed 0": {name: dict.fromkeys(names, value) for name, value in values.items()}
        }
    return found


@pytest.mark.parametrize(
    "ours, long, verdict", [(0.9, 0.9, HOLDS), (0.9, 0.1, OPEN), (0.1, 0.9, OPEN), (0.51, 0.1, NOT)]
)
def test_a_claim_to_be_best_needs_full_length_and_a_clear_lead_at_the_default(ours, long, verdict):
    rows = several("lvae", [ours + near - 0.5 for near in NEAR[::-1]]) + several("vae", NEAR)
    found = claims.first("mig")(evidence(*rows, lvae=long, vae=0.5))
    assert found[0] == verdict
    if ours == 0.51:
        assert "MIG 0.51, place 1 of 2 (default, not clearly)" in found[1]


@pytest.mark.parametrize("seeds, leads", [(3, False), (4, True)])
def test_a_lead_over_too_few_seeds_is_no_clear_one(seeds, leads):
    rows = several("lvae", [0.91, 0.92, 0.9, 0.93][:seeds]) + several("vae", NEAR[:seeds])
    found = evidence(*rows, lvae=0.9, vae=0.5)
    assert found.leads("mig") == leads and claims.first("mig")(found)[0] == (HOLDS if leads else OPEN)


def test_a_larger_beta_is_judged_by_the_order_of_the_means():
    rows = several("vae", [0.9]) + several("beta-vae", [0.5], beta=2.0) + several("beta-vae", [0.1], beta=4.0)
    found = evidence(*rows)
    assert claims.balance(found) == (HOLDS, "KL with beta 1, 2, 4: 0.9, 0.5, 0.1", "seeds-at-the-default")
    assert claims.costs(found)[0] == NOT
    assert claims.balance(evidence(*rows[:2]))[0] == OPEN


@pytest.mark.parametrize("score, verdict", [(0.9, HOLDS), (0.5, OPEN), (0.1, NOT)])
@pytest.mark.parametrize("judge, beta", [(claims.one_to_two, 2.0), (claims.below_one, 0.5)])
def test_a_beta_is_better_if_most_scores_are_clearly_higher(judge, beta, score, verdict):
    rows = several("beta-vae", [score + near - 0.5 for near in NEAR[::-1]], beta=beta) + several("vae", NEAR)
    assert judge(evidence(*rows))[0] == verdict


def test_few_seeds_leave_a_beta_below_1_open():
    rows = several("vae", [0.5] * 5) + several("beta-vae", [0.9] * 3, beta=0.5)
    assert claims.below_one(evidence(*rows))[:2] == (claims.OPEN, "beta-VAE, beta 0.5: too few seeds")


def test_without_runs_a_claim_is_open():
    judges = [claims.ablation("rec_mean", "higher"), claims.inverse]
    for judge in (claims.balance, claims.costs, claims.one_to_two, claims.below_one, *judges):
        assert judge(evidence())[0] == OPEN


@pytest.mark.parametrize(
    "score, given, verdict, count",
    [
        ("beta_vae", 0.4, HOLDS, 4),
        ("beta_vae", 0.6, NOT, 0),
        ("beta_vae", 0.5, OPEN, 1),
        ("rec_mean", 0.6, HOLDS, 4),
        ("rec_mean", 0.4, NOT, 0),
    ],
)
def test_the_ablation_judges_pairs_with_the_learned_beta(score, given, verdict, count):
    ours = [with_beta(1.6, seed=seed, score=near) for seed, near in enumerate(NEAR)]
    others = [with_beta(1.6, model="beta-vae", seed=seed, score=given) for seed in range(4)]
    found = claims.ablation(score, "worse")(evidence(*ours, *others))
    assert found[:2] == (verdict, f"worse in {count} of 4 pairs")


def test_the_order_of_the_methods_is_compared_between_the_scores():
    found = evidence(vae=0.1, beta_vae=0.2, control_vae=0.3, dynamic_vae=0.4, sigma_vae=0.5, lvae=0.6)
    verdict, number, _ = claims.no_order(found)
    assert verdict == NOT and number.startswith("Kendall's W 1.00, p = ")
    assert number.endswith("(full length, seed 0); W 0.79 of the paper's numbers")
    assert claims.many(found)[0] == HOLDS and claims.reconstruction(found)[0] == NOT
    for values in found.long["full length, seed 0"].values():
        values["rec_mean"] *= -1
        values["mig"] *= -1
    assert claims.no_order(found)[0] == PART and claims.reconstruction(found)[0] == HOLDS
    for values in found.long["full length, seed 0"].values():
        values["irs"] *= -1
        values["sap_classification"] *= -1  # now three scores have one order, three the other one
    assert claims.no_order(found)[0] == HOLDS
    found.long["full length, seed 0"]["VAE"]["rec_mean"] = -9
    assert claims.reconstruction(found)[:2] == (
        PART,
        "rec of mu -0.60, lower than 4 of 5 (full length, seed 0)",
    )


@pytest.mark.parametrize(
    "rising, falling, verdict", [(6, 0, NOT), (0, 6, HOLDS), (4, 2, NOT), (2, 4, HOLDS), (3, 3, OPEN)]
)
def test_the_correlation_of_rec_with_the_scores_is_of_runs_with_many_betas(rising, falling, verdict):
    rows = [
        with_beta(beta, model="beta-vae", seed=seed, score=beta / 10 + seed / 1000)
        for beta in (0.25, 0.5, 2.0, 4.0)
        for seed in range(2)
    ]
    for one in rows:
        for score in claims.SIX[rising:]:
            one[f"last_{score}"] *= -1
    found = claims.inverse(evidence(*rows))
    assert found[0] == verdict
    assert "over 8 runs with beta 0.25 to 4: beta-VAE " in found[1]
    assert (
        f"; {falling} clearly negative, {rising} clearly positive (over the methods of Table 2: " in found[1]
    )
    random = np.random.default_rng(0)
    for one in rows:
        one |= {f"last_{score}": random.random() for score in claims.SIX}
    assert claims.inverse(evidence(*rows))[0] == OPEN


@pytest.mark.parametrize("longer, verdict", [(0.2, HOLDS), (-0.2, HOLDS), (0.0, OPEN)])
def test_other_settings_matter_if_the_scores_of_the_same_seeds_clearly_change(longer, verdict):
    rows = [row(model, seed) for model in ("vae", "lvae") for seed in (0, 1, 2)]
    found = evidence(*rows)
    found.long = {
        f"full length, seed {seed}{rise}": {
            name: dict.fromkeys(claims.SIX, 0.5 + longer + near) for name in ("VAE", "L-VAE", "sigma-VAE")
        }
        for seed, rise, near in ((0, ", cosine rise", 0.01), (1, "", -0.01), (7, "", 0.9))
    }
    judged = claims.others_matter(found)
    assert judged[0] == verdict
    count = 4 if longer > 0 else 0 if longer < 0 else 2
    assert "in all 4 pairs of the same method and seed, of 2 seeds; " in judged[1]
    assert judged[1].startswith(f"{6 * (longer != 0)} of 6 scores")
    assert f"higher there: beta-VAE {count}, " in judged[1]
    found.long["full length, seed 0, cosine rise"]["VAE"] = dict.fromkeys(claims.SIX, 0.5 - longer)
    assert claims.others_matter(found)[0] == OPEN  # one pair of four does not agree
    assert claims.others_matter(evidence())[0] == OPEN


def log(sigma, scores):
    """An L-VAE whose sigma_0 and validation score have these values at each 50,000 iterations."""
    return [
        {"step": 50_000 * place, "sigma_0": scale, "beta": scale, "validation": {"beta_vae": score}}
        for place, (scale, score) in enumerate(zip(sigma, scores, strict=True), 1)
    ]


def test_the_course_of_l_vae_is_judged_in_each_log():
    found = evidence()
    good = log([1.5, 1.2], [0.9, 0.8])
    found.logs = {"a": good}
    judges = [claims.in_logs(judge) for judge in (claims.peak, claims.falls, claims.best_iteration)]
    assert [judge(found)[0] for judge in judges] == [HOLDS] * 3
    found.logs = {"a": good, "b": log([0.8, 1.5], [0.7, 0.8])}
    assert [judge(found)[0] for judge in judges] == [OPEN] * 3
    found.logs = {"b": log([0.8, 0.9], [0.7, 0.8])}
    assert claims.in_logs(claims.above_one)(found)[:2] == (NOT, "0.90 selected, 0.90 at the end (b)")


@pytest.mark.parametrize(
    "sigma, verdict",
    [
        ([1.5, 1.4], HOLDS),
        ([1.0, 2.0, 0.2], NOT),  # falls faster than it rose
        ([1.0, 2.0, 1.8, 2.0, 1.8], HOLDS),
        ([1.0, 1.2, 0.2, 1.1], NOT),  # up and down after the peak
        ([0.9, 0.8], NOT),  # no rise
        ([1.1, 1.2], NOT),  # no peak
    ],
)
def test_after_its_peak_sigma_0_has_to_change_less_than_before(sigma, verdict):
    found = evidence()
    found.logs = {"a": log(sigma, sigma)}
    assert claims.in_logs(claims.peak)(found)[0] == verdict


def test_the_note_counts_the_verdicts_and_says_the_rule_for_six_scores():
    note = claims.text(keep.rows(keep.TABLE)).splitlines()[-1]
    counts = [int(count) for count in re.findall(r"(\d+) (?:hold|do not|are open)", note)]
    lines = claims.text(keep.rows(keep.TABLE)).splitlines()[2:-2]
    every = [line.split("|")[3].strip() for line in lines]
    assert note.startswith(f"Of {len(claims.CLAIMS)} claims ") and len(every) == len(claims.CLAIMS)
    assert counts == [every.count(verdict) for verdict in (HOLDS, PART, NOT, OPEN)]
    assert f"holds if {claims.CLEAR} or more of them clearly agree" in note


def test_another_seed_of_full_length_counts_once_all_six_methods_are_there():
    more = [
        row(model, seed=1, paper=True, precision="tf32", **({"beta": 4.0} if model == "beta-vae" else {}))
        for model in METHODS
    ]
    assert all(map(keep.is_full_length, more))
    assert list(claims.complete(more[1:])) == ["full length, seed 0"]
    found = claims.complete(more)
    assert list(found) == ["full length, seed 0", "full length, seed 1"]
    assert set(found["full length, seed 1"]) == {full.title_of(one) for one in more}
    assert found["full length, seed 1"]["L-VAE"]["mig"] == 0.5
