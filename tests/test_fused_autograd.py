"""What autograd and torch.compile may do with the fused loss."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.autograd import forward_ad

from lvae_min import fused, losses

pytestmark = pytest.mark.skipif(not fused.available(), reason=f"the op is not built: {fused.why_not()}")


def inputs(n=3, d=5, latents=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(n, size, generator=generator, dtype=dtype) for size in (d, latents, latents)]
    logits, mu, logvar = (t.requires_grad_() for t in normal)
    return logits, torch.rand(n, d, generator=generator, dtype=dtype), mu, logvar


def test_an_image_may_be_refilled_before_the_backward():
    logits, x, mu, logvar = inputs()
    kept = x.clone()
    rec, kl = fused.elbo_terms(logits, x, mu, logvar)
    x.zero_()
    (gradient,) = torch.autograd.grad(rec, logits)
    (expected,) = torch.autograd.grad(fused.elbo_terms(logits, kept, mu, logvar)[0], logits)
    assert torch.equal(gradient, expected)


def test_a_kept_graph_gives_the_same_gradient_every_time():
    logits, x, mu, logvar = inputs()
    loss = fused.lvae_loss(logits, x, mu, logvar, torch.ones(2))[0]
    seen = []
    for factor in (1.0, 3.0, 1.0):
        seen.append(torch.autograd.grad(loss * factor, logits, retain_graph=True)[0])
    once = seen[0].clone()
    seen[0].zero_()  # as optimizer.zero_grad(set_to_none=False) does
    (again,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(seen[1], 3 * once)
    assert torch.equal(seen[2], once) and torch.equal(again, once)


def test_gradients_accumulate_in_a_leaf_over_a_kept_graph():
    logits, x, mu, logvar = inputs()
    loss = fused.lvae_loss(logits, x, mu, logvar, torch.ones(2))[0]
    once = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
    for _ in range(3):
        (2 * loss).backward(retain_graph=True)
    assert torch.allclose(logits.grad, 6 * once)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")  # torch.func.jvp imports it
def test_a_forward_derivative_is_refused_and_not_taken_for_zero():
    logits, x, mu, logvar = (tensor.detach() for tensor in inputs(dtype=torch.float64))

    def rec(module, logits):
        return module.elbo_terms(logits, x, mu, logvar)[0]

    assert torch.func.jvp(partial(rec, losses), (logits,), (torch.ones_like(logits),))[1] != 0
    with pytest.raises(RuntimeError, match="jvp|forward"):
        torch.func.jvp(partial(rec, fused), (logits,), (torch.ones_like(logits),))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, torch.ones_like(logits))
        with pytest.raises(RuntimeError, match="jvp|forward"):
            rec(fused, dual)
        assert rec(fused, logits) == rec(fused, logits.clone().requires_grad_())

    def compiled(logits):
        return torch.func.jvp(partial(rec, fused), (logits,), (torch.ones_like(logits),))[1]

    with pytest.raises(RuntimeError, match="jvp|forward"):
        torch.compile(compiled, backend="eager")(logits)
    torch._dynamo.reset()


@pytest.mark.parametrize("through", ["function", "op"])
def test_a_second_derivative_is_refused_and_not_taken_for_zero(through):
    logits, x, mu, logvar = inputs(dtype=torch.float64)
    if through == "function":
        rec = fused.elbo_terms(logits, x, mu, logvar)[0]
    else:
        rec = torch.ops.lvae.elbo(logits, x, mu, logvar, None, 1.0, True)[1]
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(rec, logits, create_graph=True)


def test_float16_gradients_survive_under_a_loss_scale():
    logits, x, mu, logvar = inputs(64, 256)
    sure = (x > 0.5).float()
    logits = ((2 * sure - 1) * 6 + logits.detach()).half().requires_grad_()  # trained: small gradients
    exact = logits.detach().double().requires_grad_()
    scaled = 2.0**16 * fused.elbo_terms(logits, sure, mu, logvar)[0]
    (gradient,) = torch.autograd.grad(scaled, logits)
    wide = losses.elbo_terms(exact, sure.double(), mu.double(), logvar.double())[0]
    (expected,) = torch.autograd.grad(2.0**16 * wide, exact)
    assert (gradient.double() - expected).norm() < 1e-3 * expected.norm()


def test_a_compiler_may_meet_the_op_before_it_is_loaded():
    program = """
import torch
from lvae_min import fused
logits = torch.randn(4, 9, requires_grad=True)
given = logits, torch.rand(4, 9), torch.randn(4, 2), torch.randn(4, 2), torch.ones(2)
torch.compile(fused.lvae_loss, fullgraph=True, backend="aot_eager")(*given)[0].backward()
expected, = torch.autograd.grad(fused.lvae_loss(*given)[0], logits)
assert torch.allclose(logits.grad, expected)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_compiled_inference_makes_no_gradient():
    calls = []

    def remember(graph, example):
        calls.extend(node for node in graph.graph.nodes if "elbo" in str(node.target))
        return graph

    with torch.no_grad():
        torch.compile(fused.elbo_terms, fullgraph=True, backend=remember)(*inputs())
    assert [call.args[-1] for call in calls] == [False]


def test_gradients_match_finite_differences():
    """Of every input, with every pattern of incoming gradients, absent ones included."""
    logits, x, mu, logvar = inputs(dtype=torch.float64)
    sigma = torch.tensor([1.3, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *given: fused.elbo_terms(given[0], x, *given[1:]), (logits, mu, logvar)
    )
    assert torch.autograd.gradcheck(
        lambda *given: fused.lvae_loss(given[0], x, *given[1:])[0], (logits, mu, logvar, sigma)
    )
