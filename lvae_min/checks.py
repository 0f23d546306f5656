"""What a loss refuses of its caller's tensors: a mistake is an error, and not a loss that means nothing.

Reading a number waits for a GPU. So the terms are looked at on a CPU alone, and the images in the first call.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lvae_min.fused import pixel_scale

CALLER = 5  # frames up: past a function of this file, Objective.forward and two functions of nn.Module


def refuse_half(state: Tensor) -> None:
    """Raise ValueError for a learned scale or a number of a controller in half precision."""
    if state.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the loss is {state.dtype}: its steps round to nothing; keep it in float32")


def refuse_shapes(terms: Sequence[Tensor]) -> None:
    """Raise ValueError for a term that is no scalar."""
    for place, term in enumerate(terms):
        if not isinstance(term, Tensor) or term.ndim:
            form = (
                f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            )
            raise ValueError(f"term {place} is {form}: expected a scalar tensor, as .mean() gives")


def refuse_negative(terms: Sequence[Tensor]) -> None:
    """Raise ValueError for a negative term on a CPU."""
    for place, term in enumerate(terms):
        ends = extremes(term) if term.device.type == "cpu" else None
        if ends and ends[0] < 0:
            raise ValueError(
                f"term {place} is {ends[0]:g}: the weight of a negative term has no optimum; leave "
                "the constant of a density's logarithm out, and take a fixed variance and the closed form of "
                "the KL (lvae_min.kl_term): a learned variance and a sampled KL can be negative"
            )


def extremes(values: Tensor) -> tuple[float, float] | None:
    """The smallest and the largest of all values; None where no number can be read.

    That is under torch.compile, vmap and other tracers, in a CUDA graph, and of a subclass of Tensor.
    """
    if torch.compiler.is_compiling() or type(values) not in (Tensor, nn.Parameter):
        return None
    if values.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    try:
        low, high = (end.item() for end in torch.aminmax(values.detach()))
    except RuntimeError:  # vmap, meta tensors, no values
        return None
    return low, high


def in_range(x: Tensor, scale: float | None) -> bool:
    """Whether scale x was seen to be in [0, 1]: not of a constant batch, which shows nothing of the next.

    Raises ValueError for images of another range, such as -1 to 1, and for uint8 of 0 and 1 without a
    `scale`, which would be divided by 255. Values from -0.4 to 1.4 pass: bicubic resizing makes them. Warns
    of floats from 0 to 1 with a `scale` of 1/255.
    """
    ends = extremes(x)
    if not ends or not (x.is_floating_point() or x.dtype == torch.uint8):
        return False  # its type is refused elsewhere
    factor = pixel_scale(x, scale)
    low, high = factor * ends[0], factor * ends[1]
    if scale is None and x.dtype == torch.uint8 and high == 1 / 255:
        raise ValueError("uint8 images of 0 and 1, which would be divided by 255; give scale=1.0")
    if x.is_floating_point() and 0 < factor <= 1 / 255 and ends[0] < ends[1] <= 1:
        dark = f"images from {ends[0]:g} to {ends[1]:g}, which scale={factor:g} makes black"
        if ends[0] < 0:
            raise ValueError(f"{dark}: undo the normalization, and leave the scale out")
        warnings.warn(f"{dark}: leave the scale out if they are from 0 to 1", stacklevel=CALLER)
    if low < -0.4 or high > 1.4:
        raise ValueError(
            f"images from {low:g} to {high:g}: expected 0 to 1, as the sigmoid of the logits is; undo "
            "the normalization, or give a factor (scale=1/255)"
        )
    return low < high  # not if there is a NaN


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn where all logits, 64 or more, are between 0 and 1, as the output of a sigmoid is."""
    ends = extremes(logits)
    if ends and logits.numel() >= 64 and 0 < ends[0] and ends[1] < 1:
        warnings.warn(
            f"all logits are from {ends[0]:g} to {ends[1]:g}, as the output of a sigmoid is: give the "
            "decoder's output before the sigmoid, which the loss applies itself",
            stacklevel=CALLER,
        )
