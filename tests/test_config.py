import numpy as np
import pytest
import torch

from lvae_min.config import Config, learning_rates, one_cycle


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
    assert np.allclose(one_cycle(schedule, schedule), torch_one_cycle(schedule), rtol=1e-12)


def test_learning_rate_has_the_ends_and_the_peak_of_section_6_3():
    rates = one_cycle(300_000, 300_000)
    assert rates[[0, 149_999, -1]] == pytest.approx([1e-5, 1e-4, 1e-6]) and rates.argmax() == 149_999
    assert rates[50_000] == pytest.approx(3.25e-5, rel=1e-3)


def test_a_linear_warmup_is_the_line_between_the_same_ends_and_falls_along_the_same_cosine():
    rates, cosine = (one_cycle(1000, 1000, warmup) for warmup in ("linear", "cosine"))
    assert rates[:500] == pytest.approx(np.linspace(1e-5, 1e-4, 500), rel=1e-12)
    assert (rates[500:] == cosine[500:]).all()


def test_warmup_shapes_the_rates_of_the_network_and_of_the_scales():
    for kind in ("linear", "cosine"):
        network, sigma = learning_rates(Config(iterations=1000, schedule=300_000, warmup=kind))
        assert (network == one_cycle(300_000, 1000, kind)).all() and (sigma == network).all()


def test_fewer_iterations_truncate_the_schedule():
    assert (one_cycle(300_000, 50) == one_cycle(300_000, 300_000)[:50]).all()


def test_sigma_learns_at_the_rate_of_the_network_in_the_papers_schedule():
    network, sigma = learning_rates(Config(iterations=1000, schedule=300_000))
    assert (network == sigma).all()


def test_sigma_learns_faster_in_a_shorter_schedule_but_not_beyond_one_per_cent():
    network, sigma = learning_rates(Config(iterations=20_000))
    assert np.allclose(sigma[1000:], 15 * network[1000:]) and (sigma[:1000] == 0).all()
    assert learning_rates(Config(iterations=1000))[1].max() == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize(
    "settings, name",
    [
        ({}, "dsprites-lvae"),
        ({"model": "vae", "seed": 2}, "dsprites-vae-seed2"),
        ({"iterations": 20_000}, "dsprites-lvae-iterations20000"),
        ({"iterations": 20_000, "schedule": 20_000, "sigma_freeze": 0.05}, "dsprites-lvae-iterations20000"),
        ({"iterations": 50_000, "schedule": 300_000}, "dsprites-lvae-iterations50000-schedule300000"),
        ({"warmup": "linear"}, "dsprites-lvae-warmuplinear"),
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
        ({"dataset": "mnist"}, "--dataset mnist: expected dsprites"),
        ({"model": "gan"}, "--model gan: expected vae or beta-vae"),
        ({"iterations": 0}, "--iterations 0: expected at least 1"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"iterations": 10, "schedule": 5}, "--schedule 5: expected at least the 10 iterations"),
        ({"beta": float("nan")}, "--beta nan"),
        ({"warmup": "line"}, "--warmup line: expected cosine or linear"),
        ({"sigma_freeze": 1.5}, "--sigma-freeze 1.5: expected 0 to 1"),
        ({"seed": -1}, "--seed -1"),
        ({"latents": 0}, "--latents 0"),
        ({"loss": "fast"}, "--loss fast"),
        ({"select": "fid"}, "--select fid: expected beta_vae or factor_vae"),
        ({"graph": "yes"}, "--graph yes"),
        ({"threads": 0}, "--threads 0"),
        ({"iterations": 10**30}, "--iterations 1000.*at most 10,000,000"),
        ({"schedule": 10**400}, "--schedule 1000"),
        ({"beta": 1e300}, "--beta 1e.300: expected 0 or more, at most 1e30"),
        ({"iterations": "many"}, "--iterations many: expected int, not str"),
        ({"beta": None}, "--beta None: expected float"),
        ({"dataset": "a\0/b"}, "--dataset a /b: expected no control characters"),
        ({"dataset": "\udcff/b"}, "--dataset /b: expected .* no bytes that are not UTF-8"),
        ({"dataset": "x" * 300}, "--dataset xxx.*: expected dsprites or"),
    ],
)
def test_impossible_settings_are_named_with_what_is_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_a_method_without_learned_scales_has_none_to_freeze():
    assert Config(model="vae", sigma_freeze=0.1) == Config(model="vae")
    assert Config(model="sigma-vae", iterations=9, sigma_freeze=0.1).name.endswith("sigma-freeze0.1")


def test_settings_that_differ_in_a_late_digit_have_different_names():
    names = {Config(model="beta-vae", beta=beta).name for beta in (1.2345678, 1.234568)}
    assert len(names) == 2
