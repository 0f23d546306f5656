"""Layers of Table 1 as products of matrices, each in the form that is the fastest on its device.

They are nn.Linear, nn.Conv2d and nn.ConvTranspose2d with the same weights, the same results up to rounding
and the same names in a checkpoint. Measured on an H200 (torch 2.11, batch 64, a whole iteration): the MLP's
in float32 takes 574 us with PyTorch's layers, where a product with its bias takes two to three times as long
as the product alone; the CNN's takes 2,741 us in float32, 1,202 in tf32 and 989 in bf16 with cuDNN's
deterministic convolutions, and 1,434, 967 and 905 with the columns below.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

KERNEL = 4  # of all convolutions, Table 1
PARTS = 64  # of a sum over many thousand pixels: a GPU adds them up at once
SMALLEST = 64  # rows of a part
NARROW = 64  # outputs: with the bias, cuBLAS takes 3 us longer for the 20 of the MLP's encoder (H200, tf32)


def bias_apart(x: Tensor, tf32: bool) -> bool:
    """Whether a bias is better added after the product: on a GPU in float32, and in tf32 if that is said."""
    return (
        x.is_cuda
        and not torch.is_autocast_enabled("cuda")
        and (tf32 or torch.backends.cuda.matmul.fp32_precision != "tf32")
    )


class Updated(torch.autograd.Function):
    """A layer whose weights are updated in the backward pass (`adam.ByOp`), instead of getting a gradient.

    A second backward pass through it is refused, as the weight is not the one of the forward pass any more.
    """

    @staticmethod
    def forward(ctx, x, layer, weight, bias):  # as x may need no gradient, weight and bias are inputs too
        ctx.layer, ctx.update = layer, layer.update
        x = x.to(weight.dtype)
        ctx.save_for_backward(x, weight)
        return layer.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        outputs_first = weight.t() if isinstance(ctx.layer, PixelLinear) else weight
        by_x = gradient @ outputs_first if ctx.needs_input_grad[0] else None
        ctx.update(x.contiguous(), gradient.contiguous())
        return by_x, None, None, None


class Linear(nn.Linear):
    """nn.Linear."""

    update: Callable[[Tensor, Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return Updated.apply(x, self, self.weight, self.bias) if self.update else self.product(x)

    def product(self, x: Tensor) -> Tensor:
        if bias_apart(x, tf32=self.out_features < NARROW):
            return x @ self.weight.t() + self.bias
        return super().forward(x)


class PixelLinear(nn.Module):
    """First layer of the MLP, x W + b for a binary image x: (N, D) to (N, `out_features`).

    A dSprites image is 4 % white, so that on the CPU the product is a sum of some 170 of the D rows of W.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))  # the transpose of nn.Linear's
        self.bias = nn.Parameter(torch.empty(out_features))
        self.update: Callable[[Tensor, Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return Updated.apply(x, self, self.weight, self.bias) if self.update else self.product(x)

    def product(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8 and x.is_cpu:
            rows, pixels = x.nonzero(as_tuple=True)
            # Where each image's pixels begin.
            first = torch.searchsorted(rows, torch.arange(len(x), device="cpu"))
            return F.embedding_bag(pixels, self.weight, first, mode="sum") + self.bias
        x = x.to(self.weight.dtype)
        return (
            x @ self.weight + self.bias
            if bias_apart(x, tf32=True)
            else torch.addmm(self.bias, x, self.weight)
        )


# Convolutions ----------------------------------------------------------------------------------------------
#
# A convolution is a product of its weights with the columns of the larger image: column (n, i, j) holds the
# KERNEL x KERNEL x C values below the kernel at place (i, j) of image n. For channels that lie last it is a
# copy of rows. The transposed convolution is the same, backwards.


def columns(image: Tensor, stride: int, padding: int) -> Tensor:
    """Images (N, C, H, W) as (N * Ho * Wo, KERNEL * KERNEL * C)."""
    t = F.pad(image.permute(0, 2, 3, 1).contiguous(), (0, 0, padding, padding, padding, padding))
    n, h, w, c = t.shape
    high, wide = (h - KERNEL) // stride + 1, (w - KERNEL) // stride + 1
    steps = (h * w * c, stride * w * c, stride * c, w * c, c, 1)
    return t.as_strided((n, high, wide, KERNEL, KERNEL, c), steps).reshape(n * high * wide, -1)


def rows(image: Tensor) -> Tensor:
    """Images (N, C, H, W) as (N * H * W, C)."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def images(rows: Tensor, n: int, h: int, w: int) -> Tensor:
    """The inverse of `rows`, with channels last."""
    return rows.view(n, h, w, -1).permute(0, 3, 1, 2)


def weight_rows(weight: Tensor) -> Tensor:
    """Weights (O, C, KERNEL, KERNEL) as (O, KERNEL * KERNEL * C)."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def summed_product(one: Tensor, other: Tensor) -> Tensor:
    """one^T other of (K, O) and (K, M), K long: a sum of the products of PARTS parts, in their order."""
    long, parts = len(one), PARTS
    while parts > 1 and (long % parts or long // parts < SMALLEST):
        parts //= 2
    if parts == 1:
        return one.t() @ other
    one, other = (table.reshape(parts, long // parts, -1) for table in (one, other))
    return torch.bmm(one.transpose(1, 2), other).sum(0)


class Columns(torch.autograd.Function):
    """A convolution (or the transposed one) with a kernel of KERNEL x KERNEL, square stride and padding.

    What needs the columns is a product with them: the convolution, the transposed one's gradient of its
    input, and the gradients of the weights of both. The rest is PyTorch's.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, transposed):
        ctx.settings, found = (stride, padding, transposed), None
        if transposed:
            y = F.conv_transpose2d(x, weight, bias, stride, padding)
        else:
            high, wide = ((size + 2 * padding - KERNEL) // stride + 1 for size in x.shape[2:])
            found = columns(x, stride, padding)
            y = images(torch.addmm(bias, found, weight_rows(weight).t()), len(x), high, wide)
        ctx.save_for_backward(x, weight, found)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, weight, found = ctx.saved_tensors
        stride, padding, transposed = ctx.settings
        small = gradient
        if transposed:
            small, found = x, columns(gradient, stride, padding)
        elif torch.is_grad_enabled():  # create_graph=True: they depend on x
            found = columns(x, stride, padding)
        by_weight = summed_product(rows(small), found).view(len(weight), KERNEL, KERNEL, -1)
        by_x = None
        if ctx.needs_input_grad[0] and transposed:
            by_x = images(found @ weight_rows(weight).t(), *x[:, 0].shape)
        elif ctx.needs_input_grad[0]:
            square, backward = ([stride] * 2, [padding] * 2), torch.ops.aten.convolution_backward
            given = (gradient, x, weight, None, *square, [1, 1], False, [0, 0], 1, [True, False, False])
            by_x = backward(*given)[0]
        return by_x, by_weight.permute(0, 3, 1, 2), rows(gradient).sum(0), None, None, None


def convolve(layer: "Conv | ConvTransposed", x: Tensor, transposed: bool) -> Tensor:
    assert layer.bias is not None
    given: tuple[Tensor, ...] = (x, layer.weight, layer.bias)
    if torch.is_autocast_enabled(x.device.type):
        given = tuple(tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in given)
    return Columns.apply(*given, layer.stride[0], layer.padding[0], transposed)


class Conv(nn.Conv2d):
    """nn.Conv2d, by columns on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x, False) if x.is_cuda else super().forward(x)


class ConvTransposed(nn.ConvTranspose2d):
    """nn.ConvTranspose2d, by columns on a GPU."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return convolve(self, x, True) if x.is_cuda else super().forward(x, output_size)
