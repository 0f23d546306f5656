"""Adam by the op: what it applies to, and that a run's weights move as with torch's own.

On a CPU the op is the CUDA source on its host stand-in.
"""

import shutil

import host_kernel
import pytest
import torch
from test_step import CPU, carried, dataset_of, new_step

from lvae_min import adam, fused, model, step

NETWORKS = [("bits", "float32"), ("painted", "tf32")]  # the MLP; the CNN, whose weights are channels_last


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """The op on a CPU, as long as these tests run."""
    if shutil.which("g++") is None or fused.why_not():
        pytest.skip("no compiler for the op")
    kernel = host_kernel.HostKernel(host_kernel.build(tmp_path_factory.mktemp("kernel")))
    library = torch.library.Library("lvae", "IMPL")
    library.impl("adam_", lambda *lists: kernel.adam(list(zip(*lists, strict=True))), "CPU")
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


def made(kind, precision, device, small_images, graph="off"):
    dataset = dataset_of(kind, small_images).to(device)
    return new_step(dataset, device, precision=precision, graph=graph, iterations=60)


def weights_of(one):
    return [weight for group in one.optimizer.param_groups for weight in group["params"]]


def shadow(one):
    """torch's Adam in the same state, for copies of the weights."""
    copies = {weight: weight.detach().clone().requires_grad_() for weight in weights_of(one)}
    groups = [
        {**group, "params": [copies[weight] for weight in group["params"]]}
        for group in one.optimizer.param_groups
    ]
    other = torch.optim.Adam(groups)
    for weight, copy in copies.items():
        other.state[copy] = {name: value.clone() for name, value in one.optimizer.state[weight].items()}
    return other


def refuse(*_):
    raise AssertionError("torch's Adam, not the op")


def run_both(one, iterations):
    """Iterations by the op, and their gradients to torch's Adam as well: weights and moments agree."""
    other, one.optimizer.step = shadow(one), refuse
    copies = [copy for group in other.param_groups for copy in group["params"]]
    for _ in range(iterations):
        one()
        for weight, copy in zip(weights_of(one), copies, strict=True):
            copy.grad = weight.grad
        other.step()
    for weight, copy in zip(weights_of(one), copies, strict=True):
        torch.testing.assert_close(weight, copy, rtol=1e-6, atol=1e-7)
        ours, theirs = one.optimizer.state[weight], other.state[copy]
        assert ours["step"].item() == theirs["step"].item()
        # torch's kernel takes 1 - beta2 from the float32 of beta2, which is off by 1.3e-5 of it.
        for name, rtol in (("exp_avg", 1e-5), ("exp_avg_sq", 5e-5)):
            atol = 1e-6 * theirs[name].abs().max().item()
            torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("graph", ["off", "on"])
@pytest.mark.parametrize("kind, precision", NETWORKS)
def test_weights_move_as_with_torchs_adam(kind, precision, graph, device, small_images, monkeypatch):
    if device == CPU:
        if graph == "on":
            pytest.skip("a CPU has no CUDA graph")
        monkeypatch.setattr(model, "HIDDEN", 32)
    one = made(kind, precision, device, small_images, graph)
    assert one.by_op == (device != CPU)
    one.by_op = True
    one()  # by torch, which makes the state
    run_both(one, 50 if device.type == "cuda" else 5)
    assert (one.graph is not None) == (graph == "on")


@pytest.mark.parametrize("graph", ["off", "on"])
def test_a_run_of_torchs_adam_is_continued(graph, device, small_images, monkeypatch):
    if device == CPU:
        if graph == "on":
            pytest.skip("a CPU has no CUDA graph")
        monkeypatch.setattr(model, "HIDDEN", 32)
    first, second = (made("bits", "float32", device, small_images, graph) for _ in range(2))
    first.by_op, second.by_op = False, True
    for _ in range(6):
        first()
    second.restore(carried(first.state()))
    assert adam.arguments(second.optimizer) is None  # no gradients yet
    run_both(second, 8 if device.type == "cuda" else 3)
    assert carried(second.state())["optimizer"].keys() == carried(first.state())["optimizer"].keys()


def small_optimizer(device=CPU, **settings):
    weights = [
        torch.ones(3, 5, device=device),
        torch.ones(2, 1, 4, 4, device=device),
        torch.ones(2, device=device),
    ]
    weights = [weight.requires_grad_() for weight in weights]
    usual = {"lr": torch.tensor(1e-3, device=device), "fused": True, "capturable": device.type == "cuda"}
    optimizer = torch.optim.Adam(weights, **{**usual, **settings})
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return optimizer, weights


def test_the_op_gets_what_has_a_gradient():
    optimizer, weights = small_optimizer()
    weights[0].grad = None
    lists = adam.arguments(optimizer)
    state = [optimizer.state[weight] for weight in weights[1:]]
    expected = [
        weights[1:],
        [weight.grad for weight in weights[1:]],
        *([each[name] for each in state] for name in ("exp_avg", "exp_avg_sq", "step")),
        [optimizer.param_groups[0]["lr"]] * 2,
    ]
    for given, wanted in zip(lists, expected, strict=True):
        assert [id(each) for each in given] == [id(each) for each in wanted]


def otherwise_laid_out(optimizer, weights):
    weights[0].grad = torch.ones(5, 3).t()


def with_gaps(optimizer, weights):
    tensors = (
        weights[2].data,
        weights[2].grad,
        *(optimizer.state[weights[2]][f"exp_avg{s}"] for s in ("", "_sq")),
    )
    wide = [torch.ones(4)[::2] for _ in tensors]
    weights[2].data, weights[2].grad = wide[:2]
    optimizer.state[weights[2]].update(exp_avg=wide[2], exp_avg_sq=wide[3])


def without_state(optimizer, weights):
    del optimizer.state[weights[2]]


def without_gradients(optimizer, weights):
    optimizer.zero_grad()


def with_a_decay(optimizer, weights):
    optimizer.param_groups[0]["weight_decay"] = 0.1


def with_a_rate_on_the_host(optimizer, weights):
    optimizer.param_groups[0]["lr"] = 1e-3


CHANGES = [
    otherwise_laid_out,
    with_gaps,
    without_state,
    without_gradients,
    with_a_decay,
    with_a_rate_on_the_host,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_op_is_not_for_is_left_to_torch(change):
    optimizer, weights = small_optimizer()
    assert adam.arguments(optimizer) is not None
    change(optimizer, weights)
    calls, optimizer.step = [], lambda: calls.append(1)
    adam.step(optimizer)
    assert calls == [1]


def test_strides_of_single_elements_and_the_order_of_dimensions_do_not_count():
    optimizer, weights = small_optimizer()
    weights[1].grad = torch.ones(2, 4, 4, 1).permute(
        0, 3, 1, 2
    )  # (16, 1, 4, 1), the weight's are (16, 16, 4, 1)
    assert weights[1].grad.stride() != weights[1].stride() and adam.arguments(optimizer) is not None
    assert adam.dense(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
    assert not adam.dense(torch.ones(2, 1).expand(2, 3))


def test_backward_through_weights_that_have_moved_is_refused(on_host):
    optimizer, weights = small_optimizer()
    loss = (weights[0] * weights[0]).sum()
    optimizer.step = refuse
    adam.step(optimizer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_cpu_keeps_torchs_adam(small_images):
    assert not made("bits", "float32", CPU, small_images).by_op
    assert step.adam is adam
