"""The study's runs, the table that keeps them, and what is computed of seeds."""

import csv
import dataclasses
import itertools
import json
import math
import os
import re
import signal
from argparse import Namespace
from threading import Event

import keep
import numpy as np
import pool
import pytest
import samples
import seeds
import study
from paper import COLUMNS, TABLE_2
from PIL import Image
from scipy import stats
from test_figures import make_run

from lvae_min import cli, data, train
from lvae_min.config import CONTROL, Config
from lvae_min.datasets.specs import SPECS


def row(model="lvae", seed=0, score=0.5, validation=None, **settings):
    """A run of the table all of whose scores are `score`; rec of mu is ten times that."""
    config = Config(model=model, seed=seed, select="beta_vae", **settings)
    run = {name: getattr(config, name) for name in keep.SETTINGS}
    run["latents"] = len(SPECS[config.dataset].factors)
    run["rate"] = float(f"{run['rate']:.6g}")
    run["beta"] = run["beta"] if model == "beta-vae" else None
    run["sigma_freeze"] = run["sigma_freeze"] if model in ("lvae", "sigma-vae") else None
    run |= {name: score for name in keep.RESULTS if keep.RESULTS[name] is float}
    run |= {"last_rec_mean": 10 * score, "selected_rec_mean": 10 * score, "selected_iteration": 9000}
    run |= {"validation_score": score if validation is None else validation, "collapsed": False, "threads": 1}
    return run | {"device": "a CPU", "torch": "2.13.0", "commit": "abc", "began_at_commit": ""}


def several(model, found, **settings):
    return [row(model, seed, score, **settings) for seed, score in enumerate(found)]


def cells(block, first):
    """The cells of the line of a table that begins with `first`, without it."""
    (line,) = [line for line in block.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


# What is computed


@pytest.mark.parametrize("count", [4, 10])
def test_an_interval_holds_the_true_difference_in_95_of_100_cases_with_few_seeds(count):
    random, inside = np.random.default_rng(1), 0
    for _ in range(1000):
        common = random.standard_normal(count)  # of a seed
        ours, theirs = 3 + common + random.standard_normal(count), 1 + common
        mean, low, high, p_value = samples.paired(list(ours), list(theirs))
        assert low < mean < high and mean == pytest.approx(ours.mean() - theirs.mean())
        assert (p_value < 0.05) == (low > 0 or high < 0)
        inside += low < 2 < high
    assert 930 <= inside <= 970


def test_an_interval_is_that_of_student():
    mean, low, high, p_value = samples.paired([1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 0.0])
    error = np.std([1, 2, 3, 6], ddof=1) / 2
    assert mean == 3 and high - mean == pytest.approx(3.182446 * error) == mean - low  # t of 3, 97.5 %
    assert p_value == pytest.approx(2 * stats.t.sf(3 / error, 3))
    assert samples.paired([1.0] * 4, [0.5] * 4) == (0.5, 0.5, 0.5, 0.0)
    assert samples.paired([0.5] * 4, [0.5] * 4) == (0, 0, 0, 1)
    assert samples.paired([0.1 + 0.2] * 4, [0.3] * 4) == (0, 0, 0, 1)  # equal but for rounding


@pytest.mark.parametrize("count", [1, 2, 3])
def test_three_seeds_give_a_difference_and_no_interval(count):
    assert samples.paired([1.0] * count, [0.5] * count) == (0.5, None, None, None)


def test_a_correction_for_many_comparisons_is_holms():
    assert samples.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert samples.holm([0.9, 0.8]) == [1, 1] and samples.holm([]) == []
    random = np.random.default_rng(0)
    chance = sum(min(samples.holm(list(random.random(20)))) < 0.05 for _ in range(1000))
    assert 30 <= chance <= 70  # of 1,000 tables in which nothing differs


def test_kendalls_w_is_1_for_one_order_and_a_sixth_of_six_scores_by_chance():
    assert samples.concordance([[1, 2, 3], [10, 20, 30]])[0] == pytest.approx(1)
    assert samples.concordance([[1, 2, 3], [3, 2, 1]])[0] == 0
    assert samples.concordance([[1, 2, 3], [1, 3, 2], [2, 1, 3]])[0] == pytest.approx(4 / 9)
    assert samples.concordance([[1, 1, 2], [1, 2, 3]])[0] == pytest.approx(13 / 14)  # with equal ones
    random = np.random.default_rng(0)
    chance = [samples.concordance(random.random((6, 6)).tolist()) for _ in range(500)]
    assert np.mean([w for w, _ in chance]) == pytest.approx(1 / 6, abs=0.01)
    assert 0.02 < np.mean([p_value < 0.05 for _, p_value in chance]) < 0.08


def test_eta_squared_of_constructed_groups():
    assert samples.explained([[0, 2], [4, 6]]) == pytest.approx(0.8)  # 16 of 20 lie between the means
    assert samples.explained([[0, 2, 4], [2]]) == pytest.approx(0)
    assert samples.explained([[1, 1], [2, 2]]) == 1


@pytest.mark.parametrize("groups", [[], [[1, 2]], [[1], [2], [3]], [[1, 1], [1]]])
def test_eta_squared_is_not_known_of_one_seed_a_method_nor_of_one_value(groups):
    assert samples.explained(groups) is None


def test_a_rank_correlation_is_that_of_ranks_with_equal_values_in_their_middle():
    assert samples.ranks([5, 1, 5, 9]).tolist() == [2.5, 1, 2.5, 4]
    assert samples.rank_correlation([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert samples.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert samples.rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)
    assert samples.rank_correlation([1, 2, 3], [1, 2, 3]) is None
    assert samples.rank_correlation([1, 2, 3, 4], [7, 7, 7, 7]) is None


def test_the_best_of_some_is_the_mean_over_all_subsets():
    random = np.random.default_rng(0)
    validation, test = random.random(6).tolist(), random.random(6).tolist()
    for size in range(1, 7):
        chosen = [max(some, key=validation.__getitem__) for some in itertools.combinations(range(6), size)]
        expected = np.mean([test[place] for place in chosen])
        assert samples.best_of(validation, test, size) == pytest.approx(expected)


def test_of_equal_validation_scores_the_first_counts():
    assert samples.best_of([0.5, 0.5], [1.0, 2.0], 2) == 1.0


# Which runs belong together


OTHERS = {
    "dataset": "arm3d",
    "model": "vae",
    "paper": True,
    "iterations": 9000,
    "schedule": 20_000,
    "rate": 1e-4,
    "rate_form": "constant",
    "warmup": "cosine",
    "batch_size": 32,
    "beta": 4.0,
    "latents": 6,
    "sigma_freeze": 0.5,
    "precision": "bf16",
    **dict.fromkeys(CONTROL, 7.0),
}


@pytest.mark.parametrize("name", sorted(set(keep.SETTINGS) - {"seed", "select"}))
def test_runs_that_differ_in_a_setting_are_not_pooled(name):
    one = row("control-vae" if name in CONTROL else "beta-vae" if name == "beta" else "lvae", beta=2.0)
    for network in ("last", "selected"):
        found = pool.groups([one, {**one, "seed": 1, name: OTHERS[name]}, {**one, "seed": 2}], network)
        seeds_of = [[run["seed"] for run in runs] for methods in found.values() for runs in methods.values()]
        assert sorted(seeds_of) == [[0, 2], [1]]


def test_networks_that_other_scores_selected_are_not_pooled():
    rows = [row(seed=0), {**row(seed=1), "select": "mig"}]
    assert [len(runs) for methods in pool.groups(rows).values() for runs in methods.values()] == [2]
    chosen = pool.groups(rows, "selected")
    assert sorted(key[-1] for key in chosen) == ["beta_vae", "mig"]
    assert all(len(methods["L-VAE"]) == 1 for methods in chosen.values())


def test_one_training_counts_once_whatever_it_selected():
    (methods,) = pool.groups([row(seed=0), {**row(seed=0), "select": "last"}]).values()
    assert len(methods["L-VAE"]) == 1


def test_the_default_comes_first_and_is_named_without_its_rate():
    rows = [row(dataset="arm3d"), row(precision="bf16"), row(iterations=2000), row()]
    rows += several("lvae", [0.5, 0.5], rate=9e-4)
    titles = [pool.title(protocol) for protocol in pool.groups(rows)]
    assert titles == [
        "dsprites, 10,000 iterations",
        "dsprites, 2,000 iterations",
        "dsprites, 10,000 iterations, rate 0.0009",
        "dsprites, 10,000 iterations, precision bf16",
        "arm3d, 10,000 iterations",
    ]


def test_the_default_is_what_run_py_makes_and_nothing_else():
    assert pool.is_default(row()) and pool.is_default(row("beta-vae", beta=8.0, seed=7))
    assert pool.is_default(row(dataset="arm3d"))
    others = [{"iterations": 2000}, {"rate": 1e-4}, {"precision": "tf32"}, {"paper": True}]
    others += [
        {"iterations": 5000, "schedule": 10_000},
        {"paper": True, "iterations": 10_000, "schedule": 10_000},
    ]
    assert not any(pool.is_default(row(**some)) for some in others)


def test_betas_stand_apart_and_those_of_other_figures_are_left_out():
    rows = [row("beta-vae", beta=beta) for beta in (0.25, 1.62, 2.0, 4.0)] + [row("vae")]
    (methods,) = pool.groups(rows).values()
    assert list(methods) == ["VAE", "beta-VAE, beta 2", "beta-VAE, beta 4"]


def test_the_paper_has_numbers_for_its_own_beta_and_its_own_data_sets_alone():
    assert tuple(pool.paper_of(row("beta-vae", beta=2.0)).values()) == TABLE_2["dsprites", "beta-vae"]
    assert pool.paper_of(row("beta-vae", beta=4.0)) == {}
    assert pool.paper_of(row("lvae", dataset="arm3d")) == {}
    assert pool.paper_of(row("lvae", sigma_freeze=0.5)) == {}


# Messages


def test_a_table_has_mean_deviation_number_of_seeds_and_the_papers_number():
    rows = several("vae", [0.4, 0.6, 0.5, 0.5, 0.5]) + several("lvae", [0.7])
    text = seeds.text(rows)
    assert cells(text["last"], "VAE")[:5] == ["5", "0.50 ± 0.07", "0.50 ± 0.07", "5.00 ± 0.71 (12.46)",
                                              "0.50 ± 0.07 (0.91)"]  # fmt: skip
    assert cells(text["last"], "L-VAE")[0:5] == ["1", "0.70", "0.70", "7.00 (21.14)", "0.70 (0.97)"]
    assert cells(text["selected"], "VAE")[:2] == ["5", "9,000"]
    assert "Fewer than 4 seeds, too few to say how seeds differ: L-VAE (1)." in text["last"]
    assert "6 runs (commit abc; a CPU, 1 thread, torch 2.13.0)" in text["last"]


def test_a_rival_is_compared_seed_by_seed():
    rows = several("lvae", [0.6, 0.6, 0.6, 0.6]) + several("vae", [0.5, 0.5, 0.5, 0.7, 9.0])[::-1]
    rows += several("sigma-vae", [0.1, 0.2, 0.1, 0.2]) + several("control-vae", [0.1] * 3)
    block = seeds.text(rows)["rivals"]
    count, rec, beta_vae, *_ = cells(block, "VAE")
    assert count == "4"  # seeds that both have
    assert beta_vae == "+0.050<br>[-0.109, +0.209]<br>3 of 4"
    assert rec == "+0.50<br>[-1.09, +2.09]<br>1 of 4"  # of rec the lower one is better
    assert cells(block, "sigma-VAE")[2] == "**+0.450**<br>[+0.358, +0.542]<br>4 of 4"
    assert cells(block, "ControlVAE")[2] == "+0.500<br>3 of 3"
    assert "Holm's correction for the number of comparisons (14)." in block


def test_the_methods_share_of_the_variance_stands_beside_the_seeds():
    rows = several("lvae", [0.4, 0.6]) + several("vae", [0.8, 1.0])
    assert cells(seeds.text(rows)["variance"], "MIG") == ["80%", "20%"]
    assert "2 methods, between which 33% would lie by chance" in seeds.text(rows)["variance"]
    assert "| between methods (eta squared) | within a method |" in seeds.text(rows)["variance"]


def test_rates_are_compared_over_the_seeds_that_both_have():
    rows = several("lvae", [0.4, 0.6, 0.5, 0.9]) + several("lvae", [0.5] * 3, rate=1e-4)
    found = cells(seeds.text(rows)["rate"], "L-VAE")
    assert found[0] == "3" and found[3] == "0.50 → 0.50 (1 of 3)" and found[1] == "0.50 → 0.50"
    assert found[2] == "5.00 → 5.00 (1 of 3)"
    assert "rate 5.5e-4 → 1e-4" in seeds.text(rows)["rate"]
    assert seeds.text(several("lvae", [0.4]) + several("lvae", [0.5], rate=2e-4))["rate"] == ""


def test_a_short_run_is_compared_with_the_long_one_of_its_method_and_seed():
    rows = several("lvae", [0.1, 0.2, 0.3, 0.4], iterations=2000) + several("lvae", [0.8, 0.7, 0.6, 0.5])
    rows += several("vae", [0.6, 0.7, 0.8, 0.9], iterations=2000) + several("vae", [0.1, 0.2, 0.3, 0.4])
    block = seeds.text(rows)["short"]
    every, *methods, short, long = cells(block, "MIG")
    assert methods == ["+1.00", "-1.00"] and short == "VAE > L-VAE" and long == "L-VAE > VAE"
    expected = samples.rank_correlation([1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 1, 2, 3, 4])
    assert every == f"{expected:+.2f}"
    assert cells(block, "rec of mu")[-2:] == ["L-VAE > VAE", "VAE > L-VAE"]
    assert block.count("2,000 iterations against 10,000") == 1 and "kinds of device" not in block
    rows[1]["device"] = rows[5]["device"] = "a GPU"  # of one method: the short run of seed 1, the long one
    assert "kinds of device" not in seeds.text(rows)["short"]
    rows[6]["device"] = "a GPU"
    assert (
        "means. 1 of the 8 pairs are of two kinds of device, with other noise." in seeds.text(rows)["short"]
    )


def test_the_best_of_seeds_is_chosen_by_validation_and_scored_on_test_images():
    rows = [row(seed=seed, score=score, validation=-score) for seed, score in enumerate((0.2, 0.4, 0.6))]
    found = cells(seeds.text(rows)["best"].split("all scores")[0], "L-VAE")
    assert found == ["0.40", "0.27", "0.20", "0.97"]  # the better the validation, the lower the test score
    wide = cells(seeds.text(rows)["best"].split("all scores")[1], "L-VAE")
    assert wide[:3] == ["3", "2.00 / 2.00 (21.14)", "0.20 / 0.60 (0.97)"]


def with_beta(beta, **settings):
    """L-VAE with a learned beta, or beta-VAE with that beta given."""
    return {**row(beta=beta, **settings), "last_beta": beta}


def test_a_learned_beta_stands_among_those_that_were_given():
    given = [with_beta(beta, model="beta-vae", seed=seed) for beta in (4.0, 0.25, 1.62) for seed in range(2)]
    rows = [*given, with_beta(1.5), with_beta(1.7, seed=1), {**row("vae"), "last_beta": 1.0}]
    assert seeds.text(rows)["betas"] == "" and list(seeds.pictures(rows)) == ["seeds.png"]  # 3 are no curve
    rows += [with_beta(8.0, model="beta-vae"), row("sigma-vae")]
    block = seeds.text(rows)["betas"].split("\n\n**")[0]
    names = [line.split("|")[1].strip() for line in block.splitlines() if "| 0.50" in line]
    assert names == ["beta-VAE, beta 0.25", "VAE", "L-VAE", "beta-VAE, beta 4", "beta-VAE, beta 8"]
    assert cells(block, "L-VAE")[:2] == ["2", "1.60 ± 0.14"]


def of_each_beta(seed, best, **settings):
    """Runs with four betas, whose score on test images is a tenth of beta; `best` is the selected one's."""
    for beta in (0.5, 1.0, 2.0, 4.0):
        model = "vae" if beta == 1 else "beta-vae"
        run = row(model, seed, beta / 10, validation=0.1 + (beta == best), beta=beta, **settings)
        yield {**run, "last_beta": beta}


def test_a_beta_is_chosen_by_validation_among_the_runs_of_a_seed_that_has_them_all():
    rows = [run for seed, best in enumerate((4.0, 1.0, 1.0, 1.0)) for run in of_each_beta(seed, best)]
    rows += [with_beta(1.6, seed=seed, score=0.2) for seed in range(5)]
    rows += [run for run in of_each_beta(4, 2.0) if run["beta"] != 4.0]  # not all: left out
    rows += [with_beta(8.0, model="beta-vae", seed=seed) for seed in range(3)]  # too few: left out
    _, _, block = seeds.text(rows)["betas"].partition("beta learned, or the best of 4")
    assert cells(block, "MIG")[0] == "0.20 ± 0.00" and cells(block, "MIG")[1].startswith("0.17 ±")
    assert cells(block, "MIG")[2].startswith("+0.025 [") and cells(block, "MIG")[3] == "3 of 4"
    assert cells(block, "rec of mu")[2].startswith("+0.25 [") and cells(block, "rec of mu")[3] == "1 of 4"
    assert "the best of 4 runs, one per beta" in block and "number of seeds: 1 (3), 4 (1)." in block
    assert "20 runs (commit" in block  # 4 of L-VAE and 16 others
    rows = [run for run in rows if run["model"] != "lvae" or run["seed"] < 3]
    assert "the best of" not in seeds.text(rows)["betas"]  # three seeds are too few


def test_a_setting_of_l_vae_is_no_beta_and_a_run_without_a_last_network_is_left_out():
    rows = [run for seed in range(4) for run in of_each_beta(seed, 4.0)] + [with_beta(1.6)]
    before = seeds.text(rows)["betas"]
    assert seeds.text([*rows, with_beta(1.2, sigma_freeze=0.5)])["betas"] == before
    old = {**row("beta-vae", beta=8.0), **{f"last_{name}": None for name in ("beta", "kl", *COLUMNS)}}
    assert seeds.text([*rows, old])["betas"] == before
    old |= {"model": "lvae", "seed": 7, "beta": None}
    assert seeds.text([*rows, old])["betas"] == before


def test_the_picture_of_betas_has_a_dot_per_seed_and_goes_from_the_lowest_beta_to_the_highest():
    rows = [run for seed in (0, 1) for run in of_each_beta(seed, 4.0)] + [with_beta(1.6, score=0.2)]
    figure = seeds.pictures(rows)["betas.png"]
    score, mig = figure.axes
    labels = [some.get_label() for some in score.collections]
    assert labels == ["beta-VAE, beta 0.5", "VAE: beta 1", "L-VAE, beta learned:\n1.60 on average",
                      "beta-VAE, beta 2", "beta-VAE, beta 4"]  # fmt: skip
    assert [len(some.get_offsets()) for some in mig.collections] == [2, 2, 1, 2, 2]
    assert np.allclose(mig.collections[0].get_offsets(), [[0.05, 0.5]] * 2)  # the score, and rec of mu
    light = [some.get_facecolor()[0, :3].sum() for some in score.collections]
    assert light[0] < light[1] < light[3] < light[4] and light[2] == 0


def test_the_picture_of_seeds_is_of_the_first_group_and_without_runs_there_is_none():
    assert seeds.pictures([]) == {}
    assert list(seeds.pictures(several("vae", [0.4, 0.5]))) == ["seeds.png"]


def test_l_vae_is_compared_with_beta_vae_of_its_own_beta_seed_by_seed():
    rows = [with_beta(1.5 + seed / 10, seed=seed, score=0.62) for seed in range(4)]
    rows += [
        with_beta(1.5 + seed / 10, model="beta-vae", seed=seed, score=0.5 + 0.06 * seed) for seed in range(4)
    ]
    rows += [with_beta(1.5, model="beta-vae", seed=1), with_beta(4.0, model="beta-vae", seed=0)]
    block = seeds.text(rows)["learned"]
    found = cells(block, "MIG")
    assert found[:2] == ["0.62 ± 0.00 (0.30)", "0.59 ± 0.08 (0.16)"]
    assert found[2].startswith("+0.030 [") and found[3] == "2 of 4"  # one is equal, one worse
    assert cells(block, "rec of mu")[2].startswith("+0.30 [") and cells(block, "rec of mu")[3] == "1 of 4"
    assert "8 runs" in block
    assert seeds.text(rows[:4] + rows[-2:])["learned"] == ""


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_seeds_are_said_to_be_few_in_every_block_and_nothing_is_divided_by_zero(count):
    rows = [
        one
        for model in ("vae", "lvae")
        for settings in ({}, {"rate": 1e-4}, {"iterations": 2000})
        for one in several(model, [0.5] * count, **settings)
    ]
    rows += [with_beta(beta, model="beta-vae") for beta in (0.5, 1.0, 2.0)]
    for name, block in seeds.text(rows).items():
        assert "Fewer than 4 seeds" in block and "nan" not in block, name


def test_no_runs_and_runs_without_a_rival_give_empty_blocks():
    assert set(seeds.text([]).values()) == {""}
    assert seeds.text(several("vae", [0.5, 0.6]))["rivals"] == ""


def test_a_score_that_some_runs_do_not_have_is_left_out():
    rows = several("vae", [0.5, 0.6]) + several("lvae", [0.5, 0.6])
    rows[0]["last_sap_classification"] = None
    text = seeds.text(rows)
    assert cells(text["last"], "VAE")[-1] == "- (0.09)" and cells(text["rivals"], "VAE")[-1] == "-"
    assert "| SAP |" not in text["variance"] and "| MIG |" in text["variance"]


def test_a_collapse_is_reported():
    rows = several("vae", [0.5, 0.6, 0.7]) + several("lvae", [0.5]) + several("dynamic-vae", [0.5])
    for place in (0, 2, 4):
        rows[place]["collapsed"] = True
    said = "KL stayed below 0.1 nats for 1,000 iterations in some runs: VAE (2); DynamicVAE (1)."
    assert said in seeds.text(rows)["last"]


def test_the_picture_has_a_panel_a_score_with_dots_and_the_papers_line():
    rows = several("vae", np.linspace(0.1, 0.9, 10)) + several("beta-vae", [0.01], beta=4.0)
    ((protocol, methods),) = pool.groups(rows).items()
    panels = seeds.picture(protocol, methods).axes
    assert len(panels) == 8
    for panel, paper in zip(panels, TABLE_2["dsprites", "vae"], strict=False):
        assert [len(line.get_xdata()) for line in panel.lines] == [10, 1]
        lines = [line for some in panel.collections for line in some.get_segments()]
        red = [line for line in lines if np.ptp(line[:, 0]) > 0.8]
        assert [line[0, 1] for line in red] == [paper]  # beta 4 is not the paper's
        low, high = panel.get_ylim()
        heights = [height for line in panel.lines for height in line.get_ydata()]
        assert low < min(heights) and max(heights) < high


# The table


def test_a_run_kept_twice_has_one_line_the_newer_one(tmp_path):
    runs, file = tmp_path / "runs", tmp_path / "runs.csv"
    folder = make_run(runs, "lvae", score=0.5)
    assert keep.add(keep.read(runs), file) == 1
    before = file.read_bytes()
    assert keep.add(keep.read(runs), file) == 1 and file.read_bytes() == before
    results = json.loads((folder / "results.json").read_text())
    results["scores"]["mig"] = 0.123456789
    (folder / "results.json").write_text(json.dumps(results))
    make_run(runs, "lvae", score=0.5, seed=1)
    make_run(runs, "beta-vae", beta=1.392)
    assert keep.add(keep.read(runs), file) == 3
    with file.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["model"], line["seed"]) for line in lines] == [
        ("beta-vae", "0"),
        ("lvae", "0"),
        ("lvae", "1"),
    ]
    assert lines[1]["selected_mig"] == "0.123457" and lines[0]["beta"] == "1.392" and lines[1]["beta"] == ""
    assert keep.rows(runs) == keep.rows(file)


def test_a_line_has_both_networks_the_selection_and_where_it_was_made(tmp_path):
    folder = make_run(tmp_path, "lvae", score=0.91, seed=3, select="beta_vae")
    results = json.loads((folder / "results.json").read_text())
    last = {**results["scores"], "rec_mean": 17.0, "mig": 0.77, "beta": 1.5, "iteration": 2000}
    results |= {"last": last, "collapsed": True, "began_at_commit": "aaa"}
    (folder / "results.json").write_text(json.dumps(results))
    (found,) = keep.rows(tmp_path)
    assert found["last_mig"] == 0.77 and found["last_rec_mean"] == 17 and found["last_beta"] == 1.5
    assert found["selected_mig"] == 0.3 and found["selected_rec_mean"] == 20 and found["selected_beta"] == 2
    assert found["selected_iteration"] == 1000 and found["validation_score"] == 0.91
    assert found["residual_sigma_0"] == 0.01 and found["residual_sigma_1"] == -0.02
    assert found["collapsed"] is True and found["seconds"] == 120 and found["threads"] == 1
    assert (found["device"], found["torch"]) == ("a CPU", "2.13.0")
    assert (found["commit"], found["began_at_commit"]) == ("abc", "aaa")
    assert found["seed"] == 3 and found["iterations"] == 2000 and found["kl_target"] is None


def test_of_an_older_run_the_last_network_is_known_if_it_was_selected(tmp_path):
    folder = make_run(tmp_path, "vae")
    assert keep.rows(tmp_path)[0]["last_mig"] is None
    results = json.loads((folder / "results.json").read_text())
    results["selected"]["iteration"] = 2000
    (folder / "results.json").write_text(json.dumps(results))
    assert keep.rows(tmp_path)[0]["last_mig"] == 0.3 and keep.rows(tmp_path)[0]["last_rec_mean"] == 20


def test_two_hundred_runs_fit_in_300_kb(tmp_path):
    make_run(tmp_path, "control-vae", found=1.23456789)
    line = keep.line_of(keep.read(tmp_path)[0])
    longest = {
        name: f"{-math.pi * 1e-5:.6g}" if kind is float else line[name] for name, kind in keep.COLUMNS.items()
    }
    assert 200 * len(",".join(longest.values())) < 300_000


@pytest.mark.parametrize(
    "old, new", [("lvae", "gan"), (",64,", ",x,"), ("seed", "sead"), (",abc,", ",abc,,,")]
)
def test_a_damaged_table_is_reported_and_left_as_it_is(tmp_path, old, new):
    make_run(tmp_path / "runs", "lvae")
    file = tmp_path / "runs.csv"
    keep.add(keep.read(tmp_path / "runs"), file)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"runs.csv: line \d is damaged"):
        keep.add(keep.read(tmp_path / "runs"), file)
    assert file.read_bytes() == before


def test_scripts_keep_runs_and_write_what_seeds_do_to_them(tmp_path, monkeypatch, capsys):
    for model, seed in itertools.product(("vae", "lvae"), range(2)):
        make_run(tmp_path / "runs", model, seed=seed, score=0.1 * seed)
    for folder in (tmp_path / "runs").iterdir():
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(
            json.dumps({**results, "last": {"rec_mean": 20, **results["scores"]}})
        )
    for module in (keep, seeds):
        monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(keep, "TABLE", tmp_path / "runs.csv")
    monkeypatch.setattr(seeds, "write", lambda name, text: (tmp_path / name).write_text(text))
    monkeypatch.setattr("sys.argv", ["keep.py", str(tmp_path / "runs"), "--table"])
    keep.main()
    assert "4 runs" in capsys.readouterr().out and not (tmp_path / "vae-2-0-64-0.0").exists()
    monkeypatch.setattr("sys.argv", ["seeds.py", str(tmp_path / "runs.csv")])
    seeds.main()
    assert "| L-VAE | 2 |" in (tmp_path / "seeds.md").read_text()
    with Image.open(tmp_path / "seeds.png") as picture:
        assert picture.size == (1200, 1400)
    (tmp_path / "beside").mkdir()
    (tmp_path / "runs.csv").rename(tmp_path / "mine.csv")
    monkeypatch.setattr("common.HERE", tmp_path / "beside")
    monkeypatch.setattr("sys.argv", ["seeds.py", str(tmp_path / "mine.csv")])
    seeds.main()  # the study's pictures are not replaced
    assert (tmp_path / "beside/seeds.png").exists()


# The study


def test_every_part_is_a_valid_command_of_run_py(tmp_path):
    counts = []
    for part in study.PARTS:
        runs = study.runs_of(part, study.Made(tmp_path))
        counts.append(len(runs))
        assert all(config.select == "beta_vae" and not config.paper for config in runs)
        assert [config.seed for config in runs] == sorted(config.seed for config in runs)
    assert counts == [21, 21, 14, 15, 30, 35, 0, 18, 18]
    every = [config.name for part in study.PARTS for config in study.runs_of(part, study.Made(tmp_path))]
    assert len(set(every)) == len(every)


def test_the_list_holds_the_commands_that_make_the_runs(tmp_path):
    lines = study.listed(study.Made(tmp_path)).splitlines()
    given = [line.split()[2:] for line in lines if line.startswith("    python run.py ")]
    found = {config for arguments in given for config in cli.parse(arguments)[0]}
    assert found == {config for part in study.PARTS for config in study.runs_of(part, study.Made(tmp_path))}
    assert "    and for 10 seeds whose L-VAE is not finished" in lines


def finish(out, config, seconds=100.0, beta=1.6666):
    """Make a run of the study finished, without training."""
    folder = make_run(out / "made", config.model, seed=config.seed)
    results = json.loads((folder / "results.json").read_text())
    results["settings"] = {**dataclasses.asdict(config), "latents": 5}
    results |= {"seconds": seconds, "collapsed": False, "images": 10_000, "bins": 10}
    results["last"] = {"iteration": config.iterations, "kl": 5.0, "beta": beta}
    (folder / "results.json").write_text(json.dumps(results))
    folder.rename(out / config.name)


def test_table_3_takes_the_beta_that_each_l_vae_ended_with(tmp_path):
    (part,) = [part for part in study.PARTS if part.matched]
    for seed, beta in ((0, 1.66666), (4, 1.5)):
        finish(tmp_path, Config(select="beta_vae", seed=seed), beta=beta)
    runs = study.runs_of(part, study.Made(tmp_path))
    assert [(run.model, run.beta, run.seed, run.select) for run in runs] == [
        ("beta-vae", 1.667, 0, "beta_vae"),
        ("beta-vae", 1.5, 4, "beta_vae"),
    ]


def test_the_runs_of_the_table_are_left_out_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    parts = (
        study.Part("a", "--model lvae vae", range(2)),
        study.Part("b", "--model lvae", range(2), matched=True),
        study.Part("c", "--model beta-vae --beta 1.5", range(1)),
    )
    monkeypatch.setattr(study, "PARTS", parts)
    monkeypatch.setattr(keep, "TABLE", tmp_path / "runs.csv")
    for seed in range(2):
        finish(tmp_path, Config(select="beta_vae", seed=seed, device="cpu"), beta=1.25)
    keep.add(keep.read(tmp_path), keep.TABLE)

    def listed(*more):
        monkeypatch.setattr("sys.argv", ["study.py", "--list", "--out", str(tmp_path / "none"), *more])
        study.main()
        return re.findall(r"^\w: (\d) of (\d) runs", capsys.readouterr().out, re.MULTILINE)

    assert listed() == [("0", "4"), ("0", "0"), ("0", "1")]
    assert listed("--missing") == [("2", "4"), ("0", "2"), ("0", "1")]


def test_every_run_that_was_kept_is_of_the_study():
    """Those of full length are not, and Table 3's have the betas that L-VAE learned."""
    lines = [line for line in keep.read_lines(keep.TABLE) if line["paper"] == "0"]
    kept = {keep.identity(line) for line in lines if line["beta"] in ("", "0.25", "0.5", "2", "4", "8")}
    nothing = study.Made(keep.TABLE.parent)
    runs = [config for part in study.PARTS for config in study.runs_of(part, nothing)]
    assert len(kept) > 60 and kept <= {keep.identity(keep.settings_of(config)) for config in runs}


def test_the_study_makes_the_runs_that_the_table_lacks_and_no_others(tmp_path, monkeypatch, capsys):
    made, few = [], (study.Part("a", "--model lvae vae", range(2)),)
    monkeypatch.setattr(study, "PARTS", few)
    finish(tmp_path, Config(select="beta_vae", seed=1, device="cpu"))
    table = {keep.identity(keep.line_of(run)): keep.row_of(keep.line_of(run)) for run in keep.read(tmp_path)}
    monkeypatch.setattr(
        study, "Runs", lambda configs, *_: made.extend(configs) or Namespace(run_all=lambda: 0)
    )
    given = Namespace(out=tmp_path / "none", data=tmp_path, jobs=2)
    assert study.carry_out(given, study.Made(given.out, table), Event()) == 0
    assert [(config.model, config.seed) for config in made] == [("lvae", 0), ("vae", 0), ("vae", 1)]
    assert "a: 1 of 4 runs finished\nleft over all parts: an unknown time for 3" in capsys.readouterr().out


def test_the_time_left_is_that_of_finished_runs_of_the_same_data_set_and_length(tmp_path, monkeypatch):
    parts = (study.Part("a", "--model lvae vae", range(2)), study.Part("b", "--iterations 2000", range(1)),
             study.Part("c", "--dataset arm3d", range(1)))  # fmt: skip
    monkeypatch.setattr(study, "PARTS", parts)
    made = study.Made(tmp_path)
    assert study.left(made, 2) == "an unknown time for 6 runs, of whose data set none is finished"
    finish(tmp_path, Config(select="beta_vae"), seconds=1000)
    assert study.left(made, 2).startswith("about 0:26:40 for 4 runs and an unknown")  # (3 x 1000 + 200) / 2
    finish(tmp_path, Config(select="beta_vae", iterations=2000), seconds=600)
    assert study.left(made, 1).startswith("about 0:50:00 for 3 runs")


def test_the_time_left_is_told_when_every_l_vae_is_finished_and_table_3_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PARTS", (study.Part("b", "--model lvae", range(2), matched=True),))
    for seed in range(2):
        finish(tmp_path, Config(select="beta_vae", seed=seed), seconds=1000, beta=1.25)
        waits = 1 if seed == 0 else 0  # the other seed's L-VAE, which is taken for its beta-VAE
        assert len(study.runs_of(study.PARTS[0], study.Made(tmp_path))) == 2 - waits
        assert study.left(study.Made(tmp_path), 1).endswith("for 2 runs, of whose data set none is finished")


@pytest.fixture
def quick(small, monkeypatch):
    """Two short runs on few images, without pictures."""
    monkeypatch.setattr(data, "load", lambda *_: small)
    monkeypatch.setattr(study, "PARTS", SHORT)
    monkeypatch.setattr(train.Run, "draw", lambda *_: None)


SHORT = (study.Part("first", "--model lvae vae --iterations 20 --threads 1", range(1)),)


def test_a_finished_run_is_not_made_again(quick, tmp_path, monkeypatch, capsys):
    given = Namespace(out=tmp_path, data=tmp_path, jobs=2)
    assert study.carry_out(given, study.Made(tmp_path), Event()) == 0
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert len(list(tmp_path.glob("*/results.json"))) == 2
    assert "first: 0 of 2 runs finished\nleft over all parts: an unknown" in capsys.readouterr().out
    monkeypatch.setattr(study, "Runs", None)
    assert study.carry_out(given, study.Made(tmp_path), Event()) == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    assert capsys.readouterr().out == "first: 2 of 2 runs finished\n"


def test_a_run_that_fails_does_not_end_the_others_and_the_code_is_2(quick, tmp_path, capsys):
    folder = tmp_path / study.runs_of(SHORT[0], study.Made(tmp_path))[0].name
    folder.mkdir()
    (folder / "results.json").write_text("{")
    assert study.carry_out(Namespace(out=tmp_path, data=tmp_path, jobs=1), study.Made(tmp_path), Event()) == 2
    assert len(list(tmp_path.glob("*/last.pt"))) == 1 and "damaged" in capsys.readouterr().err


def test_ctrl_c_ends_the_study_with_code_130_and_nothing_is_begun_after_it(tmp_path, monkeypatch, capsys):
    begun = []

    def train(runs, config, folder):
        begun.append(config.name)
        os.kill(os.getpid(), signal.SIGINT)
        assert runs.stop.wait(10)

    monkeypatch.setattr(study.Runs, "train", train)
    monkeypatch.setattr("sys.argv", ["study.py", "--out", str(tmp_path), "--jobs", "1"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as end:
            study.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert end.value.code == 130 and len(begun) == 1
    assert capsys.readouterr().out.endswith("stopped; the same command continues\n")


@pytest.mark.parametrize("arguments, message", [(["--jobs", "0"], "--jobs 0"), (["--seeds"], "--seeds")])
def test_a_wrong_command_line_of_the_study_is_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["study.py", *arguments])
    with pytest.raises(SystemExit) as end:
        study.main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1


def test_columns_of_the_table_are_those_that_the_paper_is_compared_with():
    assert {f"last_{name}" for name in COLUMNS} <= set(keep.COLUMNS)
