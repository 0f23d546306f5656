"""The speedrun: its settings, what counts as reached, and the page's tables."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import speedrun
from bench.speedrun import TARGETS, Race
from lvae_min import config
from lvae_min.io.text import Parser

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "figures"))
import speedrun as page

SHORT = Race(iterations=4, batches=(16, 32))


def test_the_rates_of_the_default_are_those_of_a_run():
    found = speedrun.rates(Race(iterations=1000, sigma_rate=3e-3))
    expected = config.one_cycle(1000, 1000, "linear", 2e-3)
    assert np.abs(found[:, 0] - expected).max() < 4e-6  # the peak is between two iterations
    assert found[:, 1] == pytest.approx(1.5 * found[:, 0])


def test_rise_start_end_and_hold_shape_the_rates():
    network, sigma = speedrun.rates(Race(iterations=101, rise=0.2, start=0.5, end=0.1, hold=0.3)).T
    assert network.argmax() == 20 and network.max() == pytest.approx(2e-3)
    assert network[0] == pytest.approx(1e-3) and network[-1] == pytest.approx(2e-4)
    assert not sigma[:30].any() and (sigma[30:] == network[30:]).all()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"sigma_rate": 1e-3}, "--sigma-rate 0.001: expected at least --rate, 0.002"),
        ({"iterations": 0}, "--iterations 0: expected 1 to"),
        ({"rate": -1.0}, "--rate -1: expected"),
        ({"rate": float("nan")}, "--rate nan: expected"),
        ({"rise": 2.0}, "--rise 2: expected 0 to 1"),
        ({"beta_1": 1.0}, "--beta-1 1: expected"),
        ({"batches": (64, 0)}, "--batches 64 0: expected numbers from 1 on"),
        ({"batches": (1, 2), "iterations": 1}, "fewer than iterations"),
        ({"precision": "int8"}, "--precision int8: expected float32, tf32, bf16"),
    ],
)
def test_settings_against_the_rules_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Race(**given)


def test_the_rate_of_sigma_follows_that_of_the_network():
    assert Race(rate=5e-3).sigma_rate == 5e-3 and Race(rate=1e-3, sigma_rate=2e-3).sigma_rate == 2e-3


def test_all_parts_of_the_training_are_done_with_the_settings(monkeypatch):
    steps, work = [], speedrun_step().work

    def counted(self):
        steps.append((self.config.batch_size, self.rates[self.iteration].tolist()))
        groups = self.optimizer.param_groups
        assert all(group["betas"] == (0.8, 0.99) for group in groups) and len(groups) == 2
        work(self)

    monkeypatch.setattr(speedrun_step(), "work", counted)
    race = replace(SHORT, beta_1=0.8, beta_2=0.99, mean_image=True)
    found = speedrun.run(TARGETS["bronze"], race, 0)
    assert [size for size, _ in steps] == [16, 16, 32, 32]
    assert np.array([rates for _, rates in steps]) == pytest.approx(speedrun.rates(race), rel=1e-6)
    assert 0 < found["rec"] < 200 and {"rec_mean", "kl", "beta", "mig", "beta_vae", "stopped"} <= set(found)


def speedrun_step():
    from lvae_min.step import Step

    return Step


def test_the_last_bias_begins_as_the_mean_image():
    from bench import common
    from lvae_min import data

    step = common.make_step(data.load("dsprites"), 64, torch.device("cpu"))
    speedrun.start_at_mean(step)
    bias = step.vae.decoder[-2].bias.detach().sigmoid().view(64, 64)
    assert bias[0, 0] == pytest.approx(1e-3, rel=1e-3) and 0.1 < bias[24:40, 24:40].mean() < 0.4


def test_a_target_is_met_by_the_medians_of_all_its_numbers():
    gold = TARGETS["gold"]
    assert gold.is_met({"mig": 0.35, "beta_vae": 0.9}) and not gold.is_met({"mig": 0.4, "beta_vae": 0.89})
    assert TARGETS["bronze"].is_met({"rec": 27.4}) and not TARGETS["bronze"].is_met({"rec": 27.5})
    rows = [{"seed": seed, "rec": rec} for seed, rec in enumerate((1.0, 5.0, 2.0))]
    assert speedrun.medians(rows) == {"rec": 2.0}
    rows[1]["rec"] = float("nan")
    assert np.isnan(speedrun.medians(rows)["rec"]) and not TARGETS["bronze"].is_met(speedrun.medians(rows))


@pytest.fixture
def races(monkeypatch):
    """What was raced, instead of racing: each seed takes its number of seconds."""
    found = []

    def timed(name, race, seed, device):
        found.append((name, race, seed))
        assert device == "cpu"
        scores = {"rec": 27.0, "rec_mean": 22.0, "kl": 10.0, "beta": 1.0}
        return {"seed": seed, "seconds": 10.0 + seed, **scores}

    monkeypatch.setattr(speedrun, "timed", timed)
    return found


def test_a_try_has_the_settings_of_the_record_but_for_the_given_ones(races, tmp_path, capsys):
    file = tmp_path / "speedrun.json"
    words = ["bronze", "silver", "--batches", "32", "64", "--rise", "0.3", "--seeds", "0", "4"]
    assert speedrun.main([*words, "--json", str(file)]) == 1
    changes = {"batches": (32, 64), "rise": 0.3}
    assert races == [
        (name, replace(TARGETS[name].race, **changes), seed)
        for name in ("bronze", "silver")
        for seed in (0, 4)
    ]
    printed = capsys.readouterr().out
    assert printed.count("met, which counts with seeds 0 1 2 3 4 alone") == 1  # bronze
    assert printed.count("not reached") == 1 and "REACHED" not in printed
    bronze, silver = json.loads(file.read_text())["attempts"]
    assert bronze["median"]["seconds"] == 12 and not bronze["reached"] and not silver["reached"]


def test_a_rate_takes_that_of_sigma_along(races):
    assert speedrun.main(["bronze", "--rate", "5e-3", "--mean-image", "1"]) == 0
    assert races[0][1] == replace(TARGETS["bronze"].race, rate=5e-3, sigma_rate=5e-3, mean_image=True)


def test_a_file_that_cannot_be_written_is_told_before_the_race(races, tmp_path):
    with pytest.raises(OSError):
        speedrun.main(["bronze", "--json", str(tmp_path / "nowhere" / "file.json")])
    assert races == []


def test_without_a_target_the_records_are_repeated(races):
    assert speedrun.main([]) == 0
    assert [race[0] for race in races] == ["bronze"] * 5


def test_an_unknown_target_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        speedrun.main(["copper"])
    assert stopped.value.code == 2 and "copper: expected bronze, silver, gold" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        speedrun.main(["bronze", "--seeds", "-1"])
    assert "--seeds -1: expected 0 or more" in capsys.readouterr().err


def attempt(seconds: float, seeds=range(5), rec: float = 27.0) -> dict:
    rows = [{"seed": seed, "seconds": seconds, "rec": rec} for seed in seeds]
    race = {"iterations": 10, "batches": [64, 128]}
    middle = {"seconds": seconds, "rec": rec}
    return {"target": "bronze", "race": race, "seeds": rows, "median": middle, "reached": True}


@pytest.mark.parametrize(
    "new, kept",
    [((90,), 90), ((110,), 100), ((90, range(4)), 100), ((90, [2] * 5), 100), ((90, range(5), 27.5), 100)],
)
def test_a_faster_record_takes_the_place_of_the_old_one(new, kept, tmp_path, monkeypatch):
    store, file = tmp_path / "store.json", tmp_path / "new.json"
    store.write_text(json.dumps({"records": {"bronze": attempt(100, [0])}}))
    made = {"device": "a CPU", "threads": 2, "commit": "abc", "versions": {"torch": "2"}}
    one = attempt(*new)
    file.write_text(json.dumps({**made, "attempts": [one]}))
    monkeypatch.setattr(page, "FILE", store)
    page.add(file)
    assert page.read()["records"]["bronze"]["median"]["seconds"] == kept


@pytest.mark.parametrize("other", [{"threads": 16}, {"device": "NVIDIA H200"}])
def test_a_record_is_made_on_two_cores_of_a_cpu(other, tmp_path, monkeypatch, capsys):
    store, file = tmp_path / "store.json", tmp_path / "new.json"
    store.write_text(json.dumps({"records": {"bronze": attempt(100, [0])}}))
    made = {"device": "a CPU", "threads": 2, "commit": "abc", "versions": {"torch": "2"}} | other
    file.write_text(json.dumps({**made, "attempts": [attempt(9)]}))
    monkeypatch.setattr(page, "FILE", store)
    page.add(file)
    assert page.read()["records"]["bronze"]["median"]["seconds"] == 100
    assert "not kept: bronze, 9 s: a record is made on two cores of a CPU" in capsys.readouterr().out


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json: expected what python -m bench.speedrun --json writes"):
        page.add(tmp_path / "other.json")


def test_flags_name_what_differs():
    race = {"iterations": 10, "batches": [64, 128], "rate": 0.1, "mean_image": True}
    base = {"iterations": 20, "batches": (64,), "rate": 0.1, "mean_image": False}
    assert page.changed(race, base) == "--iterations 10 --batches 64 128 --mean-image 1"
    assert page.changed(race, race) == "(none)"


@pytest.mark.parametrize("target", ["bronze", "gold"])
def test_the_command_of_a_row_has_its_settings(target):
    """What the page prints for a try, given to the command, is that try."""
    for one in page.read()["tries"][target]["rows"]:
        race = {**one["race"], "batches": tuple(one["race"]["batches"])}
        if race["sigma_rate"] >= race["rate"]:
            parser = Parser()
            speedrun.options(parser)
            words = page.changed(race, TARGETS[target].race).split()
            assert speedrun.race_of(TARGETS[target], parser.parse_args(words)) == Race(**race)


def test_the_papers_setting_meets_a_target_at_its_first_evaluation_there():
    assert page.reached("bronze") == [50_000, 40_000] and page.reached("silver") == [120_000, 110_000]
    assert page.reached("gold") == [120_000, None]


def test_the_kept_records_are_of_the_settings_that_the_command_repeats():
    for name, one in page.read()["records"].items():
        kept = {**one["race"], "batches": tuple(one["race"]["batches"])}
        assert Race(**kept) == TARGETS[name].race and one["reached"] and len(one["seeds"]) == 5
        assert TARGETS[name].is_met(one["median"]) and one["median"] == speedrun.medians(one["seeds"])


def test_the_front_page_has_the_record():
    seconds = page.read()["records"]["bronze"]["median"]["seconds"]
    text = " ".join((page.BENCH.parent.parent.parent / "README.md").read_text().split())
    assert f"L-VAE at a rec of 27.4 in {seconds:.0f} s on two cores" in text
