import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lvae_min.config import (
    CONTROL,
    OLD_DEFAULTS,
    Config,
    control_defaults,
    evaluation_interval,
    learning_rates,
    one_cycle,
    with_defaults,
)
from lvae_min.losses import OBJECTIVES


def torch_one_cycle(schedule):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1e-4,
        total_steps=schedule,
        pct_start=0.5,
        anneal_strategy="cos",
        cycle_momentum=False,
        div_factor=10,
        final_div_factor=10,
    )
    rates = []
    for _ in range(schedule):
        rates.append(cycle.get_last_lr()[0])
        optimizer.step()
        if len(rates) < schedule:
            cycle.step()
    return rates


@pytest.mark.parametrize("schedule", [10, 1000])
def test_learning_rate_is_that_of_torch_one_cycle(schedule):
    assert np.allclose(one_cycle(schedule, schedule, "cosine"), torch_one_cycle(schedule), rtol=1e-12)


def test_learning_rate_has_the_ends_and_the_peak_of_section_6_3():
    for warmup, early in (("linear", 4e-5), ("cosine", 3.25e-5)):
        rates = one_cycle(300_000, 300_000, warmup)
        assert rates[[0, 149_999, -1]] == pytest.approx([1e-5, 1e-4, 1e-6]) and rates.argmax() == 149_999
        assert rates[50_000] == pytest.approx(early, rel=1e-3)


def test_a_linear_warmup_is_the_line_between_the_same_ends_and_falls_along_the_same_cosine():
    rates, cosine = (one_cycle(1000, 1000, warmup) for warmup in ("linear", "cosine"))
    assert rates[:500] == pytest.approx(np.linspace(1e-5, 1e-4, 500), rel=1e-12)
    assert (rates[500:] == cosine[500:]).all()


def test_warmup_shapes_the_rates_of_the_network_and_of_the_scales():
    for kind in ("linear", "cosine"):
        network, sigma = learning_rates(Config(iterations=1000, schedule=300_000, warmup=kind))
        assert (network == one_cycle(300_000, 1000, kind)).all() and (sigma == network).all()


def test_the_shortest_schedules_have_both_ends():
    assert one_cycle(1, 1).tolist() == pytest.approx([1e-5])
    assert one_cycle(2, 2).tolist() == pytest.approx([1e-5, 1e-6])
    assert one_cycle(3, 3).tolist() == pytest.approx([1e-5, 7.525e-5, 1e-6])


def test_the_warmup_is_linear_where_none_is_named():
    assert (one_cycle(1000, 1000) == one_cycle(1000, 1000, "linear")).all()


def test_fewer_iterations_truncate_the_schedule():
    assert (one_cycle(300_000, 50) == one_cycle(300_000, 300_000)[:50]).all()


def test_the_rate_follows_the_length_of_the_schedule_and_is_the_papers_at_its_length():
    rates = [Config(schedule=schedule).rate for schedule in (300_000, 75_000, 10_000, 1000, 20, 1_200_000)]
    assert rates == pytest.approx([1e-4, 2e-4, 5.477e-4, 1.732e-3, 2e-3, 0.5e-4], rel=1e-3)
    assert rates[0] == 1e-4 and learning_rates(Config())[0].max() == Config().rate == rates[2]


def test_a_rate_that_is_given_is_the_peak_and_its_ends_follow():
    network, _ = learning_rates(Config(iterations=1000, rate=3e-4))
    assert network[[0, 499, -1]] == pytest.approx([3e-5, 3e-4, 3e-6], rel=1e-12)


def test_a_constant_rate_is_constant_and_sigma_has_the_same_in_the_papers_length():
    network, sigma = learning_rates(Config(iterations=300_000, rate_form="constant"))
    assert (network == 1e-4).all() and (sigma == 1e-4).all()


def test_sigma_learns_at_the_rate_of_the_network_in_the_papers_schedule():
    network, sigma = learning_rates(Config(iterations=1000, schedule=300_000))
    assert (network == sigma).all()


def test_sigma_learns_faster_in_a_shorter_schedule_but_not_beyond_one_per_cent():
    network, sigma = learning_rates(Config(iterations=20_000, rate=1e-4))
    assert np.allclose(sigma[1000:], 15 * network[1000:]) and (sigma[:1000] == 0).all()
    assert learning_rates(Config(iterations=1000))[1].max() == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("settings", [{"rate": 5e-5}, {"schedule": 100_000}])
def test_with_paper_sigma_learns_at_the_rate_of_the_network_whatever_that_is(settings):
    network, sigma = learning_rates(Config(paper=True, iterations=1000, **settings))
    assert (network == sigma).all()


def test_sigma_never_learns_slower_than_the_network():
    for settings in ({"schedule": 1_000_000}, {"rate": 0.05}, {"schedule": 300_000, "rate": 3e-4}):
        network, sigma = learning_rates(Config(iterations=10, sigma_freeze=0.0, **settings))
        assert (sigma == network).all()


def test_sigma_travels_as_far_in_the_default_schedule_as_in_the_papers():
    default, paper = learning_rates(Config())[1].sum(), learning_rates(Config(paper=True))[1].sum()
    assert default == pytest.approx(paper, rel=0.02)


def test_the_default_is_short_and_takes_the_last_network():
    config = Config()
    assert (config.iterations, config.schedule, config.select, config.batch_size) == (
        10_000,
        10_000,
        "last",
        64,
    )
    assert (config.warmup, config.rate_form, config.sigma_freeze) == ("linear", "onecycle", 0.05)
    assert Config("celeba").iterations == 5000


def test_paper_is_section_6_3_and_other_flags_take_precedence():
    config = Config(paper=True)
    assert (config.iterations, config.schedule, config.rate, config.batch_size) == (
        300_000,
        300_000,
        1e-4,
        64,
    )
    assert (config.select, config.sigma_freeze, config.warmup) == ("beta_vae", 0.0, "linear")
    assert learning_rates(config)[0].tolist() == one_cycle(300_000, 300_000, "linear").tolist()
    first = Config(paper=True, iterations=50_000, batch_size=256)
    assert (first.schedule, first.rate, first.batch_size) == (300_000, 1e-4, 256)
    assert (learning_rates(first)[0] == learning_rates(config)[0][:50_000]).all()


def test_paper_is_section_8_for_celeba():
    config = Config("celeba", paper=True)
    assert (config.iterations, config.batch_size, config.rate, config.rate_form) == (
        1_000_000,
        128,
        1e-4,
        "constant",
    )
    assert config.select == "last" and (learning_rates(config)[0] == 1e-4).all()
    first = Config("celeba", paper=True, iterations=10)
    assert (
        first.schedule == 1_000_000
        and [rates.tolist() for rates in learning_rates(first)] == [[1e-4] * 10] * 2
    )
    assert Config("celeba", paper=True, schedule=50_000).iterations == 50_000


def test_every_setting_has_a_help_text_and_those_of_the_controllers_name_their_defaults():
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(Config)}
    assert min(map(len, helps.values())) > 10
    assert helps["ki"].endswith("(Sec. 6.3; default: -0.001 for control-vae, -0.005 for dynamic-vae)")


def test_settings_of_the_controllers_are_their_authors_and_no_others():
    assert [Config(model="control-vae").ki, Config(model="dynamic-vae").ki] == [-0.001, -0.005]
    assert Config(model="dynamic-vae").beta_start == 150 and Config(model="dynamic-vae").kl_target == 18
    assert Config(kl_target=3.0) == Config() and Config().kl_target is None
    assert Config(model="control-vae", kl_target=9.0).name == "dsprites-control-vae-kl-target9"


def test_a_run_says_how_its_settings_differ_from_the_papers():
    assert Config(paper=True).notes == []
    assert Config(model="vae").notes == [
        "differs from the paper: 10,000 iterations (paper: 300,000); a rate of "
        "0.00055 (paper: 0.0001); the last network (paper: the best beta-VAE score of validation images); "
        "--paper trains as the paper did"
    ]
    line = Config().notes[0]
    assert "sigma at a rate of 0.003 (paper: the network's)" in line
    assert "sigma held at its start for 500 iterations (paper: never)" in line
    assert Config(paper=True, iterations=50_000).notes == [
        "differs from the paper: 50,000 iterations (paper: 300,000)"
    ]
    for batch in (32, 64, 128, 256):
        assert Config(paper=True, batch_size=batch).notes == []
    for settings, note in (
        ({"batch_size": 1000}, "batches of 1,000 (paper: 32, 64, 128 or 256)"),
        ({"dataset": "celeba", "batch_size": 64}, "batches of 64 (paper: 128)"),
    ):
        assert Config(paper=True, **settings).notes == [f"differs from the paper: {note}"]
    assert Config(model="dynamic-vae", paper=True).notes == [
        "differs from the paper: a KL target that goes from 0.5 to 18 nats, by 0.15 every 6000 of 300,000 "
        "iterations, as in its authors' code (paper: 18, no ramp named)"
    ]


@pytest.mark.parametrize(
    "settings, note",
    [
        ({"kl_start": 18.0}, ""),
        ({"kl_start": 25.0, "kl_target": 25.0}, "a KL target of 25 nats (paper: 18)"),
        ({"kl_start": 5.0, "kl_rise": 0.0}, "a KL target of 5 nats (paper: 18)"),
        ({"kl_start": 5.0}, "every 5000 of 300,000 iterations (paper: 18, no ramp named)"),
        ({"kl_start": 18.0, "kp": 5.0}, "--kp 5 (paper: 0.01)"),
        ({"kl_start": 18.0, "beta_start": 1.0}, "--beta-start 1 (paper: 0)"),
    ],
)
def test_a_run_says_how_its_controller_differs_from_the_papers(settings, note):
    notes = Config(model="control-vae", paper=True, **settings).notes
    assert len(notes) == bool(note) and all(line.endswith(note) for line in notes)
    assert (
        Config(model="control-vae")
        .notes[0]
        .endswith("; --paper trains as the paper did, but for the controller")
    )


def test_a_run_that_is_too_fast_or_too_short_reports_it():
    assert "ended with a low MIG" in Config(iterations=1000).notes[1]
    assert not any("too short" in note for note in Config(iterations=1).notes)
    assert len(Config(iterations=5000).notes) == len(Config(model="dynamic-vae").notes) == 1
    assert (
        "too short for the controller of dynamic-vae"
        in Config(model="dynamic-vae", iterations=5000).notes[-1]
    )


@pytest.mark.parametrize("model", OBJECTIVES)
def test_settings_of_older_runs_are_those_of_their_time(model):
    stored = {"model": model, "beta": 4.0, "iterations": 20_000, "schedule": 20_000}
    settings = with_defaults(stored)
    assert (settings["rate"], settings["warmup"], settings["select"]) == (1e-4, "cosine", "beta_vae")
    assert settings["beta"] == 4.0
    if OBJECTIVES[
        model
    ].controls:  # their gains did not grow at a schedule of 20,000: 15 times smaller ones do
        now = Config(model=model)
        assert (settings["kp"], settings["ki"]) == pytest.approx((now.kp / 15, now.ki / 15))
        assert settings["kl_target"] == 18
    else:
        assert settings["ki"] is settings["kl_target"] is None


def test_settings_of_a_run_without_a_method_are_filled_as_well():
    assert with_defaults({}) == {**OLD_DEFAULTS, **dict.fromkeys(CONTROL)}


@pytest.mark.parametrize(
    "iterations, interval",
    [(1, 1), (9, 1), (99, 9), (999, 99), (1000, 1000), (10_001, 1000), (25_000, 2500), (300_000, 10_000)],
)
def test_a_run_is_evaluated_ten_times_but_not_more_often_than_every_thousand_iterations(iterations, interval):
    assert evaluation_interval(iterations) == interval


@pytest.mark.parametrize(
    "settings, name",
    [
        ({}, "dsprites-lvae"),
        ({"model": "vae", "seed": 2}, "dsprites-vae-seed2"),
        ({"iterations": 20_000}, "dsprites-lvae-iterations20000"),
        ({"iterations": 20_000, "schedule": 20_000, "sigma_freeze": 0.05}, "dsprites-lvae-iterations20000"),
        ({"iterations": 50_000, "schedule": 300_000}, "dsprites-lvae-iterations50000-schedule300000"),
        ({"warmup": "cosine"}, "dsprites-lvae-warmupcosine"),
        ({"iterations": 10_000}, "dsprites-lvae"),
        ({"schedule": 5000}, "dsprites-lvae-iterations5000"),
        ({"paper": True}, "dsprites-lvae-paper"),
        ({"paper": True, "iterations": 50_000}, "dsprites-lvae-paper-iterations50000"),
        ({"paper": True, "schedule": 50_000}, "dsprites-lvae-paper-iterations50000-schedule50000"),
        ({"paper": True, "rate": 1e-4}, "dsprites-lvae-paper"),
        ({"rate": 3e-4}, "dsprites-lvae-rate0.0003"),
        ({"iterations": 300_000}, "dsprites-lvae-iterations300000"),
        ({"model": "beta-vae", "beta": 4.0}, "dsprites-beta-vae-beta4"),
        ({"model": "vae", "beta": 4.0}, "dsprites-vae"),
        ({"device": "cuda:1", "threads": 3, "loss": "torch", "batch_size": 32}, "dsprites-lvae-batch-size32"),
    ],
)
def test_a_run_is_named_by_what_differs_from_the_defaults(settings, name):
    assert Config(**settings).name == name


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dataset": "mnist"}, "--dataset mnist: expected dsprites or .* or the path of your own images: .*"),
        ({"model": "gan"}, f"--model gan: expected {' or '.join(OBJECTIVES)}"),
        ({"iterations": 0}, "--iterations 0: expected at least 1, at most 10,000,000"),
        ({"batch_size": -1}, "--batch-size -1: expected at least 1"),
        ({"iterations": 10, "schedule": 5}, "--schedule 5: expected at least the 10 iterations"),
        ({"iterations": 0, "schedule": 5}, "--iterations 0: expected at least 1, at most 10,000,000"),
        ({"schedule": 0}, r"--schedule 0: expected at least 1, at most 2\^53"),
        ({"schedule": 20_000_000}, "--schedule 20000000: expected at least 1, at most 10,000,000"),
        ({"seed": True}, "--seed True: expected int, not bool"),
        ({"paper": 1}, "--paper 1: expected bool, not int"),
        ({"rate": 0.0}, "--rate 0.0: expected more than 0, at most 1"),
        ({"rate": float("nan")}, "--rate nan: expected more than 0, at most 1"),
        ({"rate_form": "cyclic"}, "--rate-form cyclic: expected onecycle or constant"),
        (
            {"model": "control-vae", "kl_target": float("inf")},
            r"--kl-target inf: expected a number from -1e\+06 to 1e6",
        ),
        (
            {"model": "dynamic-vae", "kl_period": 0.0},
            "--kl-period 0.0: expected a number from 1e-06 to 1e6",
        ),
        ({"beta": float("nan")}, "--beta nan: expected 0 or more, at most 1e30"),
        ({"warmup": "line"}, "--warmup line: expected linear or cosine"),
        ({"sigma_freeze": 1.5}, "--sigma-freeze 1.5: expected 0 to 1"),
        ({"seed": -1}, r"--seed -1: expected 0 to 2\^63 - 1"),
        ({"latents": 0}, "--latents 0: expected 1 to 10,000"),
        ({"precision": "fp8"}, "--precision fp8: expected float32, tf32 or bf16"),
        ({"loss": "fast"}, "--loss fast: expected fused, torch or auto"),
        ({"select": "fid"}, "--select fid: expected beta_vae or factor_vae or .* or rec or last"),
        ({"graph": "yes"}, "--graph yes: expected on, off or auto"),
        ({"threads": 0}, "--threads 0: expected 1 to 1024"),
        ({"iterations": 10**30}, "--iterations 10{30}: expected at least 1, at most 10,000,000"),
        ({"schedule": 10**400}, r"--schedule 10{119}: expected at least 1, at most 2\^53"),
        ({"beta": 1e300}, r"--beta 1e\+300: expected 0 or more, at most 1e30"),
        ({"iterations": "many"}, "--iterations many: expected int, not str"),
        ({"kl_rise": "many"}, "--kl-rise many: expected float, not str"),
        ({"beta": None}, "--beta None: expected float, not NoneType"),
        ({"dataset": "a\0/b"}, "--dataset a /b: expected no control characters .*; rename it"),
        ({"dataset": "\udcff/b"}, "--dataset /b: expected .* no bytes that are not UTF-8; rename it"),
        ({"dataset": "x" * 300}, "--dataset x{117}...: expected dsprites or .*"),
    ],
)
def test_impossible_settings_are_named_with_what_is_expected(settings, message):
    with pytest.raises(ValueError) as error:
        Config(**settings)
    assert re.fullmatch(message, str(error.value)), error.value


@pytest.mark.parametrize(
    "name, least, most, others",
    [
        ("iterations", 1, 10_000_000, {}),
        ("schedule", 1, 2**53, {"iterations": 1}),
        ("batch_size", 1, None, {}),
        ("rate", None, 1.0, {}),
        ("seed", 0, 2**63 - 1, {}),
        ("beta", 0.0, 1e30, {"model": "beta-vae"}),
        ("latents", 1, 10_000, {}),
        ("sigma_freeze", 0.0, 1.0, {}),
        ("threads", 1, 1024, {}),
        ("kl_rise", -1e6, 1e6, {"model": "control-vae"}),
        ("kl_period", 1e-6, 1e6, {"model": "dynamic-vae"}),
    ],
)
def test_a_setting_may_be_at_its_limits_and_not_beyond(name, least, most, others):
    for limit, beyond in ((least, -math.inf), (most, math.inf)):
        if limit is not None:
            assert getattr(Config(**others, **{name: limit}), name) == limit
            step = math.copysign(1, beyond)
            further = limit + int(step) if isinstance(limit, int) else math.nextafter(limit, beyond)
            with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .*: expected "):
                Config(**others, **{name: further})


def test_every_choice_that_a_message_names_is_one():
    choices = {
        "rate_form": ("onecycle", "constant"),
        "warmup": ("linear", "cosine"),
        "select": ("beta_vae", "sap", "rec", "last"),
        "precision": ("float32", "tf32", "bf16"),
        "loss": ("fused", "torch", "auto"),
        "graph": ("on", "off", "auto"),
    }
    for name, values in choices.items():
        assert [getattr(Config(**{name: value}), name) for value in values] == list(values)


def test_a_whole_number_may_stand_for_a_decimal_one():
    assert Config(model="beta-vae", beta=4) == Config(model="beta-vae", beta=4.0)
    assert Config(model="control-vae", kl_target=9) == Config(model="control-vae", kl_target=9.0)


def test_a_method_without_learned_scales_has_none_to_freeze():
    assert Config(model="vae", sigma_freeze=0.1) == Config(model="vae")
    assert (Config(model="vae").sigma_freeze, Config(model="vae", beta=4.0).beta) == (0, 2)
    assert Config(model="sigma-vae", iterations=9, sigma_freeze=0.1).name.endswith("sigma-freeze0.1")


def test_settings_that_differ_in_a_late_digit_have_different_names():
    names = {Config(model="beta-vae", beta=beta).name for beta in (1.2345678, 1.234568)}
    assert len(names) == 2


def test_scales_reach_the_fixed_point_within_5_per_cent_by_the_end_of_the_default():
    """Adam at the default's rates on sigma alone, against the terms of the kept default run, with noise."""
    file = Path(__file__).resolve().parent.parent / "figures" / "data" / "dsprites-lvae" / "log.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    steps = np.arange(1, 10_001)
    terms = np.stack(
        [np.interp(steps, [x["step"] for x in lines], [x[k] for x in lines]) for k in ("rec", "kl")]
    )
    noisy = terms * (1 + 0.05 * np.random.default_rng(0).standard_normal(terms.shape))
    sigma, mean, square = np.ones(2), np.zeros(2), np.zeros(2)
    for step, rate in enumerate(learning_rates(Config())[1], 1):
        gradient = 2 * sigma - 2 * noisy[:, step - 1] / sigma**3
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        sigma = sigma - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    residuals = sigma**4 / terms[:, -1000:].mean(1) - 1
    assert np.abs(residuals).max() < 0.05
    kept = json.loads((file.parent / "results.json").read_text())["equilibrium"]["residuals"]
    assert residuals == pytest.approx([kept["sigma_0"], kept["sigma_1"]], abs=0.02)


def test_the_help_of_a_controllers_setting_has_the_defaults_of_both():
    assert control_defaults("ki") == "-0.001 for control-vae, -0.005 for dynamic-vae"
