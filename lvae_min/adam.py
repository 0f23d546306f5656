"""Adam (Sec. 6.3): torch's, and on a GPU by the ops of csrc/ (`fused`).

`lvae::layer_` updates the weights of a linear layer while it makes their gradient, which is never written to
memory; `lvae::adam_` updates all others in one launch. `torch.optim.Adam` stays the owner of its settings and
of its state, so that checkpoints are the same.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from lvae_min.products import Linear, PixelLinear

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


class ByOp:
    """Adam by the ops, of the weights of `vae`; by torch where they do not apply, as in the first update.

    optimizer   torch's
    vae         whose weights it updates
    network     what is trained: `vae` itself, or its copy in bfloat16, which is updated with it
    tf32        float32 is multiplied in TF32, for the gradients of the layers as well

        with by_op.updating():
            logits = network(x)
        loss(logits).backward()     # updates the linear layers
        by_op.finish()              # updates the others, and counts the update of all

    What looks at gradients between backward and update (clipping, hooks, penalties) does not see those of the
    linear layers. A second gradient of one of them, as of a penalty on its weights, is refused.

    An iteration that failed in between cannot be repeated: some weights have been updated and others not. It
    takes a state from before it, and a new set of `updated`.
    """

    def __init__(self, optimizer: torch.optim.Adam, vae: nn.Module, network: nn.Module, tf32: bool = False):
        self.optimizer, self.tf32 = optimizer, tf32
        pairs = zip(vae.parameters(), network.parameters(), strict=True)
        self.copies: dict[Tensor, Tensor] = {weight: copy for weight, copy in pairs if weight is not copy}
        self.layers = [
            (owner, layer)
            for owner, layer in zip(vae.modules(), network.modules(), strict=True)
            if isinstance(layer, Linear | PixelLinear)
        ]
        self.updated: set[Tensor] = set()

    def groups(self) -> dict[Tensor, dict]:
        """The settings of each weight."""
        return {weight: group for group in self.optimizer.param_groups for weight in group["params"]}

    def row(self, weight: Tensor, group: dict) -> list[Tensor] | None:
        """Weight, exp_avg, exp_avg_sq, step, learning rate and the copy, if any, for the ops; or None.

        The ops are for the settings of the paper, float32, and a state that is there, laid out without gaps
        and as the weight is.
        """
        state = self.optimizer.state.get(weight, {})
        row = [weight, *(state.get(name) for name in STATE), group["lr"]]
        usual = all(group[name] == value for name, value in SETTINGS.items())
        copy = [self.copies[weight]] if weight in self.copies else []
        return [*row, *copy] if usual and fits(*row, *copy) else None

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Linear layers that are called within are updated in the backward pass."""
        if self.updated:
            raise RuntimeError("Adam: the last iteration was not finished; restore a state from before it")
        groups = self.groups()
        for owner, layer in self.layers:
            weight, bias = (self.row(own, groups[own]) for own in owner.parameters())
            learns = all(own.requires_grad for own in layer.parameters())
            if learns and weight is not None and weight[0].is_contiguous() and bias is not None:
                layer.update = partial(self.update, isinstance(layer, PixelLinear), weight, bias)
        try:
            yield
        finally:
            for _, layer in self.layers:
                layer.update = None

    def update(
        self, inputs_first: bool, weight: list[Tensor], bias: list[Tensor], x: Tensor, y: Tensor
    ) -> None:
        """An update of a layer, from its input and the gradient of its output, (N, in) and (N, out)."""
        if weight[0] in self.updated:
            raise RuntimeError("Adam: a second update of a layer before the first one was finished")
        rows, columns = (x, y) if inputs_first else (y, x)
        torch.ops.lvae.layer_.default(rows, columns, not inputs_first, self.tf32, weight, bias)
        for row in (weight, bias):  # autograd does not see that the op writes; it only reads step and rate
            torch.autograd.graph.increment_version([*row[:3], *row[5:]])
            self.updated.add(row[0])

    @torch.no_grad()
    def finish(self) -> None:
        """Update the weights that have a gradient, and count the updates of the linear layers as well."""
        rows, rest = [], []
        for weight, group in self.groups().items():
            gradient = self.copies.get(weight, weight).grad
            if gradient is None:
                continue
            if weight in self.updated:
                raise RuntimeError("Adam: a weight that backward has updated has another gradient as well")
            row = self.row(weight, group)
            if row is not None and layout(gradient) == layout(weight):
                rows.append([row[0], gradient, *row[1:]])
            else:
                rest.append((weight, gradient))
        done = [self.optimizer.state[weight]["step"] for weight in self.updated]
        for width in sorted({len(row) for row in rows}) or ([0] if done else []):
            lists = [list(column) for column in zip(*(row for row in rows if len(row) == width), strict=True)]
            lists += [[]] * (7 - len(lists))
            torch.ops.lvae.adam_.default(*lists, done)
            torch.autograd.graph.increment_version(
                [*lists[0], *lists[2], *lists[3], *lists[4], *lists[6], *done]
            )
            done = []
        if rest:
            self.by_torch(rest)
        self.updated = set()

    def by_torch(self, rest: list[tuple[Tensor, Tensor]]) -> None:
        """Update these weights with these gradients, and no others."""
        self.optimizer.zero_grad()
        for weight, gradient in rest:
            weight.grad = gradient.to(weight.dtype)
        self.optimizer.step()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the copies those of the weights."""
        for weight, copy in self.copies.items():
            copy.copy_(weight)


def fits(weight: Tensor, *others: Tensor | float | None) -> bool:
    """Whether the ops can take what `ByOp.row` names."""
    row = [each for each in (weight, *others) if isinstance(each, Tensor)]
    return (
        len(row) == 1 + len(others)
        and all(each.device == weight.device for each in row)
        and all(each.dtype == (torch.bfloat16 if k == 5 else torch.float32) for k, each in enumerate(row))
        and dense(weight)
        and all(layout(each) == layout(weight) for each in (*row[1:3], *row[5:]))
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
