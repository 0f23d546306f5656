"""bench/ measures what it says, tried with small data on the CPU."""

import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bench.__main__ as command
import lvae_min.step
from bench import common, evaluation, grid, growth, loss, means, parts, scores, start, step, stock
from bench import data as batches
from lvae_min import data, fused, metrics, model, products, report, train
from lvae_min.datasets import specs, stores
from lvae_min.step import SWITCHES

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def tiny(small, monkeypatch):
    """Small data sets and products; what has a process of its own stays in this one, which knows them."""
    draw = np.random.default_rng(0)
    spec = specs.Spec((3, 64, 64), {"hue": 4, "shape": 20, "place": 3})
    colored = data.Dataset(
        "arm3d", "", spec, stores.Pixels(draw.integers(256, size=(240, 64, 64, 3), dtype=np.uint8))
    )
    monkeypatch.setattr(data, "load", lambda name: {"dsprites": small, "arm3d": colored}[name])
    monkeypatch.setattr(train, "cores", lambda: 1)
    monkeypatch.setattr(common, "apart", lambda function, *given: function(*given))
    monkeypatch.setattr(common, "STEPS", [("dsprites", 8), ("arm3d", 4)])
    monkeypatch.setattr(stock, "STOCK", [])
    monkeypatch.setattr(stock, "stock_step", lambda *_: lambda: time.sleep(0.001))
    monkeypatch.setattr(loss, "LOSS_SHAPES", [(2, 64)])
    monkeypatch.setattr(step, "PEAK_SIDE", {"cpu": 16, "cuda": 16})
    monkeypatch.setattr(
        step,
        "Stock",
        lambda name, size, device: SimpleNamespace(
            ready=lambda: stock.stock_begins(name, size, str(device)),
            seconds=stock.stock_seconds,
            close=lambda: None,
        ),
    )


@pytest.fixture
def called_once(monkeypatch):
    """Each function that would be timed is called once, and its time is 1 s."""
    monkeypatch.setattr(
        common, "least", lambda ways, *_, **__: {name: way() and 1.0 or 1.0 for name, way in ways.items()}
    )


def test_the_wait_is_for_the_device_that_was_named(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    common.waiter(CUDA)()
    common.waiter(CPU)()
    common.waiter(None)()
    assert waited == [CUDA]


def test_a_time_is_that_of_many_calls_and_one_wait(monkeypatch):
    done = []
    monkeypatch.setattr(common, "waiter", lambda device: lambda: done.append("wait"))
    monkeypatch.setattr(time, "perf_counter", lambda: done.append("clock") or len(done))
    found = common.least({"work": lambda: done.append("call")}, rounds=0, calls=3, device=CUDA)
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

    monkeypatch.setattr(common, "stream_waiter", lambda device: wait)
    began = time.perf_counter()
    rate = grid.together([Lagging, Lagging], 0.3)
    assert 0 < rate <= (sum(finished) - 8) / 0.3 and rate < 2 * 500 < sum(finished) / 0.002
    assert time.perf_counter() - began > 0.3


def test_an_iteration_is_measured_beside_one_of_stock_pytorch_and_the_peak(tiny):
    rows = step.measure(CPU)
    assert [(row["network"], row["batch"]) for row in rows] == [("MLP", 8), ("CNN", 4)]
    for row in rows:
        assert row["stock / ours"] == pytest.approx(row["stock, ms"] / row["ours, ms"])
        assert row["stock, ms"] >= 1 and row["images/s"] == pytest.approx(
            1e3 * row["batch"] / row["ours, ms"]
        )
        low, high = map(float, row["from, to"].split(" to "))
        assert low - 0.005 <= row["stock / ours"] <= high + 0.005
        assert row["of peak, %"] > 0 and row["of bf16 peak, %"] > 0 and "peaks" not in row


def test_the_share_of_the_peak_follows_from_known_times(tiny, monkeypatch):
    """An iteration takes 0.5 s, and of bf16 0.2 s; the products that are the peak 0.25 and 0.125 s."""
    iterations, peaks = {"float32": 0.5, "bf16": 0.2, "": 1.5}, {"float32": 0.25, "bf16": 0.125}

    def least(ways, rounds, calls, device):
        return {name: (peaks if rounds else iterations)[name] for name in ways}

    monkeypatch.setattr(common, "least", least)
    for row in step.measure(CPU):
        done = row["GFLOP"] * 1e9
        assert row["GFLOP/s"] == pytest.approx(row["GFLOP"] / 0.5) and row["stock / ours"] == 3
        assert row["of peak, %"] == pytest.approx(100 * (done / 0.5) / (2 * 16**3 / 0.25))
        assert row["of bf16 peak, %"] == pytest.approx(100 * (done / 0.2) / (2 * 16**3 / 0.125))


def test_the_peak_is_timed_on_the_product_that_it_counts(tiny):
    for way in step.products(CPU).values():
        with FlopCounterMode(display=False) as counter:
            way()
        assert counter.get_total_flops() == 2 * 16**3


def test_only_the_products_that_are_done_are_counted(tiny, small):
    """Forward and both gradients: on a CPU all but those of the first layer, which is sparse."""
    ours = common.make_step(small, 8, CPU)
    ours.batches.turn(0)
    wide, latents = 32, 5
    dense = wide * wide + wide * 2 * latents + latents * wide + wide * wide + wide * 4096
    assert step.operations(ours) == 3 * 2 * 8 * dense


def test_a_row_of_an_iteration_is_the_median_of_three_pairs_of_processes(monkeypatch):
    ratios = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(common, "STEPS", [("dsprites", 8)])
    monkeypatch.setattr(
        common, "apart", lambda *_: {"stock / ours": next(ratios), "of peak, %": 1.0, "peaks": [1.0]}
    )
    assert step.measure(CPU) == [{"stock / ours": 2.0, "of peak, %": 100.0, "from, to": "1.00 to 3.00"}]


def test_stock_pytorch_has_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(stock, "STOCK", [])
    other = stock.Stock("dsprites", 8, CPU)
    try:
        other.ready()
        assert 0 < other.seconds(2) < 60 and stock.STOCK == []
    finally:
        other.close()


@pytest.mark.parametrize("name", ["dsprites", "arm3d"])
def test_an_iteration_of_stock_pytorch_trains_a_network_of_the_same_size(name, small, monkeypatch):
    monkeypatch.setattr(model, "HIDDEN", 1200)
    dataset = small
    if name == "arm3d":
        dataset = data.Dataset(name, "", specs.SPECS[name], stores.Pixels(np.ones((400, 64, 64, 3), "u1")))
    networks = stock.networks(dataset)
    ours = model.VAE(dataset.shape, dataset.latents, dataset.network, dataset.binary)
    assert sum(len(each.flatten()) for part in networks for each in part.parameters()) == sum(
        len(each.flatten()) for each in ours.parameters()
    )
    assert {type(layer).__module__.split(".")[0] for part in networks for layer in part.modules()} == {
        "torch"
    }
    images = torch.rand(2, *dataset.shape)
    code = networks[0](images)
    assert code.shape == (2, 2 * dataset.latents) and networks[1](code.chunk(2, 1)[0]).shape == images.shape
    weights = [*networks[0].parameters()]
    before = [each.detach().clone() for each in weights]
    monkeypatch.setattr(stock, "networks", lambda _: networks)
    stock.stock_step(dataset, 4, CPU)()
    assert not any(torch.equal(*pair) for pair in zip(before, weights, strict=True))


def test_the_loss_of_both_types_is_measured_on_both_kinds_of_device(tiny, monkeypatch):
    if reason := fused.why_not():
        pytest.skip(f"the op is not built: {reason}")
    (row,) = loss.measure(CPU)
    assert row["twin / compiled"] > 0 and row["logits"] == "float32"
    # As on a GPU: no compiled twin, and graphs, which are loops here.
    ways = loss.loss_ways
    monkeypatch.setattr(
        loss,
        "loss_ways",
        lambda *given: {name: way for name, way in ways(*given).items() if name != "compiled twin"},
    )
    for dtype in (torch.float32, torch.bfloat16):
        row = loss.loss_row(2, 64, CPU, dtype, 2)
        assert row["twin / fused, graph"] == pytest.approx(row["twin, graph"] / row["fused, graph"])
        assert row["logits"] == str(dtype)[6:] and 0 < row["fused, graph"]


def test_a_recorded_function_is_called_as_often_as_it_says():
    calls = []
    common.recorded(lambda: calls.append(1), 10, CPU)()
    assert len(calls) == 10


def test_parts_are_measured_in_the_precision_of_the_iteration(tiny, monkeypatch):
    inside, shares = [], parts.parts
    monkeypatch.setattr(
        parts, "parts", lambda device: inside.append([getattr(*switch) for switch in SWITCHES]) or []
    )
    parts.measure(torch.device("cuda", 0))
    assert inside == [["ieee", "ieee", True, False]]
    for row in shares(CPU):
        assert sum(value for name, value in row.items() if "%" in name) == pytest.approx(100)


def test_the_parts_of_an_iteration_train_the_network(tiny, monkeypatch):
    made, own = [], common.make_step
    monkeypatch.setattr(
        common, "make_step", lambda *given, **named: made.append(own(*given, **named)) or made[-1]
    )
    parts.parts(CPU)
    for one in made:
        moments = [one.optimizer.state[weights] for weights in one.vae.parameters()]
        assert all(moment["step"] == 25 and moment["exp_avg"].any() for moment in moments)


def conv_layouts(one) -> set[tuple[bool, bool]]:
    """Of each convolution of an iteration whether its result and its weights have channels first."""
    found, hooks = set(), []

    def look(layer, given, result):
        found.add((result.is_contiguous(), layer.weight.is_contiguous()))

    for layer in one.vae.modules():
        if isinstance(layer, products.Conv | products.ConvTransposed):
            hooks.append(layer.register_forward_hook(look))
    one()
    for hook in hooks:
        hook.remove()
    return found


def test_each_means_is_left_out_of_one_iteration(tiny, monkeypatch):
    ways = means.ways(CPU)
    fed, product = [], products.PixelLinear.product
    monkeypatch.setattr(
        products.PixelLinear, "product", lambda layer, x: fed.append(x.dtype) or product(layer, x)
    )
    ways["sparse first layer"](), ways["ours"]()
    assert fed == [torch.float32, torch.uint8]
    assert not ways["fused Adam"].optimizer.defaults["fused"] and ways["ours"].optimizer.defaults["fused"]
    assert ways["fused loss"].description == ways["fused loss (CNN)"].description != ways["ours"].description
    taken = {name: 2.0 for name in ways} | {"ours": 1.0, "ours, CNN": 4.0}
    monkeypatch.setattr(common, "least", lambda ways, *_, **__: {name: taken[name] for name in ways})
    apart = {means.adam_alone: {True: 0.5, False: 2.0}, means.freed_memory: {True: 8.0, False: 8.0}}
    monkeypatch.setattr(common, "apart", lambda function, on: apart[function][on])
    gains = {row["means"]: row["without / with"] for row in means.measure(CPU)}
    assert gains == {
        "fused Adam": 2,
        "sparse first layer": 2,
        "fused loss": 2,
        "denormals flushed (Adam alone)": 4,
        "channels last (CNN)": 0.5,
        "fused loss (CNN)": 0.5,
        "freed memory kept (CNN)": 1,
    }
    assert means.measure(CUDA) == []


@pytest.mark.parametrize("flush", [True, False])
def test_denormals_of_adam_are_flushed_only_where_that_is_said(tiny, monkeypatch, flush):
    """In all threads: the setting is made before there is more than one, and nothing changes it later."""
    left, worn = [], means.worn

    def least(ways, rounds, calls):
        ways[""]()
        return {"": 0.5}

    monkeypatch.setattr(common, "least", least)
    monkeypatch.setattr(means, "worn", lambda one: left.append(worn(one)) or left[0])
    set_flush, asked = torch.set_flush_denormal, []
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: asked.append(on) or set_flush(on))
    try:
        assert means.adam_alone(flush) == 0.5
    finally:
        set_flush(False)
    assert asked == [flush]
    weights = left[0].vae.encoder[3].weight
    found = left[0].optimizer.state[weights]["exp_avg"]
    assert bool((found[::6] != 0).all()) != flush and found[::6].abs().max() < 1e-38
    assert found.abs().max() > 1e-6


@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_stays_with_the_process_only_where_that_is_said(tiny, called_once, monkeypatch, keep):
    kept = []
    monkeypatch.setattr(lvae_min.step, "keep_freed_memory", lambda: kept.append(1))
    assert means.freed_memory(keep) == 1 and len(kept) == keep


def test_without_channels_last_images_and_weights_have_channels_first(tiny):
    ways = means.ways(CPU)
    assert conv_layouts(ways["channels last (CNN)"]) == {(True, True)}
    assert (True, True) not in conv_layouts(ways["ours, CNN"])


def test_the_measurements_that_were_named_are_written_down(tiny, called_once, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(batches, "SPECS", {"dsprites": specs.SPECS["dsprites"]})
    monkeypatch.setattr(grid, "together", lambda makers, seconds: makers[0]() and 1.0)
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: None)
    assert command.main(["grid", "data", "evaluation", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["data"][0]["resident, GB"] < 1 and len(found["grid"]) == 4 and found["seconds"] >= 0
    assert "| data set |" in capsys.readouterr().out and "scores" not in found


def test_the_manual_lists_the_measurements():
    """The table of the docstring, in the order in which they are carried out."""
    table = command.__doc__.split("\n\n")[2]
    assert [line.split()[0] for line in table.splitlines()] == list(command.BENCHES)


def test_an_evaluation_is_measured_beside_ten_thousand_iterations(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(
        evaluation, "evaluate", lambda vae, dataset, index: asked.append((dataset.name, len(index)))
    )
    seconds = {"evaluation": 3.0, "encode": 0.5, "step": 0.02}
    monkeypatch.setattr(
        common,
        "least",
        lambda ways, *_, **__: {name: [way(), seconds[name]][1] for name, way in ways.items()},
    )
    rows = evaluation.measure(CPU)
    assert [row["evaluation / 10,000 steps, %"] for row in rows] == [pytest.approx(1.5)] * 2
    assert asked == 2 * [("dsprites", 144)] + 2 * [("arm3d", 18)]


def test_every_score_is_measured_on_both_kinds_of_factors(monkeypatch):
    asked = []

    def scorer(name):
        return lambda factors, codes, *discrete: asked.append((name, len(factors), len(codes), *discrete))

    def least(ways, rounds):
        for way in ways.values():
            way()
        return dict.fromkeys(ways, 0.25)

    for name in report.SCORES:
        monkeypatch.setattr(metrics, name, scorer(name))
    monkeypatch.setattr(common, "least", least)
    rows = scores.measure(CPU)
    assert [(row["codes"], row["factors"]) for row in rows] == [
        (samples, kind) for samples in (10_000, 50_000) for kind in ("as they are", "10 bins")
    ]
    assert asked == [
        (name, samples, samples, *[kind] * (name != "sap"))
        for samples in (10_000, 50_000)
        for kind in (True, False)
        for name in report.SCORES
    ]
    assert all(row["all six, ms"] == 1500 and row["mig, ms"] == 250 for row in rows)


def test_the_parts_of_a_start_add_up_to_the_best_of_three(monkeypatch):
    clock = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr(start, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    printed = iter(["said\n11 13 14 16 19", "20.5 21 22 23 24", "31 32 33 34 38"])
    monkeypatch.setattr(common, "python", lambda *words: next(printed))
    (row,) = start.measure(CPU)
    assert row == {
        "Python": 0.5,
        "import": 0.5,
        "data": 1,
        "network and folder": 1,
        "first iteration": 1,
        "all, s": 4,
    }


def test_a_start_is_that_of_a_process_of_its_own(tmp_path):
    moments = [float(word) for word in common.python("-c", start.START, "cpu", str(tmp_path / "run")).split()]
    assert len(moments) == 5 and moments == sorted(moments) and moments[-1] < time.perf_counter()
    assert (tmp_path / "run" / "config.json").exists()


def test_a_process_that_fails_is_told_in_one_line():
    with pytest.raises(ValueError, match=r"^python -c 'import sys; sys.exit\(.*: one$"):
        common.python("-c", "import sys; sys.exit('two\\none')")
    with pytest.raises(ValueError, match="code 3"):
        common.python("-c", "raise SystemExit(3)")


def test_growth_is_over_batch_size_width_and_number_of_images(tiny, monkeypatch):
    made = []

    def least(ways, rounds, calls, device):
        for (_, value), one in ways.items():
            made.append((value, one.config.batch_size, one.vae.encoder[-1].in_features))
        return dict.fromkeys(ways, 0.002)

    monkeypatch.setattr(common, "least", least)
    monkeypatch.setattr(growth, "memory", lambda kind, count: count / 1e6)
    rows = growth.measure(CPU)
    assert made == [(size, size, 32) for size in (16, 32, 64, 128, 256, 512)] + [
        (width, 64, width) for width in (300, 600, 1200, 2400)
    ]
    assert [row["ms or GB"] for row in rows] == 10 * [2] + 2 * [0.05, 0.2, 0.73728]
    assert {row["over"] for row in rows[10:]} == {"images, bits in memory", "images, RGB in a file"}


@pytest.mark.parametrize("kind, least, most", [("bits", 0.09, 0.2), ("file", -1, 0.05)])
def test_images_in_memory_take_their_bits_and_those_of_a_file_none(kind, least, most):
    assert least < common.apart(growth.memory, kind, 200_000) < most


def test_a_context_of_a_gpu_is_not_counted_as_a_data_sets_memory(tiny, monkeypatch):
    """It is made before memory is looked at first."""
    seen, zeros = [], torch.zeros
    monkeypatch.setattr(
        torch, "zeros", lambda *given, **named: seen.append("device") or zeros(*given, **named)
    )
    monkeypatch.setattr(common, "resident", lambda: seen.append("memory") or 0.0)
    batches.data_row("dsprites", "cpu")
    assert seen[:2] == ["device", "memory"]
