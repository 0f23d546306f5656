"""The fused op equals its PyTorch twin, joins PyTorch properly, and is never in the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from host_kernel import HALF_LATENTS, NAMES, TYPES, assert_close, inputs

from lvae_min import fused, losses, runs

ROOT = Path(__file__).resolve().parent.parent
# Lanes are 64, a block 1024 and a chunk 4096 elements; two threads share the work from 9 chunks on.
SIZES = [
    (1, 1),
    (1, 63),
    (1, 64),
    (1, 65),
    (5, 205),
    (1, 1023),
    (1, 1024),
    (1, 1025),
    (3, 1365),
    (1, 4096),
    (1, 4097),
    (7, 1999),
    (2, 36_864),
    (37, 1009),
]

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
EVERY = [*TYPES, *HALF_LATENTS]


def named(types):
    return "-".join(str(kind)[6:] for kind in types)


@pytest.fixture(autouse=True)
def built(request):
    kind = "cuda" if "cuda" in request.keywords else "cpu"
    if "unbuilt" not in request.keywords and not fused.available(kind):
        pytest.skip(f"the op is not built: {fused.why_not(kind)}")


def placed(tensor, device, offset=0):
    """The tensor on a device, its strides kept, and so many elements off the start of its memory."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = torch.empty(extent + offset, dtype=tensor.dtype, device=device)[offset:]
    return memory.as_strided(tensor.shape, tensor.stride(), memory.storage_offset()).copy_(tensor)


def placed_all(arguments, device, offset=0):
    """Arguments of the loss on a device, logits and x off the start of their memory."""
    return [placed(t, device, offset * (number < 2)) for number, t in enumerate(arguments)]


def to_cpu(found):
    return {name: value.cpu() for name, value in found.items()}


def results(arguments, module=fused, scale=None, weight=1.0):
    """The three results and the four gradients of `weight` times the loss, by name."""
    logits, x, mu, logvar, sigma = arguments
    leaves = [t.detach().requires_grad_() for t in (logits, mu, logvar, sigma)]
    out = module.lvae_loss(leaves[0], x, *leaves[1:], scale)
    return dict(zip(NAMES, (*out, *torch.autograd.grad(out[0] * weight, leaves)), strict=True))


def plain(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("types", EVERY, ids=named)
@pytest.mark.parametrize("n, d", SIZES)
def test_fused_loss_is_as_accurate_as_the_reference(n, d, types):
    arguments = inputs(n, d, 3, *types)
    assert_close(results(arguments), arguments)


@pytest.mark.parametrize("at", [100.0, -100.0, 30.0, -30.0, 17.0, 0.0])
def test_huge_logits_and_variances_stay_as_accurate_as_the_reference(at):
    for spread in (0.0, 1.0):
        logits, x, mu, logvar, sigma = inputs(5, 205, 7)
        arguments = logits * spread + at, x, 10 * mu, logvar * spread + at * 0.3, sigma
        assert_close(results(arguments), arguments)


@pytest.mark.parametrize("logvar", [87.0, 89.2, 150.0, 1e4, -59.0, -61.0, -95.0, -1e4])
def test_variances_beyond_the_range_of_single_give_what_the_reference_gives(logvar):
    logits, x, mu, _, sigma = inputs(1, 3)
    arguments = logits, x, mu, torch.full_like(mu, logvar), sigma
    ours, theirs = (results(arguments, module) for module in (fused, losses))
    for name in ("kl", "d_logvar"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=0)


def test_a_saturated_pixel_keeps_its_digits():
    logits, x = torch.full((1, 64), 20.0), torch.full((1, 64), 255, dtype=torch.uint8)
    rec = fused.elbo_terms(logits, x, torch.zeros(1, 1), torch.zeros(1, 1))[0].double()
    exact = 64 * torch.tensor(-20.0, dtype=torch.float64).sigmoid() ** 2
    assert abs(rec / exact - 1) < 1e-6  # the twin has 1 - sigmoid(20) = 0 of 2e-9


@pytest.mark.parametrize("sigma", [[0.1003, 0.0997], [0.0997, 0.1003], [-1.25, 1e-30]])
def test_a_weight_is_bounded_where_the_reference_bounds_it(sigma):
    arguments = *inputs(3, 37, dtype=torch.float64)[:4], torch.tensor(sigma, dtype=torch.float64)
    assert_close(results(arguments), arguments)


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.34, 0.36])
def test_kl_is_never_negative_near_a_collapse(size):
    image, mu = torch.zeros(1, 1), torch.zeros(1, 1)
    for logvar in size * torch.linspace(-1, 1, 100):
        kl = fused.elbo_terms(image, image, mu, logvar.view(1, 1))[1].double()
        v = logvar.double()
        exact = 0.5 * (v.expm1() - v) if size > 1e-4 else v.square() / 4 * (1 + v / 3)  # v^2/4 + v^3/12
        assert kl >= 0 and abs(kl - exact) <= 2e-6 * exact + 1e-45


NAN_OF_A_GPU = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)[0]


@pytest.mark.parametrize("value", [float("nan"), NAN_OF_A_GPU, float("inf")])
def test_what_is_not_finite_is_seen_in_the_loss(value):
    for which in (0, 2, 3, 4):
        arguments = [t.clone() for t in inputs(3, 37)]
        arguments[which].view(-1)[-1] = value
        ours, theirs = (results(arguments, module)["loss"] for module in (fused, losses))
        assert torch.equal(ours.isfinite(), theirs.isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_loss_is_the_same_to_the_bit_for_any_number_of_threads(dtype):
    arguments, before = inputs(37, 3001, 300, dtype), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results(arguments)
        for threads in (2, 3, 7, 1):
            torch.set_num_threads(threads)
            given = results(arguments)
            assert all(torch.equal(alone[name], given[name]) for name in NAMES)
    finally:
        torch.set_num_threads(before)


LAST = torch.channels_last
LAYOUTS = {  # of images (4, 3, 8, 10): how logits and x lie in memory
    "channels_last": (lambda t: t.to(memory_format=LAST), lambda t: t),
    "both channels_last": (lambda t: t.to(memory_format=LAST),) * 2,
    "transposed": (lambda t: t.transpose(2, 3).contiguous().transpose(2, 3), lambda t: t),
    "every other column": (lambda t: t.repeat(1, 1, 1, 2)[..., ::2],) * 2,
    "one image expanded": (lambda t: t[:1].expand(4, 3, 8, 10),) * 2,
    "half a batch": (lambda t: t.repeat(2, 1, 1, 1)[1::2], lambda t: t),
    "all but the first": (lambda t: torch.cat([t[:1], t])[1:],) * 2,
    "off alignment": (lambda t: placed(t, t.device, 1),) * 2,
    "logits off alignment": (lambda t: placed(t, t.device, 1), lambda t: t),
    "pixels off alignment": (lambda t: t, lambda t: placed(t, t.device, 1)),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("what", LAYOUTS)
def test_strided_inputs_give_what_contiguous_ones_do(what, device):
    images = plain(4, 3, 8, 10, dtype=torch.float32).to(device)
    bytes_ = (torch.arange(960, device=device).view(4, 3, 8, 10) % 256).to(torch.uint8)
    logits, x = (lay(t) for lay, t in zip(LAYOUTS[what], (images, bytes_), strict=True))
    mu, logvar = plain(4, 12, dtype=torch.float32).to(device)[:, ::2].chunk(2, dim=1)
    sigma = torch.tensor([1.2, 9.0, 0.8], device=device)[::2]
    given = results((logits, x, mu, logvar, sigma))
    expected = results([t.contiguous() for t in (logits, x, mu, logvar, sigma)])
    for name in NAMES:
        torch.testing.assert_close(given[name], expected[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weight", [3.0, -0.1])
def test_gradients_follow_the_incoming_gradient(weight, device):
    arguments = placed_all(inputs(7, 1999), device)
    ours, theirs = (results(arguments, module, weight=weight) for module in (fused, losses))
    for name in NAMES[3:]:
        atol = 1e-6 * theirs[name].abs().max().item()
        torch.testing.assert_close(ours[name], theirs[name], rtol=2e-6, atol=atol)


@pytest.mark.parametrize("device", DEVICES)
def test_both_terms_carry_their_own_gradient(device):
    logits, x, mu, logvar, _ = placed_all(inputs(5, 205), device)
    found = []
    for module in (fused, losses):
        leaves = [t.detach().requires_grad_() for t in (logits, mu, logvar)]
        rec, kl = module.elbo_terms(leaves[0], x, *leaves[1:])
        found.append(torch.autograd.grad(2 * rec - 5 * kl, leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * theirs.abs().max().item())


def test_a_term_that_is_not_used_moves_nothing():
    logits, x, mu, logvar, _ = (t.detach() for t in inputs(5, 205))
    leaves = [t.requires_grad_() for t in (logits, mu, logvar)]
    rec, kl = fused.elbo_terms(leaves[0], x, *leaves[1:])
    assert torch.autograd.grad(kl, leaves, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(rec, leaves, allow_unused=True)[1:] == (None, None)


def test_dsprites_pixels_are_zero_and_one():
    arguments = list(inputs(5, 205))
    arguments[1] = arguments[1] % 2
    ours, theirs = (results(arguments, module, scale=1.0) for module in (fused, losses))
    torch.testing.assert_close(ours["loss"], theirs["loss"])


# ------------------------------------------------------------------------------------------------ in PyTorch


@pytest.mark.parametrize("pixel", [torch.uint8, torch.float64])
def test_fused_gradients_match_finite_differences(pixel):
    logits, x, mu, logvar, sigma = inputs(2, 7, 3, torch.float64, pixel)
    leaves = [t.detach().clone().requires_grad_() for t in (logits, mu, logvar, sigma)]
    assert torch.autograd.gradcheck(lambda y, m, v, s: fused.lvae_loss(y, x, m, v, s)[0] / 3, leaves)
    assert torch.autograd.gradcheck(lambda y, m, v: fused.elbo_terms(y, x, m, v), leaves[:3])
    registered = torch.ops.lvae.elbo  # the way of torch.compile
    assert torch.autograd.gradcheck(lambda y, m, v, s: registered(y, x, m, v, s, 0.1, True)[0] / 3, leaves)
    assert torch.autograd.gradcheck(lambda y, m, v: registered(y, x, m, v, None, 0.1, True)[1:3], leaves[:3])


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.14's opcheck reads it, and hides that
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("with_sigma", [True, False])
def test_opcheck_finds_nothing(grad, with_sigma):
    logits, x, mu, logvar, sigma = (t.detach() for t in inputs(3, 12))
    leaves = [t.clone().requires_grad_(grad) for t in (logits, mu, logvar, sigma)]
    torch.library.opcheck(
        torch.ops.lvae.elbo.default,
        (leaves[0], x, leaves[1], leaves[2], leaves[3] if with_sigma else None, 1 / 255, grad),
    )
    dense = (logits, mu.contiguous(), logvar.contiguous(), sigma)
    torch.library.opcheck(torch.ops.lvae.scale_.default, (*dense, torch.tensor(2.0), None))


def test_torch_compile_takes_the_op_into_one_graph():
    arguments = inputs(5, 205)
    torch._dynamo.reset()
    lvae_loss = torch.compile(lambda *a: fused.lvae_loss(*a), fullgraph=True, backend="aot_eager")
    elbo_terms = torch.compile(lambda *a: fused.elbo_terms(*a), fullgraph=True, backend="aot_eager")
    leaves = [t.detach().requires_grad_() for t in (arguments[0], *arguments[2:])]
    loss = lvae_loss(leaves[0], arguments[1], *leaves[1:])[0] * 3
    expected = results(arguments, weight=3.0)
    for given, name in zip(torch.autograd.grad(loss, leaves), NAMES[3:], strict=True):
        torch.testing.assert_close(given, expected[name])
    rec, kl = elbo_terms(leaves[0], arguments[1], *leaves[1:3])
    assert torch.equal(rec, expected["rec"]) and torch.equal(kl, expected["kl"])
    torch.testing.assert_close(torch.autograd.grad(kl, leaves[1])[0], arguments[2] / 5)


def test_a_second_backward_through_one_graph_gives_the_same_gradients():
    logits, x, mu, logvar, sigma = inputs(5, 205)
    leaves = [t.detach().requires_grad_() for t in (logits, mu, logvar, sigma)]
    loss = fused.lvae_loss(leaves[0], x, *leaves[1:])[0]
    first = torch.autograd.grad(3 * loss, leaves, retain_graph=True)
    kept = [t.clone() for t in first]
    second = torch.autograd.grad(3 * loss, leaves, retain_graph=True)
    loss.backward()
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, kept, strict=True))
    torch.testing.assert_close([3 * t.grad for t in leaves], kept)


def test_gradients_of_two_backwards_add_up():
    logits, x, mu, logvar, sigma = (t.detach().clone() for t in inputs(3, 37))
    logits.requires_grad_()
    loss = fused.lvae_loss(logits, x, mu, logvar, sigma)[0]
    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward()
    assert torch.equal(logits.grad, 2 * once)


def test_second_derivatives_are_refused():
    logits, x, mu, logvar, sigma = inputs(3, 37)
    logits.requires_grad_()
    for loss in (
        fused.lvae_loss(logits, x, mu, logvar, sigma)[0],
        torch.ops.lvae.elbo(logits, x, mu, logvar, sigma, 1.0, True)[0],
    ):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(loss, logits, create_graph=True)


def test_rec_and_kl_of_the_weighed_loss_are_for_the_log():
    logits, x, mu, logvar, sigma = inputs(3, 37)
    loss, rec, kl = fused.lvae_loss(logits.requires_grad_(), x, mu, logvar, sigma)
    assert loss.requires_grad and not rec.requires_grad and not kl.requires_grad


def test_no_gradient_is_computed_without_need(monkeypatch):
    arguments, seen = inputs(3, 37), []
    elbo = torch.ops.lvae.elbo.default
    monkeypatch.setattr(torch.ops.lvae.elbo, "default", lambda *a: seen.append(a[-1]) or elbo(*a))
    fused.lvae_loss(*arguments)
    fused.lvae_loss(arguments[0].requires_grad_(), *arguments[1:])
    with torch.no_grad():
        fused.lvae_loss(*arguments)
    assert seen == [False, True, False]


@pytest.mark.parametrize("name", losses.OBJECTIVES)
def test_every_method_learns_alike_with_both(name):
    logits, x, mu, logvar, _ = inputs(5, 205)
    found = []
    for terms in (fused, losses):
        objective = losses.OBJECTIVES[name](terms=terms)
        leaves = [t.detach().requires_grad_() for t in (logits, mu, logvar)] + list(objective.parameters())
        found.append(torch.autograd.grad(objective(leaves[0], x, leaves[1], leaves[2])[0], leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * theirs.abs().max().item())


BAD = {  # what stands in the message: which argument (0 logits, 1 x, 2 mu, 3 logvar, 4 sigma), by what
    r"\(N, \.\.\.\).*\(3, 37\) and \(3, 36\)": (1, torch.zeros(3, 36)),
    r"\(N, L\).*\(3, 3\) and \(3, 4\)": (3, torch.zeros(3, 4)),
    r"\(N, L\).*\(3,\)": (2, torch.zeros(3)),
    r"same N > 0.*\(3, 37\) and \(4, 3\)": (slice(2, 4), torch.zeros(4, 3)),
    r"same N > 0.*\(0, 37\) and \(0, 3\)": (slice(0, 4), torch.zeros(0)),
    r"\(2,\), given \(3,\)": (4, torch.zeros(3)),
    r"x must be uint8 or floating.*int64": (1, torch.zeros(3, 37, dtype=torch.int64)),
    r"logits must be float32.*int32": (0, torch.zeros(3, 37, dtype=torch.int32)),
    r"logvar must be float32.*uint8": (3, torch.zeros(3, 3, dtype=torch.uint8)),
    r"sigma must be float32 or float64.*bfloat16": (4, torch.zeros(2, dtype=torch.bfloat16)),
    r"mu must be on cpu.*meta": (2, torch.zeros(3, 3, device="meta")),
    r"sigma must be on cpu.*meta": (4, torch.zeros(2, device="meta")),
}


@pytest.mark.parametrize("module", [fused, losses], ids=["fused", "torch"])
@pytest.mark.parametrize("message", BAD)
def test_wrong_arguments_raise_with_the_expected_and_the_given(module, message):
    arguments, (which, bad) = list(inputs(3, 37)), BAD[message]
    if which == slice(0, 4):
        arguments[which] = [t[:0] for t in arguments[which]]
    elif isinstance(which, slice):
        arguments[which] = [bad, bad]
    else:
        arguments[which] = bad
    with pytest.raises(ValueError, match=message):
        module.lvae_loss(*arguments)


UNSAFE = [message for message in BAD if not any(word in message for word in ("meta", "x must", "bfloat16"))]


@pytest.mark.parametrize("message", UNSAFE)
def test_the_op_itself_refuses_what_it_could_read_out_of_bounds(message):
    """torch.compile and users of torch.ops come without the checks of `fused`."""
    arguments, (which, bad) = list(inputs(3, 37)), BAD[message]
    if which == slice(0, 4):
        arguments[which] = [t[:0] for t in arguments[which]]
    else:
        arguments[which] = [bad, bad] if isinstance(which, slice) else bad
    with pytest.raises(RuntimeError, match="lvae: "):
        torch.ops.lvae.elbo.default(*arguments, 1.0, True)


@pytest.mark.parametrize(
    "gradient, factor, message",
    [
        (torch.ones(1).expand(1000), torch.tensor(3.0), "a gradient must have no gaps"),
        (torch.ones(10)[::2], torch.tensor(3.0), "a gradient must have no gaps"),
        (torch.ones(10), torch.ones(0), "g_rec must be one number"),
        (torch.ones(10), torch.ones(2), "g_rec must be one number"),
    ],
)
def test_the_op_itself_scales_no_memory_but_that_of_the_gradients(gradient, factor, message):
    one = torch.ones(1)
    with pytest.raises(RuntimeError, match=f"lvae: {message}"):
        torch.ops.lvae.scale_.default(gradient, one, one, one, factor, None)
    turned = torch.ones(4, 5).t()
    torch.ops.lvae.scale_.default(turned, one, one, one, torch.tensor(3.0), None)
    assert (turned == 3).all()


@pytest.mark.parametrize("huge", ["logits", "latents"])
def test_too_little_memory_is_reported_as_that(huge):
    """torch's own words do not come through an op of its stable interface."""
    image, latents = torch.zeros(1, 1), torch.zeros(1, 1)
    if huge == "logits":
        image = image.expand(1, 2**45)
    else:
        latents = latents.expand(1, 2**45)
    with pytest.raises(RuntimeError, match="cannot allocate memory") as caught:
        torch.ops.lvae.elbo.default(image, image, latents, latents, None, 1.0, True)
    assert runs.describe_error(caught.value, Path("run")).startswith("run: not enough memory")


@pytest.mark.parametrize("module", [fused, losses], ids=["fused", "torch"])
def test_a_scale_of_zero_is_refused(module):
    with pytest.raises(ValueError, match="above 0, given 0"):
        module.lvae_loss(*inputs(3, 37), 0.0)


def test_images_that_want_a_gradient_are_refused_as_the_op_makes_none():
    logits, x, *more = inputs(3, 37)
    x = x.float().requires_grad_()
    for function, given in ((fused.lvae_loss, more), (fused.elbo_terms, more[:2])):
        with pytest.raises(ValueError, match="x gets no gradient from the fused loss; detach it, or take"):
            function(logits, x, *given)
    losses.lvae_loss(logits, x, *more)[0].backward()
    p = logits.detach().sigmoid()
    expected = 2 * (x.detach() - p) / len(x) / more[2].detach()[0] ** 2
    assert torch.allclose(x.grad, expected.float(), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert fused.lvae_loss(logits, x, *more)[0] == fused.lvae_loss(logits, x.detach(), *more)[0]


# ------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("types", EVERY, ids=named)
def test_cuda_is_as_accurate_as_the_reference(types):
    """With latents that are strided, as a network's are; off alignment, too, as in `batch[1:]`."""
    for offset in (0, 1):
        for n, d in SIZES:
            arguments = inputs(n, d, 3, *types)
            given = results(placed_all(arguments, "cuda", offset))
            assert_close(to_cpu(given), arguments)


# A kernel has at most 1,024 blocks of 256 threads, each of which takes 16 bytes of logits, or one element off
# alignment: past 1,048,576 elements of float32 a thread takes a second turn.
LARGE = [(128, 49_155), (3, 1_398_113)]
ON_EACH = [pytest.param("cpu", TYPES[0], id="cpu")]
ON_EACH += [
    pytest.param("cuda", types, marks=pytest.mark.cuda, id="-".join(["cuda", *(str(t)[6:] for t in types)]))
    for types in TYPES
]


@pytest.mark.parametrize("n, d", LARGE)
@pytest.mark.parametrize("device, types", ON_EACH)
def test_images_of_more_elements_than_threads_are_as_accurate(n, d, device, types):
    arguments = inputs(n, d, 10, *types)
    for offset in (0, 1):
        assert_close(to_cpu(results(placed_all(arguments, device, offset))), arguments)


@pytest.mark.parametrize("n, d", [(7, 1999), (64, 49_155)])
@pytest.mark.parametrize("device, types", ON_EACH)
def test_a_gradient_of_three_is_three_times_that_of_one(n, d, device, types):
    arguments = placed_all(inputs(n, d, 10, *types), device)
    once, thrice = (results(arguments, weight=weight) for weight in (1.0, 3.0))
    # float16 is rounded after the multiplication, on its way to the logits: numbers below 6e-5 are coarser.
    near = {"rtol": 1e-3, "atol": 2e-7} if torch.float16 in types else {"rtol": 2e-7, "atol": 0}
    for name in NAMES[3:]:
        torch.testing.assert_close(thrice[name], 3 * once[name], **near)


HALVES = [types for types in TYPES if types[0] in (torch.bfloat16, torch.float16)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("types", HALVES, ids=named)
def test_half_logits_reach_their_kernels(types, device):
    """By the op itself: `fused` widens float16, whose gradient is to be multiplied before it is rounded."""
    for n, d in ((7, 1999), (64, 49_155)):
        arguments = inputs(n, d, 3, *types)
        logits, x, mu, logvar, sigma = placed_all(arguments, device)
        scale = 1 / 255 if x.dtype == torch.uint8 else 1.0
        out = torch.ops.lvae.elbo.default(logits, x, mu, logvar, sigma, scale, True)
        assert out[3].dtype == types[0]
        assert_close({name: t.cpu() for name, t in zip(NAMES, out, strict=True)}, arguments)
        expected = [t * 3 for t in out[3:]]
        three = torch.tensor(3.0, device=device)
        torch.ops.lvae.scale_.default(*out[3:], three, three)
        assert all(torch.equal(*pair) for pair in zip(out[3:], expected, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_without_gradients_the_results_are_the_same(device):
    for dtype in (torch.float32, torch.bfloat16):
        arguments = placed_all(inputs(64, 49_155, 3, dtype), device)
        with_, without = (torch.ops.lvae.elbo.default(*arguments, 1 / 255, grad) for grad in (True, False))
        assert all(torch.equal(*pair) for pair in zip(with_[:3], without[:3], strict=True))
        assert [t.numel() for t in without[3:]] == [0] * 4 and with_[3].numel() == 64 * 49_155


@pytest.mark.cuda
def test_a_cuda_graph_holds_forward_and_backward():
    arguments = [t.cuda() for t in inputs(64, 4096)]
    expected = results(arguments)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        results(arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        given = results(arguments)
    graph.replay()
    assert all(torch.equal(given[name], expected[name]) for name in NAMES)


@pytest.mark.cuda
def test_cuda_works_on_the_current_stream():
    arguments = [t.cuda() for t in inputs(64, 4096)]
    expected, side = results(arguments), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # the default stream would not wait for this
        late = [t + 0 for t in arguments]
        given = results(late)
    side.synchronize()
    assert all(torch.equal(given[name], expected[name]) for name in NAMES)


# ---------------------------------------------------------------------------------------- never in the way


def python(code, **environment):
    """What a new Python prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def attempt(monkeypatch, tmp_path):
    """Try to build into an empty folder: (why not, why not on CUDA)."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(fused, "HERE", tmp_path)  # no library that was built ahead of time
    return fused._load_once.__wrapped__


@pytest.mark.unbuilt
def test_a_library_that_is_older_than_the_package_is_not_used(attempt, monkeypatch, tmp_path):
    (tmp_path / "_C.so").touch()
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(torch.ops, "lvae", SimpleNamespace(adam_=None))
    assert attempt() == ("_C.so is older than the package: install the package again",) * 2


@pytest.mark.unbuilt
def test_without_a_compiler_one_line_reports_it(attempt, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert attempt()[0] == "no C++ compiler: /nowhere/c++ not found"


@pytest.mark.unbuilt
@pytest.mark.parametrize(
    "there, given, chosen", [(True, None, None), (False, None, "8.0;9.0+PTX"), (False, "7.5", "7.5")]
)
def test_kernels_are_compiled_for_the_gpu_that_is_there_or_else_for_usual_ones(
    monkeypatch, there, given, chosen
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(os, "environ", {"TORCH_CUDA_ARCH_LIST": given} if given else {})
    fused.choose_architectures()
    assert os.environ.get("TORCH_CUDA_ARCH_LIST") == chosen


@pytest.mark.unbuilt
def test_an_empty_compiler_is_the_usual_one(attempt, monkeypatch, tmp_path):
    from torch.utils import cpp_extension

    seen = []
    monkeypatch.setenv("CXX", " ")
    monkeypatch.setattr(cpp_extension, "load", lambda *_, **__: seen.append(os.environ.get("CXX")))
    fused._compile(["lvae.cpp"], tmp_path)
    assert seen == [None] and os.environ["CXX"] == " "
    which = fused.shutil.which
    monkeypatch.setattr(fused.shutil, "which", lambda name, **more: None if name == "c++" else which(name))
    assert attempt()[0] == "no C++ compiler: c++ not found"


@pytest.mark.unbuilt
def test_without_ninja_one_line_reports_it(attempt, monkeypatch):
    which = fused.shutil.which
    without = lambda name, **more: None if name == "ninja" else which(name, **more)  # noqa: E731
    monkeypatch.setattr(fused.shutil, "which", without)
    assert attempt()[0] == "ninja not found"


@pytest.mark.unbuilt
def test_without_a_folder_to_write_to_one_line_reports_it(attempt, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/proc/nowhere")
    assert attempt()[0].startswith("cannot write to /proc/nowhere/lvae-")


@pytest.mark.unbuilt
def test_a_compiler_that_fails_is_quoted_in_one_line(attempt, monkeypatch, tmp_path):
    monkeypatch.setattr(fused, "CXX_FLAGS", [*fused.CXX_FLAGS, "-DLVAE_INLINE=)"])
    reason = attempt()[0]
    assert "error:" in reason and "\n" not in reason


@pytest.mark.unbuilt
def test_two_processes_build_once_and_a_killed_build_does_not_stop_them(tmp_path):
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    monkey = "from lvae_min import fused; f = fused._folder(['lvae.cpp']); f.mkdir(); (f / 'lock').touch()"
    subprocess.run([sys.executable, "-c", monkey], env=environment, cwd=ROOT, check=True)
    code = (
        "from lvae_min import fused; c = fused._compile; fused._why_no_cuda = lambda: 'not here'; "
        "fused._compile = lambda *a: (print('built'), c(*a)); print(repr(fused.why_not()))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env=environment,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]
    outputs = sorted(process.communicate(timeout=600)[0].split() for process in both)
    assert outputs == [["''"], ["built", "''"]]


def test_where_the_cuda_part_cannot_be_compiled_every_process_has_the_part_for_the_cpu(tmp_path):
    fails = "from lvae_min import fused; fused._why_no_cuda = lambda: ''; print(repr(fused.why_not()))"
    for _ in ("compiles", "finds it compiled"):
        assert python(fails, TORCH_EXTENSIONS_DIR=str(tmp_path), CUDA_HOME="/nowhere") == "''"


@pytest.mark.unbuilt
def test_importing_the_package_builds_nothing(tmp_path):
    code = "import sys, lvae_min, lvae_min.losses; print('torch.utils.cpp_extension' in sys.modules)"
    assert python(code, TORCH_EXTENSIONS_DIR=str(tmp_path)) == "False" and not list(tmp_path.iterdir())


@pytest.mark.unbuilt
def test_an_installed_package_carries_its_sources_and_a_library_built_ahead_of_time(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "setup.py",
            "-q",
            "egg_info",
            "-e",
            str(tmp_path),
            "build",
            "--build-base",
            str(tmp_path / "b"),
            "--build-lib",
            str(tmp_path / "lib"),
        ],
        cwd=ROOT,
        check=True,
        env={**os.environ, "LVAE_BUILD": "1"},
        capture_output=True,
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'lib')!r}); from lvae_min import fused; "
        "print(fused.CSRC / 'lvae.cpp', (fused.CSRC / 'lvae.cpp').exists(), repr(fused.why_not()))"
    )
    assert (
        python(code, TORCH_EXTENSIONS_DIR="/proc/nowhere")
        == f"{tmp_path / 'lib'}/lvae_min/csrc/lvae.cpp True ''"
    )


def test_auto_takes_the_op_where_it_works_and_reports_it():
    terms = losses.implementation("auto", "cpu")
    assert terms.lvae_loss is fused.lvae_loss and terms.description == "elbo: fused C++ op"


@pytest.mark.unbuilt
def test_auto_takes_the_twin_where_the_op_does_not_work_and_says_why(monkeypatch):
    monkeypatch.setattr(fused, "_load", lambda: ("ninja not found", "ninja not found"))
    terms = losses.implementation("auto", "cpu")
    assert terms.elbo_terms is losses.elbo_terms
    assert terms.description == "elbo: PyTorch (extension not built: ninja not found)"
    with pytest.raises(ValueError, match="^the fused loss is not available on cpu: ninja not found$"):
        losses.implementation("fused", "cpu")
    with pytest.raises(RuntimeError, match="not built: ninja not found"):
        fused.lvae_loss(*inputs(3, 37))


@pytest.mark.unbuilt
def test_on_a_gpu_without_the_cuda_part_the_twin_runs_and_reports_it(monkeypatch):
    monkeypatch.setattr(fused, "_load", lambda: ("", "built for the CPU only: nvcc not found"))
    assert (
        losses.implementation("auto", "cuda").description
        == "elbo: PyTorch (extension not built: built for the CPU only: nvcc not found)"
    )
    assert losses.implementation("auto", "cpu").description == "elbo: fused C++ op"
    assert "not for mps" in fused.why_not("mps")


@pytest.mark.unbuilt
def test_asked_for_torch_nothing_is_built(monkeypatch):
    monkeypatch.setattr(fused, "_load", lambda: pytest.fail("built"))
    assert losses.implementation("torch", "cpu").description == "elbo: PyTorch"
    with pytest.raises(ValueError, match="fused, torch or auto, not 'c'"):
        losses.implementation("c", "cpu")


@pytest.mark.unbuilt
@pytest.mark.parametrize(
    "release, reason",
    [
        ("release 11.8", "nvcc is 11.8, torch is for CUDA 13.0"),
        ("", "nvcc is unreadable"),
        ("release 13.2", ""),
    ],
)
def test_another_version_of_cuda_is_noticed_before_the_build(monkeypatch, tmp_path, release, reason):
    make_toolkit(tmp_path, f"echo {release}")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert fused._why_no_cuda().startswith(reason) and bool(fused._why_no_cuda()) == bool(reason)


def make_toolkit(root, script, headers=True):
    """A CUDA toolkit whose nvcc is a script."""
    (root / "bin").mkdir(parents=True, exist_ok=True)
    (root / "bin" / "nvcc").write_text(f"#!/bin/sh\n{script}\n")
    (root / "bin" / "nvcc").chmod(0o755)
    if headers:
        (root / "include").mkdir(exist_ok=True)
        (root / "include" / "cuda_runtime.h").touch()
    return root


@pytest.fixture
def wrapped(monkeypatch, tmp_path):
    """A machine whose nvcc on the PATH is a script that calls that of the toolkit, as in /usr/local/bin."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    real = 'echo "release 13.0"; echo "#\\$ _HERE_=$(dirname "$0")"'
    toolkit = make_toolkit(tmp_path / "toolkit", real)
    wrapper = make_toolkit(tmp_path / "local", f'exec {toolkit}/bin/nvcc "$@"', headers=False)
    monkeypatch.setenv("PATH", f"{wrapper}/bin:{os.environ['PATH']}")
    which = fused.shutil.which  # whatever this machine has
    monkeypatch.setattr(
        fused.shutil, "which", lambda name, path=None: which(name, path=path) if path != USUAL else None
    )
    return toolkit, wrapper


USUAL = "/usr/local/cuda/bin"


@pytest.mark.unbuilt
def test_torch_compiles_with_the_toolkit_that_was_checked(wrapped, monkeypatch, tmp_path):
    from torch.utils import cpp_extension

    toolkit, wrapper = wrapped
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(wrapper))  # what torch finds by itself
    assert fused._toolkit() == (str(toolkit), "")
    seen, before = [], dict(os.environ)
    monkeypatch.setattr(
        cpp_extension,
        "load",
        lambda *_, **__: seen.append((cpp_extension.CUDA_HOME, os.environ["CUDA_HOME"])),
    )
    fused._compile(["lvae.cpp", "lvae_cuda.cu"], tmp_path)
    assert seen == [(str(toolkit), str(toolkit))]
    assert cpp_extension.CUDA_HOME == str(wrapper) and dict(os.environ) == before


@pytest.mark.unbuilt
def test_an_nvcc_without_its_headers_is_reported_with_what_to_set(wrapped):
    toolkit, wrapper = wrapped
    (toolkit / "include" / "cuda_runtime.h").unlink()
    expected = f"{wrapper}/bin/nvcc has no include/cuda_runtime.h beside it; set CUDA_HOME to the toolkit"
    assert fused._toolkit()[0] == "" and fused._toolkit()[1].startswith(expected)


@pytest.fixture
def builds(attempt, monkeypatch):
    """Try to build where each build fails with the message in `message`: the builds so far, and `attempt`."""
    count, message = [], ["RuntimeError: error: no such instruction"]

    def fail(sources, folder):
        count.append(sources)
        raise RuntimeError(message[0])

    monkeypatch.setattr(fused, "_compile", fail)
    monkeypatch.setattr(fused, "_compilers", lambda: ["g++ 1"])
    monkeypatch.setattr(fused, "_why_no_cuda", lambda: "not here")
    return count, message, attempt


@pytest.mark.unbuilt
def test_a_build_that_failed_is_not_tried_again_and_says_how_to(builds):
    count, _, attempt = builds
    assert attempt()[0] == "RuntimeError: error: no such instruction"
    reason = attempt()[0]  # as in the next process: nothing is kept in this one
    assert len(count) == 1 and reason.startswith("RuntimeError: error: no such instruction (failed before; ")
    Path(reason.split("to try again remove ")[1].rstrip(")")).unlink()
    assert "failed before" not in attempt()[0] and len(count) == 2


@pytest.mark.unbuilt
@pytest.mark.parametrize("change", ["compiler", "torch", "sources"])
def test_another_compiler_torch_or_source_is_tried_again(builds, monkeypatch, tmp_path, change):
    count, _, attempt = builds
    attempt()
    if change == "compiler":
        monkeypatch.setattr(fused, "_compilers", lambda: ["g++ 2"])
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    else:
        shutil.copytree(fused.CSRC, tmp_path / "csrc")
        (tmp_path / "csrc" / "lvae.cpp").write_text("int x;")
        monkeypatch.setattr(fused, "CSRC", tmp_path / "csrc")
    attempt()
    assert len(count) == 2


@pytest.mark.unbuilt
@pytest.mark.parametrize("message", ["error: No space left on device", "g++: fatal error: Killed signal"])
def test_a_build_that_the_machine_stopped_is_tried_again(builds, message):
    count, given, attempt = builds
    given[0] = message
    attempt()
    attempt()
    assert len(count) == 2


@pytest.mark.unbuilt
def test_a_compiler_is_known_by_its_place_and_version(monkeypatch, tmp_path):
    found = []
    for version in (1, 2):
        (tmp_path / "c++").write_text(f"#!/bin/sh\necho version {version}\n")
        (tmp_path / "c++").chmod(0o755)
        monkeypatch.setenv("CXX", f"{tmp_path}/c++ -O9")
        found.append(fused._compilers()[:2])
    assert found == [[f"{tmp_path}/c++", f"version {version}\n"] for version in (1, 2)]
