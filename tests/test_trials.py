"""What was tried on a CPU and not used: each trial computes what an iteration of ours does. Ways of Adam."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import common, trials, updates
from lvae_min import data
from lvae_min.datasets import specs, stores


@pytest.fixture
def sets(small, monkeypatch):
    draw = np.random.default_rng(0)
    spec = specs.Spec((3, 64, 64), {"hue": 4, "shape": 20, "place": 3})
    pixels = draw.integers(256, size=(240, 64, 64, 3), dtype=np.uint8)
    found = {"dsprites": small, "arm3d": data.Dataset("arm3d", "", spec, stores.Pixels(pixels))}
    monkeypatch.setattr(data, "load", found.get)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(trials, "BATCH", 8)
    monkeypatch.setattr(updates, "BATCH", 8)
    return found


def weights(step) -> list[torch.Tensor]:
    for _ in range(3):
        step()
    return [weight.detach() for weight in step.vae.parameters()]


def test_which_trials_there_are():
    assert {name for name in trials.TRIALS if trials.TRIALS[name][2]} == {"bf16", "CNN: bf16"}
    assert len(trials.TRIALS) == 9


@pytest.mark.parametrize("name", [name for name in trials.TRIALS if not name.endswith(("bf16", "compile"))])
def test_a_trial_computes_what_an_iteration_does(sets, name):
    dataset, change, _ = trials.TRIALS[name]
    ours, changed = (common.make_step(sets[dataset], 8, trials.CPU) for _ in range(2))
    for own, other in zip(weights(ours), weights(change(changed)), strict=True):
        torch.testing.assert_close(other, own, rtol=1e-3, atol=2e-5)


def test_a_trial_takes_both_in_turn(sets):
    row = trials.trial("gradients in place", rounds=0, calls=1)
    assert row["change"] == "gradients in place" and row["ours / changed"] > 0
    assert row["ours / changed"] == pytest.approx(row["ours, ms"] / row["changed, ms"])


@pytest.mark.parametrize("name", ["forward", "gradient of x", "gradient of W"])
def test_both_libraries_compute_the_same_product(name):
    found = trials.both_libraries()
    torch.testing.assert_close(found[f"{name}, oneDNN"](), found[name](), rtol=1e-3, atol=1e-3)


def test_the_products_of_both_libraries_are_timed():
    assert [row["change"] for row in trials.library()] == [
        "last layer, forward: oneDNN",
        "last layer, gradient of x: oneDNN",
        "last layer, gradient of W: oneDNN",
    ]


def test_the_command_writes_all_rows(monkeypatch, tmp_path, capsys):
    def apart(function, *given):
        return {"change": given[0], "ours, ms": 1.0} if given else [{"change": "product"}]

    monkeypatch.setattr(common, "apart", apart)
    monkeypatch.setattr(trials, "pinned", lambda: {"change": "pinned"})
    assert trials.main(["--json", str(tmp_path / "trials.json")]) == 0
    rows = json.loads((tmp_path / "trials.json").read_text())["rows"]
    assert [row.get("change") for row in rows] == [*trials.TRIALS, "pinned", "product"]
    assert "torch.compile" in capsys.readouterr().out


def test_ways_of_adam_are_timed_for_each_network_and_precision(sets):
    rows = updates.measure(trials.CPU, rounds=0, calls=1)
    cases = [(network, precision) for network in ("MLP", "CNN") for precision in updates.PRECISIONS]
    assert [(row["network"], row["precision"]) for row in rows] == cases
    assert all(row[f"{way}, us"] > 0 for row in rows for way in updates.WAYS)


def test_what_the_ways_of_adam_are():
    def changed(way):
        step = SimpleNamespace(vae="vae", network="copy", by_op=SimpleNamespace(layers=["layer"]))
        return updates.changed(step, way)

    assert (changed("torch").by_op, changed("torch").network) == (None, "vae")
    assert (changed("adam_").by_op.layers, changed("adam_").network) == ([], "copy")
    assert (changed("layer_").by_op.layers, changed("layer_").network) == (["layer"], "copy")


def test_ways_of_adam_need_a_gpu_and_the_ops(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        updates.main([])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(updates.fused, "why_not", lambda device: "no nvcc")
    with pytest.raises(ValueError, match="the ops are not built: no nvcc"):
        updates.main([])
    monkeypatch.setattr(updates.fused, "why_not", lambda device: "")
    row = {"network": "MLP", "precision": "tf32", "torch, us": 3.0, "adam_, us": 2.0, "layer_, us": 1.0}
    monkeypatch.setattr(updates, "measure", lambda device: [row])
    monkeypatch.setattr(updates.report, "machine", lambda device: {"device": device.type})
    assert updates.main(["--json", str(tmp_path / "updates.json")]) == 0
    found = json.loads((tmp_path / "updates.json").read_text())
    assert found == {"device": "cuda", "batch": updates.BATCH, "rows": [row]}
    assert "torch 3.0  adam_ 2.0  layer_ 1.0" in capsys.readouterr().out
