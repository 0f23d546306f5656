"""CONTRIBUTING.md: its worked example of a method runs, and its table of floors is the tested one."""

import re
from pathlib import Path

import pytest
import torch
from test_floors import FLOORS

from lvae_min import losses, metrics
from lvae_min.config import Config
from lvae_min.train import Run

PAGE = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text()


def test_the_worked_example_is_a_method_that_trains(small, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "OBJECTIVES", losses.OBJECTIVES)
    monkeypatch.setattr(metrics, "score", lambda factors, codes, **_: {"beta_vae": 0.5})
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    code = re.search(r"<!-- example -->\n```python\n(.*?)```", PAGE, re.S).group(1)
    try:
        exec(compile(code, "CONTRIBUTING.md", "exec"), {})
        config = Config(model="rising-beta", iterations=12, batch_size=8, device="cpu")
        run = Run(config, tmp_path, small)
        assert run.train() and run.finish()["scores"]["beta"] > 1
        rec, kl = torch.tensor(5.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
        losses.OBJECTIVES["rising-beta"]().weigh(rec, kl, 1).backward()
        assert (rec.grad, kl.grad.item()) == (1, pytest.approx(1.2))
    finally:
        losses.OBJECTIVES.pop("rising-beta", None)


@pytest.mark.parametrize("floor", FLOORS)
def test_the_table_of_floors_is_the_one_that_is_checked(floor):
    row = re.search(rf"^\| {floor} \| (.*) \|$", PAGE, re.M).group(1)
    named = {name.removesuffix(".py").replace("/", ".") for name in re.findall(r"`([\w/]+\.py)`", row)}
    packages = {"io", "datasets", "explore", "datasets.__main__"}
    assert named == set(FLOORS[floor]) - packages
