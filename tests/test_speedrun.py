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
    [({"sigma_rate": 1e-3}, "--sigma-rate 0.001: expected at least"), ({"iterations": 0}, "one for each")],
)
def test_settings_against_the_rules_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Race(**given)


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


@pytest.fixture
def races(monkeypatch):
    """What was raced, instead of racing: each seed takes its number of seconds."""
    found = []

    def timed(name, race, seed):
        found.append((name, race, seed))
        scores = {"rec": 27.0, "rec_mean": 22.0, "kl": 10.0, "beta": 1.0}
        return {"seed": seed, "seconds": 10.0 + seed, **scores}

    monkeypatch.setattr(speedrun, "timed", timed)
    return found


def test_a_try_has_the_settings_of_the_record_but_for_the_given_ones(races, tmp_path, capsys):
    file = tmp_path / "speedrun.json"
    words = ["bronze", "silver", "--batches", "32", "64", "--rise", "0.3", "--seeds", "0", "4"]
    assert speedrun.main([*words, "--json", str(file)]) == 1  # silver is not met
    changes = {"batches": (32, 64), "rise": 0.3}
    assert races == [
        (name, replace(TARGETS[name].race, **changes), seed)
        for name in ("bronze", "silver")
        for seed in (0, 4)
    ]
    printed = capsys.readouterr().out
    assert printed.count("REACHED") == 1 and printed.count("not reached") == 1
    bronze, silver = json.loads(file.read_text())["attempts"]
    assert bronze["median"]["seconds"] == 12 and bronze["reached"] and not silver["reached"]


def test_without_a_target_the_records_are_repeated(races):
    assert speedrun.main([]) == 0
    assert [race[0] for race in races] == ["bronze"] * 5


def test_an_unknown_target_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        speedrun.main(["copper"])
    assert stopped.value.code == 2 and "copper: expected bronze, silver, gold" in capsys.readouterr().err


def attempt(seconds: float, seeds: int = 5, reached: bool = True) -> dict:
    rows = [{"seed": seed, "seconds": seconds} for seed in range(seeds)]
    race = {"iterations": 10, "batches": [64, 128]}
    return {
        "target": "bronze",
        "race": race,
        "seeds": rows,
        "median": {"seconds": seconds},
        "reached": reached,
    }


@pytest.mark.parametrize("new, kept", [((90,), 90), ((110,), 100), ((90, 4), 100), ((90, 5, False), 100)])
def test_a_faster_record_takes_the_place_of_the_old_one(new, kept, tmp_path, monkeypatch):
    store, file = tmp_path / "store.json", tmp_path / "new.json"
    store.write_text(json.dumps({"records": {"bronze": attempt(100)}}))
    made = {"device": "a CPU", "commit": "abc", "versions": {"torch": "2"}}
    file.write_text(json.dumps({**made, "attempts": [attempt(*new)]}))
    monkeypatch.setattr(page, "FILE", store)
    page.add(file)
    assert page.read()["records"]["bronze"]["median"]["seconds"] == kept


def test_flags_name_what_differs():
    race = {"iterations": 10, "batches": [64, 128], "rate": 0.1}
    assert page.changed(race, {"rate": 0.1}) == "--iterations 10 --batches 64 128"
    assert page.changed(race, race) == "(none)"


def test_the_papers_setting_meets_a_target_at_its_first_evaluation_there():
    assert page.reached("bronze") == [50_000, 40_000] and page.reached("silver") == [120_000, 110_000]
    assert page.reached("gold") == [120_000, None]


def test_the_kept_records_are_of_the_settings_that_the_command_repeats():
    for name, one in page.read()["records"].items():
        kept = {**one["race"], "batches": tuple(one["race"]["batches"])}
        assert Race(**kept) == TARGETS[name].race and one["reached"] and len(one["seeds"]) == 5
        assert TARGETS[name].is_met(one["median"]) and one["median"] == speedrun.medians(one["seeds"])
