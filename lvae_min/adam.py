"""Adam (Sec. 6.3): torch's, and on a GPU for all weights in one launch, by `lvae::adam_` of csrc/ (`fused`).

`torch.optim.Adam` stays the owner of its settings and of its state, so that checkpoints are the same.
"""

import inspect

import torch
from torch import Tensor

SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
STATE = ("exp_avg", "exp_avg_sq", "step")


class Adam(torch.optim.Adam):
    """torch.optim.Adam without what torch.compile adds to its methods.

    That would import the compiler, torch._dynamo, in the first call: as long as importing PyTorch itself. Of
    a torch that adds nothing these are its own methods.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)


def step(optimizer: torch.optim.Adam) -> None:
    """`optimizer.step()` for weights on a GPU; by torch where the op cannot do it, as in the first update."""
    lists = arguments(optimizer)
    if lists is None:
        optimizer.step()
        return
    with torch.no_grad():
        torch.ops.lvae.adam_.default(*lists)
    torch.autograd.graph.increment_version([*lists[0], *lists[2], *lists[3], *lists[4]])


def arguments(optimizer: torch.optim.Adam) -> list[list[Tensor]] | None:
    """Weights, gradients, exp_avg, exp_avg_sq, steps and learning rates; None where the op does not apply.

    It is for the settings of the paper, float32, and a state that is there (torch makes it in its first
    step), laid out without gaps and as the weight is.
    """
    rows = []
    for group in optimizer.param_groups:
        if any(group[name] != value for name, value in SETTINGS.items()):
            return None
        for weight in group["params"]:
            if weight.grad is not None:
                state = optimizer.state.get(weight, {})
                rows.append([weight, weight.grad, *(state.get(name) for name in STATE), group["lr"]])
    if not rows or not all(fits(*row) for row in rows):
        return None
    return [list(column) for column in zip(*rows, strict=True)]


def fits(weight: Tensor, *others: Tensor | None) -> bool:
    """Whether the op can take them: weight; gradient, exp_avg, exp_avg_sq, step and learning rate."""
    tensors = [each for each in (weight, *others) if isinstance(each, Tensor)]
    return (
        len(tensors) == 6
        and all(each.dtype == torch.float32 and each.device == weight.device for each in tensors)
        and dense(weight)
        and all(layout(each) == layout(weight) for each in tensors[:4])
    )


def layout(tensor: Tensor) -> list[tuple[int, int]]:
    """Stride and size of each dimension; of one with a single element, the stride means nothing."""
    return [
        (stride if size > 1 else 0, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    ]


def dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side, in whatever order of the dimensions."""
    expected = 1
    for stride, size in sorted(layout(tensor)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
