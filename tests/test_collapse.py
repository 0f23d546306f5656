"""A collapse of L-VAE at a small scale of its loss, and the remedy, on real runs of some minutes."""

import json

import collapse
import pytest

pytestmark = pytest.mark.slow


def test_an_lvae_collapses_at_a_small_scale_of_its_loss_and_holding_sigma_prevents_it(tmp_path):
    rows = {(method, freeze): collapse.trained(method, freeze, tmp_path) for method, freeze in collapse.RUNS}
    plain, early, held = rows["vae", 0.0], rows["lvae", 0.05], rows["lvae", 0.5]
    assert plain["kl"] > 2 and not plain["collapsed"]  # there is something to learn
    assert early["kl"] < 0.01 and early["collapsed"]
    assert held["kl"] > 3 and not held["collapsed"] and held["rec"] < 0.5 * early["rec"]
    assert abs(held["sigma_1"] ** 4 / held["kl"] - 1) < 0.05
    flags = [
        json.loads((tmp_path / f"dots-lvae-{freeze:g}" / "results.json").read_text())["collapsed"]
        for freeze in (0.05, 0.5)
    ]
    assert flags == [True, False]
