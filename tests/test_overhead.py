"""bench/overhead.py and bench/timed.py: a run as a whole and the time of its parts."""

import json
import time
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from bench import common, grid, overhead, timed
from lvae_min import cli, data, evaluation, metrics, train
from lvae_min.losses import OBJECTIVES
from lvae_min.step import Step

CPU = torch.device("cpu")


@pytest.fixture
def inside(small, monkeypatch):
    """Commands of a process of its own are carried out in this one, which knows the small data set."""
    asked = []
    carry_out = {"-m": lambda words: timed.main(words[1:]), "run.py": cli.command}

    def python(first, *words):
        asked.append([first, *words])
        assert carry_out[first](list(words)) == 0

    monkeypatch.setattr(common, "python", python)
    monkeypatch.setattr(data, "load", lambda *_: small)
    monkeypatch.setattr(metrics, "score", lambda factors, codes, **_: {"beta_vae": 0.5})
    monkeypatch.setattr(cli, "stop_on_signals", Event)
    return asked


def slowed(monkeypatch, owner, name, seconds):
    """Each call of a function takes so much longer; the list that is returned has an entry for each."""
    function, calls = getattr(owner, name), []

    def call(*given, **named):
        calls.append(name)
        time.sleep(seconds)
        return function(*given, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize(
    "part, owner, name",
    [
        ("iterations", Step, "__call__"),
        ("evaluations", evaluation, "begin_evaluation"),
        ("pictures", train.Run, "draw"),
        ("checkpoints", train.Run, "checkpoint"),
    ],
)
def test_the_time_of_a_part_is_counted_as_that_part(part, owner, name, inside, monkeypatch):
    monkeypatch.setattr(overhead, "ITERATIONS", 4)
    monkeypatch.setattr(train.Run, "draw", lambda *_: None)
    calls = slowed(monkeypatch, owner, name, 0.3)
    row = overhead.one_run(CPU)
    taken = row["all, s"] * row[f"{part}, %"] / 100
    assert len(calls) > (part == "evaluations") and taken > 0.3 * len(calls)  # validation and test images
    shares = {name: share for name, share in row.items() if name.endswith(", %") and "outside" not in name}
    assert sum(shares.values()) == pytest.approx(100) and min(shares.values()) >= 0
    assert row["outside iterations, %"] == pytest.approx(100 - row["iterations, %"])


def test_what_no_part_has_is_start_or_rest(inside, monkeypatch):
    monkeypatch.setattr(overhead, "ITERATIONS", 10)
    monkeypatch.setattr(train.Run, "draw", lambda *_: None)
    slowed(monkeypatch, cli, "parse", 0.3)
    slowed(monkeypatch, train.Run, "equilibrium", 0.4)
    row = overhead.one_run(CPU)
    assert row["all, s"] * row["start, %"] / 100 > 0.3 and row["all, s"] * row["rest, %"] / 100 > 0.4


def test_the_run_is_the_default_one_of_a_thousand_iterations(monkeypatch):
    asked = []

    def python(*words):
        asked.append(words)
        parts = {"first": time.perf_counter(), "seconds": {"iterations": 0.0}}
        Path(words[2]).write_text(json.dumps(parts))

    monkeypatch.setattr(common, "python", python)
    (row,) = overhead.measure(CPU)
    configs, given = cli.parse([*asked[0][3:]])
    assert row["iterations"] == 1000 and configs == [cli.Config(iterations=1000, device="cpu")]
    assert asked[0][:2] == ("-m", "bench.timed") and not given.out.exists()


def test_a_run_that_fails_has_no_times(tmp_path, capsys):
    assert timed.main([str(tmp_path / "parts.json"), "--iterations", "0"]) == 2
    assert "iterations" in capsys.readouterr().err and not (tmp_path / "parts.json").exists()
    assert train.Run.draw.__module__ == "lvae_min.train"
    assert evaluation.begin_evaluation.__module__ == "lvae_min.evaluation"


def test_the_parts_of_a_run_in_a_process_of_its_own_are_within_its_time(tmp_path):
    images, file = tmp_path / "images.npz", tmp_path / "parts.json"
    np.savez(images, images=np.random.default_rng(0).integers(256, size=(60, 64, 64), dtype=np.uint8))
    began = time.perf_counter()
    words = ["--dataset", str(images), "--iterations", "20", "--threads", "1", "--batch-size", "4"]
    common.python("-m", "bench.timed", str(file), *words, "--out", str(tmp_path / "runs"))
    whole, found = time.perf_counter() - began, json.loads(file.read_text())
    assert began < found["first"] < began + whole
    assert list(found["seconds"]) == list(timed.PARTS) and min(found["seconds"].values()) > 0
    assert found["first"] - began + sum(found["seconds"].values()) < whole


def test_six_methods_at_once_are_measured_beside_their_iterations(inside, monkeypatch):
    """As on a GPU, whose part the CPU takes here."""
    monkeypatch.setattr(overhead, "AT_ONCE", 12)
    monkeypatch.setattr(train.Run, "draw", lambda *_: None)
    rates = []
    monkeypatch.setattr(
        grid, "together", lambda makers, seconds: rates.append([make() for make in makers]) or 720.0
    )
    row = overhead.six_runs(CPU)
    (words,) = inside
    configs, given = cli.parse(words[1:])
    assert [config.model for config in configs] == list(OBJECTIVES) and given.jobs == 6
    assert {config.iterations for config in configs} == {12}
    assert [(one.config.model, one.config.iterations) for one in rates[0]] == [
        (method, 12) for method in OBJECTIVES
    ]
    assert row["iterations alone, s"] == pytest.approx(6 * 12 / 720) and row["runs at once"] == 6
    assert row["outside iterations, %"] == pytest.approx(100 * (1 - 0.1 / row["all, s"]))


def test_a_gpu_has_six_runs_of_three_thousand_iterations(monkeypatch):
    monkeypatch.setattr(overhead, "six_runs", lambda device: {"device": str(device)})
    assert overhead.measure(torch.device("cuda", 0)) == [{"device": "cuda:0"}]
    assert overhead.AT_ONCE == 3000
