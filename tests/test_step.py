"""One iteration: where it runs, what it may change around it, and what it consists of."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small_sprites
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lvae_min import data, evaluation, fused, losses, model, step
from lvae_min.config import Config
from lvae_min.datasets import specs, stores
from lvae_min.losses import OBJECTIVES
from lvae_min.step import Step, Streams, Switches

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FLOAT32, TF32 = ["ieee", "ieee", True, False], ["tf32", "tf32", True, False]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
PRECISIONS = ["float32", "tf32", "bf16"]
KINDS = ["bits", "pixels", "painted"]


def switches():
    return [getattr(*switch) for switch in step.SWITCHES]


def dataset_of(kind, small_images):
    """A small data set of each way to keep images: dSprites as bits; colored ones as pixels, and painted."""
    if kind == "bits":
        return small_sprites(small_images)
    draw, spec = np.random.default_rng(0), specs.Spec((3, 64, 64), {"hue": 4, "shape": 20, "place": 3})
    if kind == "pixels":
        store = stores.Pixels(draw.integers(256, size=(240, 64, 64, 3), dtype=np.uint8))
    else:
        views = torch.from_numpy(draw.integers(256, size=(60, 64 * 64), dtype=np.uint8))
        palettes = draw.integers(256, size=(4, 256, 3), dtype=np.uint8)
        store = stores.Painted(views, palettes, (4, 20, 3), geometry=(1, 2), colors=(0,))
    return data.Dataset("colored", "drawn", spec, store)


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param, 0) if request.param == "cuda" else CPU


@pytest.fixture
def graphs(device, monkeypatch):
    """Graphs on a CPU: a stand-in, which does the recorded work when it is replayed."""
    if device.type == "cpu":
        monkeypatch.setattr(Step, "capture", lambda self: SimpleNamespace(replay=self.work))
        monkeypatch.setattr(Step, "wants_graph", lambda self: self.config.graph == "on")


def new_step(dataset, device=CPU, method="lvae", **settings):
    usual = {"model": method, "iterations": 40, "batch_size": 8, "device": str(device)}
    training = data.Split.of(len(dataset)).training
    return Step(Config(**{**usual, **settings}), dataset, training, torch.device(device), 1)


def run_on(one, iterations):
    for _ in range(iterations):
        one()
    return one


def same(one, other):
    """Whether two states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ------------------------------------------------------------- as a graph, at once, from device to device


def test_an_image_of_each_store_is_the_same_on_every_device(device, small_images):
    for kind in KINDS:
        index, dataset = torch.tensor([0, 7, 239, 100]), dataset_of(kind, small_images)
        expected = dataset.batch(index)
        assert torch.equal(dataset.to(device).batch(index.to(device)).cpu(), expected)


ITERATIONS = [("bits", "float32", method) for method in OBJECTIVES]
ITERATIONS += [(kind, precision, "lvae") for kind in KINDS for precision in PRECISIONS]


@pytest.mark.parametrize("kind, precision, method", dict.fromkeys(ITERATIONS))
def test_a_replayed_graph_equals_eager_iterations(
    kind, precision, method, device, graphs, small_images, monkeypatch
):
    monkeypatch.setattr(model, "HIDDEN", 32)
    dataset, states = dataset_of(kind, small_images).to(device), []
    for graph in ("off", "on"):
        one = new_step(dataset, device, method, precision=precision, graph=graph)
        start = [weight.clone() for weight in one.vae.parameters()]
        states.append(run_on(one, 8).state())
        assert (one.graph is not None) == (graph == "on")
        assert all(not torch.equal(*pair) for pair in zip(start, one.vae.parameters(), strict=True))
    assert same(*states)


def test_runs_at_once_give_the_numbers_that_each_gives_alone(device, graphs, small_images):
    """Four threads, two networks, each precision: none records or computes a part of another."""
    sets = {kind: dataset_of(kind, small_images).to(device) for kind in KINDS}
    wanted = [
        ("bits", "float32", "on"),
        ("painted", "tf32", "on"),
        ("pixels", "bf16", "on"),
        ("bits", "tf32", "off"),
    ]

    def work(kind, precision, graph):
        one = new_step(sets[kind], device, precision=precision, graph=graph)
        state = run_on(one, 20).state()
        return [weight.cpu() for weight in state["vae"].values()], state["sums"].cpu()

    before = switches()
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(work, *zip(*wanted, strict=True)))
    with ThreadPoolExecutor(1) as pool:
        assert same(at_once, [pool.submit(work, *each).result() for each in wanted])
    assert switches() == before


def carried(state):
    """A state as it comes out of a checkpoint."""
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("kind", ["bits", "pixels"])
def test_a_run_moves_to_another_device_and_back_with_all_that_it_learned(kind, device, graphs, small_images):
    state = None
    for number, place in enumerate((CPU, device, CPU)):
        dataset = dataset_of(kind, small_images).to(place)
        one = new_step(dataset, place, graph="off" if place == CPU else "on")
        if state is not None:
            one.restore(carried(state))
            for name in ("vae", "objective"):
                assert same(carried(one.state())[name], carried(state)[name])
            means = [carried(each)["optimizer"]["state"] for each in (one.state(), state)]
            assert same(*means)
        state = run_on(one, 6).state()
        assert one.iteration == 6 * (number + 1) and state["sums"].isfinite().all()


@pytest.mark.cuda
def test_a_product_in_tf32_is_rounded_and_one_in_float32_is_not():
    left, right = torch.rand(2, 256, 256, device="cuda").unbind()
    exact, errors = (left.double() @ right.double()), []
    for precision in ("float32", "tf32", "float32"):
        with step.products(CUDA, precision):
            errors.append(((left @ right - exact).abs().max() / exact.abs().max()).item())
    assert errors[0] == errors[2] < 1e-6 < 1e-5 < errors[1]


@pytest.mark.cuda
def test_a_thread_records_on_a_stream_that_is_not_the_default_one(small):
    one = run_on(new_step(small.to(CUDA), CUDA), 6)
    assert one.graph is not None
    assert torch.cuda.current_stream() == step.STREAMS.mine(CUDA) != torch.cuda.default_stream()


# -------------------------------------------------------------------- switches, streams: without a GPU


@pytest.mark.parametrize("tf32, held", [(False, FLOAT32), (True, TF32)])
def test_the_switches_of_the_process_are_given_back(tf32, held, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as a user may have set it
    before = switches()
    with pytest.raises(KeyError), Switches().set(tf32):
        assert switches() == held
        raise KeyError
    assert switches() == before and before[3] is True


def until(true):
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it has not come")


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_threads_of_one_precision_are_inside_together_and_one_of_another_waits_and_is_not_passed():
    switch, before, entered, leave = Switches(), switches(), [], threading.Event()
    both = threading.Barrier(3, timeout=60)

    def float32():
        with switch.set(False):
            both.wait()
            leave.wait(60)
            assert switches() == FLOAT32

    def other(tf32):
        with switch.set(tf32):
            entered.append((tf32, switches()))

    threads = [in_thread(float32) for _ in range(2)]
    both.wait()  # two at once
    threads.append(in_thread(lambda: other(True)))
    until(switch.turn.locked)  # it waits
    threads.append(in_thread(lambda: other(False)))  # might come in, and would let the other wait on
    threads[3].join(0.1)
    assert entered == [] and threads[3].is_alive()
    leave.set()
    for thread in threads:
        thread.join(60)
    assert entered == [(True, TF32), (False, FLOAT32)] and switches() == before


def test_an_iteration_on_a_gpu_computes_in_its_precision_and_its_first_ones_hold_up_a_recording(small):
    for precision, held in (("float32", FLOAT32), ("tf32", TF32), ("bf16", FLOAT32)):
        one, seen, before = new_step(small, precision=precision), [], switches()
        one.device = CUDA
        one.work = lambda seen=seen: seen.append((switches(), step.CAPTURING.locked()))
        run_on(one, step.WARM_UP + 1)
        assert seen == [(held, True)] * step.WARM_UP + [(held, False)] and switches() == before


@pytest.mark.parametrize("precision, held", [("float32", FLOAT32), ("tf32", TF32)])
def test_a_graph_is_recorded_in_its_precision_alone(small, monkeypatch, precision, held):
    one, seen = new_step(small, precision=precision), []
    graph = SimpleNamespace(register_generator_state=seen.append, replay=lambda: seen.append("replayed"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "a stream")
    monkeypatch.setattr(torch.cuda, "graph", lambda to, **named: nullcontext(seen.append((to, named))))
    one.device, one.graphed, one.warm = CUDA, True, step.WARM_UP
    one.work = lambda: seen.append((switches(), step.CAPTURING.locked()))
    run_on(one, 2)
    recording = {"stream": "a stream", "capture_error_mode": "thread_local"}
    assert seen == [one.noise, (graph, recording), (held, True), "replayed", "replayed"]


def test_an_evaluation_is_in_float32(small, monkeypatch):
    asked = []

    @contextmanager
    def products(device, precision="float32"):
        asked.append((device, precision, "begins"))
        yield
        asked.append("ends")

    monkeypatch.setattr(step, "products", products)
    monkeypatch.setattr(
        evaluation.losses, "elbo_terms", lambda *_: asked.append("rec") or (torch.ones(()),) * 2
    )
    monkeypatch.setattr(evaluation.metrics, "score", lambda *_, **__: {})
    evaluation.evaluate(new_step(small, precision="tf32").vae, small, np.arange(5))
    assert asked == [(CPU, "float32", "begins"), "rec", "rec", "ends"]


def test_on_a_cpu_tf32_is_float32_and_reports_it(small):
    steps = [run_on(new_step(small, precision=precision), 5) for precision in ("float32", "tf32")]
    assert same(*(one.state() for one in steps))
    before = switches()
    with step.products(CPU, "tf32"):
        assert switches() == before
    assert steps[1].description == steps[0].description + ", float32 (a CPU has no tf32)"
    assert Config(precision="tf32").name.endswith("-precisiontf32")


@pytest.fixture
def pool(monkeypatch):
    """torch's streams: 32, handed out round-robin."""
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or (device, len(made) % 32))
    return made


def test_a_thread_has_a_stream_of_its_own_however_many_came_and_went(pool):
    streams, found = Streams(), []
    mine = streams.mine(CUDA)
    for _ in range(40):
        thread = in_thread(lambda: found.append(streams.mine(CUDA)))
        thread.join()
    assert len(found) == 40 and mine not in found and streams.mine(CUDA) == mine


def test_no_two_threads_share_a_stream_and_one_too_many_is_refused(pool):
    streams, found, wait = Streams(), [], threading.Event()

    def hold():
        found.append(streams.mine(CUDA))
        wait.wait(60)

    threads = [in_thread(hold) for _ in range(32)]
    until(lambda: len(found) == 32)
    assert len(set(found)) == 32
    with pytest.raises(ValueError, match="more than 32 runs at once on cuda:0: expected --jobs 32 at most"):
        streams.mine(CUDA)
    assert streams.mine(torch.device("cuda", 1))[0] == torch.device("cuda", 1)  # another GPU has its own
    wait.set()
    for thread in threads:
        thread.join()
    assert streams.mine(CUDA) in found


@pytest.mark.parametrize("current, taken", [("default", ["own"]), ("a user's", [])])
def test_a_thread_gets_a_stream_where_it_has_none(monkeypatch, current, taken):
    given, asked = [], []
    for name, do in (
        ("synchronize", lambda device: asked.append((device, step.CAPTURING.locked()))),
        ("set_device", asked.append),
        ("current_stream", {CUDA: current}.get),
        ("default_stream", {CUDA: "default"}.get),
        ("set_stream", given.append),
    ):
        monkeypatch.setattr(torch.cuda, name, do)
    monkeypatch.setattr(step, "STREAMS", SimpleNamespace(mine={CUDA: "own"}.get))
    before = switches()
    step.prepare_thread(torch.get_num_threads(), CUDA)
    assert given == taken and switches() == before
    assert asked == [(CUDA, True), CUDA]  # waited for its GPU, while nobody records, and made it current


def test_a_thread_that_trains_takes_numbers_below_1e_38_for_0():
    with step.thread_settings_kept(CPU):
        torch.set_flush_denormal(False)
        step.prepare_thread(torch.get_num_threads(), CPU)
        assert (torch.full((1,), 1e-38) / 1e3).item() == 0


def test_beta_and_noise_are_those_of_the_settings(small):
    one = new_step(small, method="beta-vae", beta=3.5, seed=4)
    assert one.objective.beta() == 3.5
    assert one.noise.initial_seed() == 5  # next to the seed, which the weights take


# ------------------------------------------------------------------------------------ where things lie


def test_a_vae_is_a_beta_vae_with_beta_1_to_the_bit(small):
    both = [new_step(small, method=model, beta=1.0) for model in ("vae", "beta-vae")]
    for one in both * 3:
        one()
    assert all(map(torch.equal, *(one.vae.parameters() for one in both)))
    assert torch.equal(both[0].sums, both[1].sums)


def test_images_on_another_device_than_the_run_are_refused(small):
    small.to("meta")
    with pytest.raises(ValueError, match=r"its images are on meta, the run is on cpu; move them with .*cpu"):
        new_step(small)


def test_a_device_without_a_number_is_that_of_the_images(small, monkeypatch):
    seen, numbered = [], torch.device("cpu", 0)
    monkeypatch.setattr(type(small), "device", numbered)
    monkeypatch.setattr(step, "prepare_thread", lambda threads, device: seen.append(device))
    assert new_step(small).device == numbered and seen == [numbered] and numbered != CPU


def test_images_on_a_device_without_a_number_leave_the_run_its_own(small):
    numbered = torch.device("cpu", 0)
    assert small.device == CPU != numbered and new_step(small, numbered).device == numbered


def test_a_gpu_without_a_number_may_be_any():
    assert step.same_device(torch.device("cuda"), CUDA) and step.same_device(CUDA, torch.device("cuda"))
    assert not step.same_device(CUDA, torch.device("cuda", 1)) and not step.same_device(CUDA, CPU)


@pytest.mark.parametrize("loss", ["fused", "torch"])
def test_on_a_gpu_all_that_an_iteration_works_on_is_there(small, monkeypatch, loss):
    """Tensors without content stand for those of a GPU."""
    made = []

    class Network(torch.nn.Module):
        def __init__(self, shape, latents, network, binary, seed):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(2, device=CUDA))
            made.append(seed)

        def lay_out(self, device):
            made.append(device)

    class Generator(torch.Generator):
        def __new__(cls, device):
            made.append(device)
            return super().__new__(cls)

    def implementation(name, device):
        made.append(device)
        kernels = {"fused": fused, "torch": losses}[name]
        functions = {function: getattr(kernels, function) for function in ("elbo_terms", "lvae_loss")}
        return SimpleNamespace(description=f"elbo: {name}", **functions)

    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(step, "VAE", Network)
    monkeypatch.setattr(step, "prepare_thread", lambda threads, device: made.append(device))
    monkeypatch.setattr(losses, "implementation", implementation)
    # A tensor's [...] asks the GPU's driver, which may not be there.
    monkeypatch.setattr(torch.Tensor, "__getitem__", lambda tensor, place: tensor.select(0, place))
    with FakeTensorMode(allow_non_fake_inputs=True):
        one = new_step(small.to(CUDA), CUDA, "control-vae", loss=loss, precision="tf32", seed=3)
        tensors = [one.rates, one.lr, one.clock, one.sums, one.batches.order, *one.objective.buffers()]
        assert {tensor.device for tensor in tensors} == {CUDA} and len(tensors) == 8
    assert made == [CUDA, CUDA, 3, CUDA, CUDA]  # thread, loss, network and its place, noise
    assert one.description == f"elbo: {loss}, CUDA graph, tf32"
    assert one.optimizer.defaults["capturable"] is True and (one.by_op is not None) == (loss == "fused")


def test_the_settings_reach_network_and_method(small):
    one = new_step(small, method="dynamic-vae", seed=4, iterations=30_000, kp=0.03, kl_target=20.0)
    other = model.VAE(small.shape, small.latents, small.network, small.binary, 4)
    assert all(map(torch.equal, one.vae.parameters(), other.parameters()))
    assert (one.objective.schedule, one.objective.control_settings.kl_target) == (30_000, 20)
    assert one.objective.kp == pytest.approx(0.3) and one.objective.ki == pytest.approx(-0.05)


def test_a_network_computes_with_channels_last(small_images):
    vae, seen = model.VAE((3, 64, 64), 4), []
    vae.encoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    vae.posterior(dataset_of("pixels", small_images).batch(torch.arange(6)))
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in vae.encoder[:10:2])


def test_adams_means_are_laid_out_as_the_weights_of_the_device_they_come_to(small_images):
    """As from a GPU, which has them contiguous, to the CPU: Adam needs one layout for both."""
    dataset = dataset_of("pixels", small_images)
    whole = run_on(new_step(dataset), 4)
    state = whole.state()
    moved = {
        number: {name: value.clone(memory_format=torch.contiguous_format) for name, value in each.items()}
        for number, each in state["optimizer"]["state"].items()
    }
    part = new_step(dataset)
    part.restore({**state, "optimizer": {"state": moved}})
    for weight, moments in part.optimizer.state.items():
        assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == weight.stride()
    assert same(run_on(whole, 3).state(), run_on(part, 3).state())


def test_a_restored_run_takes_the_rates_of_its_iterations(small):
    whole = run_on(new_step(small), 7)
    part = new_step(small)
    part.restore(run_on(new_step(small), 5).state())
    run_on(part, 2)
    rates = [[group["lr"].item() for group in one.optimizer.param_groups] for one in (whole, part)]
    assert rates[0] == rates[1] == whole.rates[6].tolist() and rates[0][0] != whole.rates[4, 0].item()


def test_a_state_of_another_kind_of_device_continues_with_new_noise(small):
    """A GPU's generator has a state of 16 bytes, which a CPU's cannot take."""
    state = run_on(new_step(small, seed=3), 5).state()
    part = new_step(small, seed=3)
    part.restore({**state, "device": "cuda", "noise": torch.zeros(16, dtype=torch.uint8)})
    assert (part.iteration, part.noise.initial_seed()) == (5, 3 + 1 + 5)
    with pytest.raises(ValueError, match="noise"):
        new_step(small).restore({**state, "noise": torch.zeros(16, dtype=torch.uint8)})
    with pytest.raises(ValueError, match="sums"):
        new_step(small).restore({**state, "device": "cuda", "sums": torch.zeros(2, dtype=torch.float64)})


def test_a_run_that_has_not_begun_continues_too(small):
    one, other = new_step(small), new_step(small)
    one.restore(new_step(small).state())
    assert same(run_on(one, 2).state(), run_on(other, 2).state())


def test_a_state_has_its_device_and_an_older_one_without_it_keeps_its_noise(small):
    one, other = run_on(new_step(small), 3), new_step(small)
    state = one.state()
    assert state.pop("device") == "cpu"
    other.restore(state)
    assert torch.equal(other.noise.get_state(), one.noise.get_state())


def test_a_restored_step_warms_up_and_records_again(small):
    one = run_on(new_step(small), 5)
    one.graph = "recorded"
    one.restore(run_on(new_step(small), 2).state())
    assert (one.graph, one.warm, one.iteration, one.clock.item(), one.counted) == (None, 0, 2, 2, 2)


def test_an_optimizer_of_other_weights_is_refused(small):
    state = run_on(new_step(small), 2).state()
    del state["optimizer"]["state"][0]
    with pytest.raises(ValueError, match="Adam's state is not that of 13 weights"):
        new_step(small).restore(state)


# ----------------------------------------------------------------------- what an iteration consists of


def test_adam_is_that_of_section_6_3(small):
    settings = new_step(small).optimizer.defaults
    assert (settings["betas"], settings["eps"], settings["weight_decay"]) == ((0.9, 0.999), 1e-8, 0)
    assert settings["fused"] and not settings["capturable"]  # the latter is for a CUDA graph


def test_every_image_of_a_batch_has_its_own_noise(small):
    logits, mu, _ = new_step(small).forward(small.batch(torch.tensor([7, 7, 7])))
    assert torch.equal(mu[0], mu[1]) and not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("precision, kind", [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_in_bfloat16_where_that_was_asked_for(small, precision, kind):
    one = new_step(small, precision=precision)
    assert {t.dtype for t in one.forward(small.batch(torch.arange(3)))} == {kind}
    assert one.description.startswith("elbo: ") and one.description.endswith("bf16") == (precision == "bf16")


def test_noise_is_drawn_on_the_device_and_the_products_there_are_in_bfloat16(small, monkeypatch):
    asked, randn = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda *n, device, **to: asked.append(device) or randn(*n, **to))
    monkeypatch.setattr(torch, "autocast", lambda *given, **_: nullcontext(asked.extend(given)))
    one = new_step(small, precision="bf16")
    one.device = CUDA
    one.forward(small.batch(torch.arange(3)))
    assert asked == [CUDA, "cuda", torch.bfloat16, True]


@pytest.mark.parametrize("kind, scale", [("bits", 1.0), ("pixels", 1 / 255)])
@pytest.mark.parametrize("method", ["vae", "lvae"])
def test_the_loss_is_of_images_from_0_to_1(kind, scale, method, small_images):
    one = new_step(dataset_of(kind, small_images), method=method, loss="torch")
    x = one.dataset.batch(torch.arange(8))
    logits, mu, logvar = one.forward(x)
    _, rec, _ = one.objective(logits, x, mu, logvar)
    assert rec.item() == pytest.approx((logits.sigmoid() - scale * x).square().sum().item() / 8, rel=1e-5)


def test_the_sums_for_the_log_are_double_and_over_the_iterations_that_are_counted(small):
    one = run_on(new_step(small, method="vae"), 3)
    state = one.state()
    assert (state["sums"].dtype, state["counted"]) == (torch.float64, 3)
    loss, rec, kl = state["sums"].tolist()
    assert loss == pytest.approx(rec + kl, rel=1e-6) and kl > 0


@pytest.mark.parametrize(
    "graph, on_gpu, elsewhere", [("auto", True, False), ("on", True, None), ("off",) + (False,) * 2]
)
def test_a_graph_is_recorded_where_a_gpu_holds_the_images(small, graph, on_gpu, elsewhere):
    one = new_step(small)
    one.config = Config(graph=graph)
    for device, resident in ((CUDA, True), (CUDA, False), (CPU, True)):
        one.device, one.dataset = device, SimpleNamespace(resident=resident)
        expected = on_gpu if device == CUDA and resident else elsewhere
        if expected is None:
            with pytest.raises(ValueError, match="--graph on: expected a GPU whose memory holds the images"):
                one.wants_graph()
        else:
            assert one.wants_graph() is expected


def test_bf16_is_as_much_faster_as_the_best_of_its_products(monkeypatch):
    """Five products of each type; the seconds of the float32 ones first."""
    seconds, sizes, product = [9, 8, 6, 7, 9, 5, 3, 2, 4, 5], [], torch.Tensor.__matmul__
    clock = [time for number, each in enumerate(seconds) for time in (100 * number, 100 * number + each)]
    monkeypatch.setattr(step.time, "perf_counter", lambda: clock.pop(0))
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda *two: sizes.append(two[0].shape) or product(*two))
    assert step.bf16_speed() == 6 / 2 and clock == []
    assert sizes == [(512, 512)] * 10


def test_glibc_keeps_what_an_iteration_frees(monkeypatch):
    """M_MMAP_THRESHOLD above the largest gradient, M_TRIM_THRESHOLD at its most, M_TOP_PAD of 256 MB."""
    calls = {}
    monkeypatch.setattr(step.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=calls.__setitem__))
    for libc, expected in (("glibc", {-3: 2**30, -1: 2**31 - 1, -2: 2**28}), ("", {})):
        calls.clear()
        monkeypatch.setattr(step.platform, "libc_ver", lambda libc=libc: (libc, "2.0"))
        step.keep_freed_memory()
        assert calls == expected


def test_an_iteration_trains_on_the_images_of_its_batch(small):
    one = new_step(small)
    asked, batch = [], small.batch
    one.dataset = SimpleNamespace(batch=lambda index: asked.append(index.tolist()) or batch(index))
    run_on(one, 2)
    again = data.Batches(data.Split.of(len(small)).training, 8, 0)
    again.turn(0)
    assert asked == again.order[:2].tolist()


class Count(TorchDispatchMode):
    """Operations that a GPU would launch kernels for, and the bytes that they read and write."""

    def __init__(self):
        super().__init__()
        self.operations, self.bytes = Counter(), 0

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        result = operation(*given, **(named or {}))
        if not operation.is_view and not str(operation).startswith(("profiler", "aten.stack")):
            self.operations[str(operation)] += 1
            names = [argument.name for argument in operation._schema.arguments]
            arguments = dict(zip(names, given, strict=False)) | (named or {})
            written = [
                arguments.get(argument.name)
                for argument in operation._schema.arguments
                if argument.alias_info and argument.alias_info.is_write
            ]  # in place: read as well
            self.bytes += size(tensors((arguments, result))) + size(tensors(written))
        return result


def size(found):
    return sum(t.numel() * t.element_size() for t in found)


def tensors(value):
    """All tensors in nested containers, each once."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return list({id(t): t for part in value for t in tensors(part)}.values())
    return [value] if isinstance(value, torch.Tensor) else []


def counted(monkeypatch, dataset, method="lvae", **settings):
    if reason := fused.why_not():
        pytest.skip(f"the op is not built: {reason}")
    monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)  # the first layer's product is dense
    one = run_on(new_step(dataset, method=method, **settings), 1)
    with Count() as count:
        one.work()
    monkeypatch.undo()
    return count


# An upper bound: how many were there when it was written. A method's own are in its loss and its controller.
OPERATIONS = {"vae": 57, "beta-vae": 59, "control-vae": 84, "dynamic-vae": 99, "sigma-vae": 80, "lvae": 58}


@pytest.mark.parametrize("method", OBJECTIVES)
def test_an_iteration_of_the_mlp_has_no_more_operations_than_it_had(method, small_images, monkeypatch):
    found = counted(monkeypatch, dataset_of("bits", small_images), method).operations
    assert found.total() <= OPERATIONS[method], found


@pytest.mark.parametrize("precision, most", [("float32", 82), ("bf16", 135)])
def test_an_iteration_of_the_cnn_has_no_more_operations_than_it_had(
    precision, most, small_images, monkeypatch
):
    found = counted(monkeypatch, dataset_of("painted", small_images), precision=precision).operations
    assert found.total() <= most, found
    assert found["aten.convolution.default"] == found["aten.convolution_backward.default"] == 10


def test_an_iteration_of_the_mlp_moves_no_more_bytes_than_it_did(small_images, monkeypatch):
    """Of the paper's network and batch: 510 MB are weights, their gradients and Adam's.

    The rest are images and what layers hand to each other.
    """
    found = counted(monkeypatch, dataset_of("bits", small_images), batch_size=64)
    assert 510e6 < found.bytes < 570e6


def test_the_loss_of_lvae_is_one_operation_each_way(small_images, monkeypatch):
    found = counted(monkeypatch, dataset_of("bits", small_images)).operations
    assert found["lvae.elbo.default"] == found["lvae.scale_.default"] == 1
    assert not any(name.startswith(("aten.sigmoid", "aten.expm1", "aten.mean")) for name in found)
