"""Adam by the ops: what they apply to, and that a run's weights move as with torch's own.

On a CPU the ops are the CUDA source on its host stand-in.
"""

import shutil
from types import SimpleNamespace

import host_kernel
import pytest
import torch
from test_step import CPU, Count, carried, dataset_of, new_step
from torch import nn
from torch.utils import cpp_extension

from lvae_min import adam, fused, model
from lvae_min.products import Linear, PixelLinear

# The MLP; the CNN, whose weights are channels_last. How far gradients may be off, of the largest.
RUNS = [
    ("bits", "float32", 1e-5),
    ("bits", "tf32", 2e-3),
    ("bits", "bf16", 2e-2),
    ("painted", "float32", 1e-5),
    ("painted", "tf32", 5e-3),
    ("painted", "bf16", 3e-2),
]


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """The ops on a CPU, as long as these tests run: of csrc/, but for the device and its stream."""
    if shutil.which("g++") is None or fused.why_not():
        pytest.skip("no compiler for the op")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", fused._path())  # where ninja is
        cpp_extension.load(
            "lvae_on_host",
            [str(host_kernel.TESTS / "ops_on_host.cpp")],
            build_directory=str(tmp_path_factory.mktemp("ops")),
            extra_cflags=["-std=c++20", "-O1", "-DLVAE_MAX_BLOCKS=4"],
            extra_include_paths=[str(fused.CSRC), str(host_kernel.TESTS)],
            is_python_module=False,
        )
    library = torch.library.Library("lvae", "IMPL")
    for name in ("adam_", "layer_"):
        library.impl(name, getattr(torch.ops.lvae_on_host, name).default, "CPU")
    yield
    library._destroy()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    if request.param == "cpu":
        request.getfixturevalue("on_host")
        return CPU
    if reason := fused.why_not("cuda"):
        pytest.fail(f"the op is not built for CUDA: {reason}")
    return torch.device("cuda", 0)


@pytest.fixture
def small_network(device, monkeypatch):
    """On a CPU, a small MLP whose first product is dense, as on a GPU."""
    if device == CPU:
        monkeypatch.setattr(model, "HIDDEN", 32)
        monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)


def made(kind, precision, device, small_images, graph="off"):
    dataset = dataset_of(kind, small_images).to(device)
    one = new_step(dataset, device, precision=precision, graph=graph, iterations=60)
    assert (one.by_op is not None) == (device != CPU)
    if device == CPU:
        one.use_ops()
    return one


def weights_of(one):
    return [weight for group in one.optimizer.param_groups for weight in group["params"]]


def state_of(one):
    """Of each weight: itself, exp_avg and exp_avg_sq in float64, and the number of updates."""
    rows = []
    for weight in weights_of(one):
        state = one.optimizer.state[weight]
        wide = [tensor.detach().double() for tensor in (weight, state["exp_avg"], state["exp_avg_sq"])]
        rows.append([*wide, state["step"].item()])
    return rows


def refuse(*_):
    raise AssertionError("torch's Adam, not the op")


def check_updates(one, other, updates, off):
    """Moments follow the gradients that `other` has by autograd, and weights follow the moments."""
    other.by_op, other.network = None, other.vae
    one.optimizer.step = refuse
    for _ in range(updates):
        before = state_of(one)
        other.restore(carried(one.state()))
        one()
        other()
        gradients = [weight.grad.double() for weight in weights_of(other)]
        rates = [group["lr"].item() for group in one.optimizer.param_groups for _ in group["params"]]
        for old, new, gradient, rate in zip(before, state_of(one), gradients, rates, strict=True):
            (weight, mean, square, count), (moved, new_mean, new_square, updated) = old, new
            assert updated == count + 1
            most = gradient.abs().max().item() + 1e-30
            expected = mean + 0.1 * (gradient - mean)
            assert (
                new_mean - expected
            ).abs().max().item() <= 0.1 * off * most + 1e-6 * mean.abs().max().item()
            expected = square + 0.001 * (gradient.square() - square)
            error = (new_square - expected).abs().max().item()
            assert error <= 0.001 * 3 * off * most**2 + 1e-6 * square.max().item()
            step = new_mean / (1 - 0.9**updated) / ((new_square / (1 - 0.999**updated)).sqrt() + 1e-8)
            assert (moved - (weight - rate * step)).abs().max().item() <= 2e-6 * (
                rate + weight.abs().max().item()
            )


@pytest.mark.parametrize("graph", ["off", "on"])
@pytest.mark.parametrize("kind, precision, off", RUNS)
def test_weights_move_as_with_torchs_adam(kind, precision, off, graph, device, small_images, small_network):
    if device == CPU and graph == "on":
        pytest.skip("a CPU has no CUDA graph")
    one, other = (made(kind, precision, device, small_images, graph) for _ in range(2))
    one()  # by torch, which makes the state
    check_updates(one, other, 8 if graph == "on" else 3, off)
    assert (one.graph is not None) == (graph == "on")
    assert all(weight.grad is None for _, layer in one.by_op.layers for weight in layer.parameters())
    assert one.by_op.tf32 == (precision == "tf32")
    copies = one.by_op.copies
    assert len(copies) == (len(list(one.vae.parameters())) if precision == "bf16" else 0)
    assert all(torch.equal(copy, weight.bfloat16()) for weight, copy in copies.items())


@pytest.mark.parametrize("offset", [0, 1])
def test_ops_move_weights_of_every_size_as_adam_in_float64_does(offset, device):
    """Also with more images than a block sums up at a time, which no run of these tests has."""
    ops = host_kernel.Ops(device)
    for half in (False, True):
        host_kernel.check_adam(ops, offset, half)
    host_kernel.check_layers(ops, offset)


def test_a_run_of_torchs_adam_is_continued(device, small_images, small_network):
    first, second, third = (made("bits", "float32", device, small_images) for _ in range(3))
    first.by_op = None
    for _ in range(6):
        first()
    second.restore(carried(first.state()))
    check_updates(second, third, 3, 1e-5)
    assert carried(second.state())["optimizer"].keys() == carried(first.state())["optimizer"].keys()


def test_a_run_in_bfloat16_goes_on_from_the_weights_that_are_restored(device, small_images, small_network):
    first, second = (made("bits", "bf16", device, small_images) for _ in range(2))
    for _ in range(3):
        first()
    second.restore(carried(first.state()))
    first()
    second()
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_products_in_bfloat16_are_those_of_autocast(device, small_images, small_network):
    one = made("bits", "bf16", device, small_images)
    one.by_op.refresh()
    x = one.dataset.batch(torch.arange(8, device=device))
    state = one.noise.get_state()
    ours = one.forward(x)
    one.network = one.vae
    one.noise.set_state(state)
    assert all(map(torch.equal, ours, one.forward(x)))


@pytest.mark.parametrize("precision, most", [("float32", (50, 80)), ("bf16", (60, 90))])
@pytest.mark.parametrize("kind", ["bits", "painted"])
def test_an_iteration_by_the_ops_has_no_more_operations_than_it_had(
    kind, precision, most, small_images, on_host, monkeypatch
):
    monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)
    monkeypatch.setattr(model, "HIDDEN", 32)
    one = made(kind, precision, CPU, small_images)
    one()
    with Count() as count:
        one.work()
    found = count.operations
    assert found.total() <= most[kind == "painted"], found
    assert found["lvae.layer_.default"] == len(one.by_op.layers)
    assert found["lvae.adam_.default"] == (2 if precision == "bf16" and kind == "painted" else 1)


# -------------------------------------------------------------------- what the ops are for


class Net(nn.Module):
    """A layer of each kind."""

    def __init__(self):
        super().__init__()
        self.first, self.last = PixelLinear(6, 5), Linear(5, 4)
        self.convolution = nn.Conv2d(4, 3, 2)
        with torch.no_grad():
            for number, weight in enumerate(self.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))

    def forward(self, x):
        return self.convolution(self.last(self.first(x)).view(-1, 4, 1, 1).expand(-1, -1, 2, 2))


def small_optimizer(updates=1, by_torch=False, **settings):
    """Adam by the ops for a small network and a number of its own, as sigma is, after `updates`.

    With `by_torch` the ops apply to nothing.
    """
    net, sigma = Net(), torch.ones((), requires_grad=True)
    groups = [{"params": list(net.parameters())}, {"params": [sigma]}]
    usual = {"lr": torch.tensor(1e-2), "fused": True}
    optimizer = torch.optim.Adam(groups, **{**usual, **settings})
    by_op = adam.ByOp(optimizer, net, net)
    if by_torch:
        by_op.row = lambda *_: None
    for _ in range(updates):
        iteration(by_op, net, sigma)
    return by_op, net, sigma


def iteration(by_op, net, sigma):
    by_op.optimizer.zero_grad()
    with by_op.updating():
        result = net(torch.arange(18.0).view(3, 6) / 18)
    (result.square().sum() * sigma).backward()
    by_op.finish()


def watched(by_op):
    """Which weights torch's Adam is given from now on."""
    given, step = [], by_op.optimizer.step

    def watch():
        given.append([id(weight) for weight in by_op.groups() if weight.grad is not None])
        step()

    by_op.optimizer.step = watch
    return given


def test_the_first_update_is_torchs_and_the_next_ones_are_the_ops(on_host):
    by_op, net, sigma = small_optimizer(updates=0)
    given = watched(by_op)
    for _ in range(3):
        iteration(by_op, net, sigma)
    assert given == [[id(weight) for weight in by_op.groups()]]
    assert {state["step"].item() for state in by_op.optimizer.state.values()} == {3}


def otherwise_laid_out(by_op, net, sigma):
    def turn(weight):
        weight.grad = weight.grad.transpose(0, 1).contiguous().transpose(0, 1)

    net.convolution.weight.register_post_accumulate_grad_hook(turn)
    return [net.convolution.weight]


def with_gaps(by_op, net, sigma):
    net.last.bias.data = torch.ones(8)[::2]
    for name in ("exp_avg", "exp_avg_sq"):
        by_op.optimizer.state[net.last.bias][name] = torch.ones(8)[::2]
    return [net.last.bias]


def transposed(by_op, net, sigma):
    """Dense, but not row by row: the layer is none for layer_, its weight is one for adam_."""
    state = by_op.optimizer.state[net.last.weight]
    net.last.weight.data = net.last.weight.data.t().contiguous().t()
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = state[name].t().contiguous().t()
    return []


def without_state(by_op, net, sigma):
    del by_op.optimizer.state[sigma]
    return [sigma]


def with_a_decay(by_op, net, sigma):
    by_op.optimizer.param_groups[0]["weight_decay"] = 0.1
    return list(net.parameters())


def with_a_decay_after_it_was_restored(by_op, net, sigma):
    by_op.optimizer.load_state_dict(by_op.optimizer.state_dict())  # makes new groups
    return with_a_decay(by_op, net, sigma)


def with_a_rate_on_the_host(by_op, net, sigma):
    by_op.optimizer.param_groups[1]["lr"] = 1e-3
    return [sigma]


CHANGES = [
    otherwise_laid_out,
    with_gaps,
    transposed,
    without_state,
    with_a_decay,
    with_a_decay_after_it_was_restored,
    with_a_rate_on_the_host,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_ops_are_not_for_is_left_to_torch(change, on_host):
    by_op, net, sigma = small_optimizer()
    twin, its_net, its_sigma = small_optimizer(by_torch=True)
    left, given = change(by_op, net, sigma), watched(by_op)
    change(twin, its_net, its_sigma)
    iteration(by_op, net, sigma)
    iteration(twin, its_net, its_sigma)
    assert given == ([[id(weight) for weight in left]] if left else [])
    for weight, expected in zip(by_op.groups(), twin.groups(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-7)
        counts = [each.optimizer.state[own]["step"] for each, own in ((by_op, weight), (twin, expected))]
        assert counts[0] == counts[1]


def test_weights_that_do_not_learn_stay(on_host):
    by_op, net, sigma = small_optimizer()
    still = [net.convolution.weight, net.last.weight, net.first.bias]
    before = [weight.requires_grad_(False).clone() for weight in still]
    iteration(by_op, net, sigma)
    assert all(map(torch.equal, still, before))
    steps = {weight: state["step"].item() for weight, state in by_op.optimizer.state.items()}
    assert all(
        count == (1 if any(weight is each for each in still) else 2) for weight, count in steps.items()
    )


def test_a_second_update_before_the_first_is_finished_is_refused(on_host):
    by_op, net, sigma = small_optimizer()
    x = torch.ones(3, 6)
    with by_op.updating():
        loss, other = net(x).sum(), net(x).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()
    with (
        pytest.raises(RuntimeError, match="the last iteration was not finished; restore a state"),
        by_op.updating(),
    ):
        pass
    layer, (weight, bias) = (
        net.last,
        (by_op.row(own, by_op.optimizer.param_groups[0]) for own in net.last.parameters()),
    )
    with pytest.raises(RuntimeError, match="a second update of a layer"):
        by_op.update(False, weight, bias, torch.ones(3, 5), torch.ones(3, 4))
    assert layer.update is None


def test_another_gradient_of_an_updated_weight_is_refused_and_not_dropped(on_host):
    by_op, net, sigma = small_optimizer()
    by_op.optimizer.zero_grad()
    with by_op.updating():
        loss = net(torch.ones(3, 6)).sum()
    (loss + net.last.weight.square().sum()).backward()
    with pytest.raises(RuntimeError, match="has another gradient as well"):
        by_op.finish()


def moments(*size):
    return [torch.ones(size) for _ in range(3)]


ONE = torch.ones(())  # a step, a rate
LAYER = {"rows": torch.ones(7, 3), "columns": torch.ones(7, 2), "bias_of_rows": True, "tensor_cores": False}
BAD_LAYERS = [
    ({"rows": torch.ones(7)}, "two contiguous matrices of as many rows"),
    ({"rows": torch.ones(6, 3)}, "two contiguous matrices of as many rows"),
    ({"columns": torch.ones(2, 7).t()}, "two contiguous matrices of as many rows"),
    ({"columns": torch.ones(7, 2).bfloat16()}, "of one type"),
    ({"rows": torch.ones(7, 3).double(), "columns": torch.ones(7, 2).double()}, "float32 or bfloat16"),
    ({"weight": [*moments(3, 2), ONE]}, "5 or 6 tensors"),
    ({"weight": [*moments(2, 2), ONE, ONE]}, "not of the size of the product"),
    ({"weight": [*moments(3, 2), ONE, ONE, torch.ones(3, 2)]}, "6 numbers of bfloat16"),
    ({"weight": [torch.ones(3, 2).double(), *moments(3, 2)[1:], ONE, ONE]}, "6 numbers of float32"),
    ({"weight": [torch.ones(3, 2), torch.ones(3, 1), torch.ones(3, 2), ONE, ONE]}, "6 numbers of float32"),
    ({"weight": [*moments(3, 2), torch.ones(2), ONE]}, "1 numbers of float32"),
    ({"weight": [torch.ones(3, 4)[:, ::2], *moments(3, 2)[1:], ONE, ONE]}, "must have no gaps"),
    ({"bias": [*moments(2), ONE, ONE]}, "or the bias of its side"),
    ({"bias": []}, "5 or 6 tensors"),
]


@pytest.mark.parametrize("change, reason", BAD_LAYERS)
def test_what_the_layers_op_would_read_out_of_bounds_is_refused(change, reason, on_host):
    given = {**LAYER, "weight": [*moments(3, 2), ONE, ONE], "bias": [*moments(3), ONE, ONE], **change}
    before = [each.clone() for each in given["weight"]]
    with pytest.raises(RuntimeError, match=reason):
        torch.ops.lvae.layer_(*given.values())
    assert all(map(torch.equal, given["weight"], before))


ADAM = ("weights", "gradients", "exp_avgs", "exp_avg_sqs", "steps", "rates", "copies", "done")
BAD_LISTS = [
    *(({name: []}, "lists must have one length") for name in ADAM[1:6]),
    ({"copies": [torch.ones(2).bfloat16()] * 2}, "a copy of every weight or none"),
    ({"gradients": [torch.ones(2).bfloat16()], "copies": [torch.ones(2)]}, "2 numbers of bfloat16"),
    ({"copies": [torch.ones(2).bfloat16()]}, "2 numbers of bfloat16"),  # the gradient is that of the copy
    ({"gradients": [torch.ones(2).double()]}, "2 numbers of float32"),
    ({"exp_avgs": [torch.ones(1)]}, "2 numbers of float32"),
    ({"exp_avg_sqs": [torch.ones(4)[::2]]}, "must have no gaps"),
    ({"steps": [torch.ones(2)]}, "1 numbers of float32"),
    ({"rates": [torch.ones(2)]}, "1 numbers of float32"),
    ({"done": [torch.ones(2)]}, "1 numbers of float32"),
]


@pytest.mark.parametrize("change, reason", BAD_LISTS)
def test_what_adams_op_would_read_out_of_bounds_is_refused(change, reason, on_host):
    given = {name: [torch.ones(2)] for name in ADAM[:4]} | {"steps": [ONE], "rates": [ONE]}
    given = {**given, "copies": [], "done": [], **change}
    with pytest.raises(RuntimeError, match=reason):
        torch.ops.lvae.adam_(*given.values())
    assert torch.equal(given["weights"][0], torch.ones(2))


def test_an_iteration_that_failed_is_not_repeated(on_host, monkeypatch):
    by_op, net, sigma = small_optimizer()

    def fail(*_):
        raise MemoryError

    op = torch.ops.lvae.adam_
    monkeypatch.setattr(torch.ops.lvae, "adam_", SimpleNamespace(default=fail))
    with pytest.raises(MemoryError):
        iteration(by_op, net, sigma)
    monkeypatch.setattr(torch.ops.lvae, "adam_", op)
    with pytest.raises(RuntimeError, match="not finished; restore a state"):
        iteration(by_op, net, sigma)


def test_a_run_goes_on_from_a_state_that_is_restored_after_a_failure(on_host, small_images, monkeypatch):
    monkeypatch.setattr(model, "HIDDEN", 32)
    first, second = (made("bits", "float32", CPU, small_images) for _ in range(2))
    for _ in range(2):
        first()
        second()
    state = carried(second.state())
    monkeypatch.setattr(second.by_op, "finish", refuse)
    with pytest.raises(AssertionError):
        second()
    monkeypatch.undo()
    monkeypatch.setattr(model, "HIDDEN", 32)
    second.restore(state)
    first()
    second()
    assert all(map(torch.equal, first.vae.parameters(), second.vae.parameters()))


def test_the_input_of_an_updated_layer_gets_its_gradient(on_host):
    by_op, net, _ = small_optimizer()
    x = torch.rand(3, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x).square().sum(), x)
    with by_op.updating():
        result = net(x)
    result.square().sum().backward()
    torch.testing.assert_close(x.grad, expected)


def test_only_an_iteration_updates_weights(on_host):
    by_op, net, sigma = small_optimizer()
    before = [weight.detach().clone() for weight in net.parameters()]
    with pytest.raises(ZeroDivisionError), by_op.updating():
        assert net.first.update and net.last.update
        raise ZeroDivisionError
    net(torch.ones(3, 6)).sum().backward()
    assert all(map(torch.equal, net.parameters(), before)) and net.first.weight.grad is not None


def test_strides_of_single_elements_and_the_order_of_dimensions_do_not_count(on_host):
    weight = torch.ones(2, 4, 4, 1).permute(
        0, 3, 1, 2
    )  # strides (16, 1, 4, 1), of a plain one (16, 16, 4, 1)
    assert weight.stride() != torch.ones(2, 1, 4, 4).stride()
    assert adam.layout(weight) == adam.layout(torch.ones(2, 1, 4, 4))
    assert adam.dense(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
    assert not adam.dense(torch.ones(2, 1).expand(2, 3))


def test_backward_through_weights_that_have_moved_is_refused(on_host):
    by_op, net, sigma = small_optimizer()
    kept = [(weight * weight).sum() for weight in (net.first.weight, net.convolution.weight)]
    iteration(by_op, net, sigma)
    for loss in kept:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
