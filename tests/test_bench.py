"""bench.py measures what it says, tried with small data on the CPU."""

import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bench
from lvae_min import data, fused, step
from lvae_min.datasets import specs, stores

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def tiny(small, monkeypatch):
    """Small data sets and products; what has a process of its own stays in this one, which knows them."""
    draw = np.random.default_rng(0)
    spec = specs.Spec((3, 64, 64), {"hue": 4, "shape": 20, "place": 3})
    colored = data.Dataset(
        "arm3d", "", spec, stores.Pixels(draw.integers(256, size=(240, 64, 64, 3), dtype=np.uint8))
    )
    monkeypatch.setattr(bench, "load", lambda name: {"dsprites": small, "arm3d": colored}[name])
    monkeypatch.setattr(bench, "cores", lambda: 1)
    monkeypatch.setattr(bench, "apart", lambda function, *given: function(*given))
    monkeypatch.setattr(bench, "STOCK", [])
    monkeypatch.setattr(bench, "STEPS", [("dsprites", 8), ("arm3d", 4)])
    monkeypatch.setattr(bench, "LOSS_SHAPES", [(2, 64)])
    monkeypatch.setattr(bench, "PEAK_SIDE", {"cpu": 16, "cuda": 16})
    monkeypatch.setattr(bench, "stock_step", lambda *_: lambda: time.sleep(0.001))
    monkeypatch.setattr(
        bench,
        "Stock",
        lambda name, size, device: SimpleNamespace(
            seconds=lambda calls: bench.stock_begins(name, size, str(device)) or bench.stock_seconds(calls),
            close=lambda: None,
        ),
    )


def test_the_wait_is_for_the_device_that_was_named(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    bench.waiter(CUDA)()
    bench.waiter(CPU)()
    bench.waiter(None)()
    assert waited == [CUDA]


def test_a_time_is_that_of_many_calls_and_one_wait(monkeypatch):
    done = []
    monkeypatch.setattr(bench, "waiter", lambda device: lambda: done.append("wait"))
    monkeypatch.setattr(time, "perf_counter", lambda: done.append("clock") or len(done))
    found = bench.least({"work": lambda: done.append("call")}, rounds=0, calls=3, device=CUDA)
    assert done == ["wait", "clock", "call", "call", "call", "wait", "clock"]
    assert found["work"] == (7 - 2) / 3


def test_only_finished_iterations_of_runs_at_once_are_counted(monkeypatch):
    """Each thread waits for its own; a device that lags behind its queue cannot be taken for a fast one."""
    finished, mine = [], threading.local()

    class Lagging:
        device = torch.device("cuda", 0)

        def __call__(self):
            mine.queued = getattr(mine, "queued", 0) + 1

    def wait():
        time.sleep(0.002 * mine.queued)
        finished.append(mine.queued)
        mine.queued = 0

    monkeypatch.setattr(bench, "stream_waiter", lambda device: wait)
    began = time.perf_counter()
    rate = bench.together([Lagging, Lagging], 0.3)
    assert 0 < rate <= (sum(finished) - 8) / 0.3 and rate < 2 * 500 < sum(finished) / 0.002
    assert time.perf_counter() - began > 0.3


def test_an_iteration_is_measured_beside_one_of_stock_pytorch_and_the_peak(tiny):
    rows = bench.bench_step(CPU)
    assert [(row["network"], row["batch"]) for row in rows] == [("MLP", 8), ("CNN", 4)]
    for row in rows:
        assert row["stock / ours"] == pytest.approx(row["stock, ms"] / row["ours, ms"])
        assert row["stock, ms"] >= 1 and row["images/s"] == pytest.approx(
            1e3 * row["batch"] / row["ours, ms"]
        )
        assert row["of peak, %"] > 0 and row["of bf16 peak, %"] > 0 and "peaks" not in row


def test_stock_pytorch_has_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(bench, "STOCK", [])
    stock = bench.Stock("dsprites", 8, CPU)
    try:
        assert 0 < stock.seconds(2) < 60 and bench.STOCK == []
    finally:
        stock.close()


def test_the_loss_of_both_types_is_measured_on_both_kinds_of_device(tiny, monkeypatch):
    if reason := fused.why_not():
        pytest.skip(f"the op is not built: {reason}")
    (row,) = bench.bench_loss(CPU)
    assert row["twin / compiled"] > 0 and row["logits"] == "float32"
    # As on a GPU: no compiled twin, and graphs, which are loops here.
    ways = bench.loss_ways
    monkeypatch.setattr(
        bench,
        "loss_ways",
        lambda *given: {name: way for name, way in ways(*given).items() if name != "compiled twin"},
    )
    for dtype in (torch.float32, torch.bfloat16):
        row = bench.loss_row(2, 64, CPU, dtype, 2)
        assert row["twin / fused, graph"] == pytest.approx(row["twin, graph"] / row["fused, graph"])
        assert row["logits"] == str(dtype)[6:] and 0 < row["fused, graph"]


def test_a_recorded_function_is_called_as_often_as_it_says():
    calls = []
    bench.recorded(lambda: calls.append(1), 10, CPU)()
    assert len(calls) == 10


def test_parts_are_measured_in_the_precision_of_the_iteration(tiny, monkeypatch):
    inside, parts = [], bench.parts
    monkeypatch.setattr(
        bench, "parts", lambda device: inside.append([getattr(*switch) for switch in step.SWITCHES]) or []
    )
    bench.bench_parts(torch.device("cuda", 0))
    assert inside == [["ieee", "ieee", True, False]]
    for row in parts(CPU):
        assert sum(value for name, value in row.items() if "%" in name) == pytest.approx(100)


def test_the_other_measurements_run(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "SPECS", {"dsprites": specs.SPECS["dsprites"]})
    monkeypatch.setattr(bench, "together", lambda makers, seconds: makers[0]() and 1.0)
    monkeypatch.setattr(
        bench, "least", lambda ways, **_: {name: way() and 1.0 or 1.0 for name, way in ways.items()}
    )
    monkeypatch.setattr(bench, "evaluate", lambda *_: None)
    assert bench.main(["grid", "data", "evaluation", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["data"][0]["resident, GB"] < 1 and len(found["grid"]) == 4 and found["seconds"] >= 0
    assert "| data set |" in capsys.readouterr().out


def test_a_context_of_a_gpu_is_not_counted_as_a_data_sets_memory(tiny, monkeypatch):
    """It is made before memory is looked at first."""
    seen, zeros = [], torch.zeros
    monkeypatch.setattr(
        torch, "zeros", lambda *given, **named: seen.append("device") or zeros(*given, **named)
    )
    monkeypatch.setattr(bench, "resident", lambda: seen.append("memory") or 0.0)
    bench.data_row("dsprites", "cpu")
    assert seen[:2] == ["device", "memory"]
