"""The layers of Table 1 as products: PyTorch's own layers, in values and gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lvae_min.step
from lvae_min import products
from lvae_min.model import VAE
from lvae_min.products import KERNEL, Columns, Conv, ConvTransposed, Linear, convolve

FORMATS = (torch.contiguous_format, torch.channels_last)


def convolutions():
    """Each convolution of the CNN: (layer, an image it is given), for both image sizes."""
    for side in (64, 128):
        vae, found = VAE((3, side, side), 4), []

        def keep(layer, given, _, found=found):
            found.append((layer, given[0]))

        for layer in vae.modules():
            if isinstance(layer, (Conv, ConvTransposed)):
                layer.register_forward_hook(keep)
        vae(torch.rand(3, 3, side, side), torch.randn(3, 4))
        yield from found


CONVOLUTIONS = list(convolutions())


def named(case):
    layer, x = case
    return f"{type(layer).__name__}-{layer.in_channels}-{layer.out_channels}-from-{x.shape[2]}"


def derived(function, *inputs):
    """The result of a function and the gradients of its inputs, for a fixed gradient of the result."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    result = function(*inputs)
    weigh = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
    return [result, *torch.autograd.grad(result, inputs, weigh)]


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels last"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=named)
def test_a_convolution_by_columns_is_the_convolution(case, layout):
    layer, x = case
    transposed, function = isinstance(layer, ConvTransposed), F.conv2d
    if transposed:
        function = F.conv_transpose2d
    stride, padding = layer.stride[0], layer.padding[0]
    inputs = [tensor.double() for tensor in (x, layer.weight, layer.bias)]
    inputs[:2] = [tensor.to(memory_format=layout) for tensor in inputs[:2]]
    found = derived(lambda *given: Columns.apply(*given, stride, padding, transposed), *inputs)
    expected = derived(lambda *given: function(*given, stride, padding), *inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_by_columns_has_second_derivatives(transposed):
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 3, 3, 2), (3, 2, KERNEL, KERNEL), (2,)
    if not transposed:
        sizes = (2, 2, 6, 4), (3, 2, KERNEL, KERNEL), (3,)
    given = [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]

    def convolution(*tensors):
        return Columns.apply(*tensors, 2, 1, transposed).square()

    assert torch.autograd.gradgradcheck(convolution, given)


def test_the_image_itself_needs_no_gradient():
    layer, x = CONVOLUTIONS[0]
    weight = layer.weight.detach().requires_grad_()
    Columns.apply(x, weight, layer.bias, 2, 1, False).sum().backward()
    assert weight.grad.abs().sum() > 0 and x.grad is None


@pytest.mark.parametrize("long", [1, 63, 64, 4096, 4160, 65_536])
def test_a_long_sum_in_parts_is_the_sum(long, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(long, n, generator=generator, dtype=torch.float64) for n in (3, 5))
    calls, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *given: calls.append(len(given[0])) or bmm(*given))
    torch.testing.assert_close(products.summed_product(one, other), one.t() @ other)
    assert calls == {4096: [64], 4160: [64], 65_536: [64]}.get(long, [])


def test_under_autocast_a_convolution_computes_in_its_type():
    layer, x = CONVOLUTIONS[1]
    with torch.autocast("cpu", torch.bfloat16):
        result = convolve(layer, x, False)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), F.conv2d(x, layer.weight, layer.bias, 2, 1), rtol=0, atol=0.02)


def test_on_a_cpu_the_layers_are_those_of_pytorch():
    for case, kind in ((CONVOLUTIONS[0], nn.Conv2d), (CONVOLUTIONS[-1], nn.ConvTranspose2d)):
        layer, x = case
        assert torch.equal(layer(x), kind.forward(layer, x))
    layer, x = Linear(7, 3), torch.randn(5, 7)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.cuda
@pytest.mark.parametrize("tf32", [False, True])
def test_a_bias_is_added_after_the_product_where_that_is_faster(tf32):
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        x = torch.randn(64, 4096, device="cuda")
        assert products.bias_apart(x, tf32=True) and products.bias_apart(x, tf32=False) != tf32
        with torch.autocast("cuda", torch.bfloat16):
            assert not products.bias_apart(x, tf32=True)
        for layer in (Linear(4096, 1200), products.PixelLinear(4096, 1200)):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.normal_(layer.bias)
            expected = layer.double()(x.double().cpu())
            found = layer.float().cuda()(x)
            torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=1e-2 if tf32 else 2e-5)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("outputs, apart", [(20, True), (63, True), (64, False), (1200, False)])
def test_in_tf32_the_bias_is_added_apart_to_few_outputs(outputs, apart, monkeypatch):
    asked = []
    monkeypatch.setattr(products, "bias_apart", lambda x, tf32: asked.append(tf32))
    layer = Linear(8, outputs)
    assert torch.equal(layer(torch.ones(2, 8)), nn.Linear.forward(layer, torch.ones(2, 8)))
    assert asked == [apart]


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 128, 128), (1, 64, 64)])
def test_a_network_of_columns_on_a_gpu_is_that_of_the_cpu(shape):
    torch.manual_seed(0)
    x, noise = torch.rand(8, *shape), torch.randn(8, 5)
    found = []
    for device in ("cpu", "cuda", "cuda"):
        vae = VAE(shape, 5)
        vae.lay_out(device)
        with lvae_min.step.products(torch.device(device)):  # without it a GPU's sums have no fixed order
            logits, mu, logvar = vae(x.to(device), noise.to(device))
            (logits.square().mean() + mu.square().mean() + logvar.square().mean()).backward()
        found.append([logits, mu, logvar, *(weight.grad for weight in vae.parameters())])
    for own, gpu, again in zip(*found, strict=True):
        torch.testing.assert_close(gpu.cpu(), own, rtol=1e-3, atol=1e-5)
        assert torch.equal(gpu, again)  # to the bit
