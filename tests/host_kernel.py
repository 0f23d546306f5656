"""The CUDA kernels compiled by a C++ compiler (cuda_on_host.h), on tensors of the CPU, and what must hold.

`python host_kernel.py LIBRARY` exits with 1 if something does not hold, for builds that may crash.
"""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))

from lvae_min import losses  # noqa: E402

KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
GUARD = 64  # elements before and after each result
NAMES = ("loss", "rec", "kl", "d_logits", "d_mu", "d_logvar", "d_sigma")


def structure(**fields):
    return type("Structure", (ctypes.Structure,), {"_fields_": list(fields.items())})


P, I32, I64, F64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
Scalar = structure(data=P, kind=I32)
Latents = structure(data=P, grad=P, kind=I32, row=I64, column=I64)
Problem = structure(
    logits=P,
    x=P,
    d_logits=P,
    kind=I32,
    x_is_byte=ctypes.c_bool,
    pixels=I64,
    rows=I64,
    latents=I64,
    scale=F64,
    mu=Latents,
    logvar=Latents,
    sigma=Scalar,
    sigma_stride=I64,
    d_sigma=Scalar,
    loss=Scalar,
    rec=Scalar,
    kl=Scalar,
)
Scaling = structure(data=P, kind=I32, size=I64, factor=Scalar)
Scalings = structure(item=Scaling * 4)
AdamTensor = structure(weight=P, gradient=P, exp_avg=P, exp_avg_sq=P, step=P, lr=P, copy=P, size=I64)
Layer = structure(
    rows=P,
    columns=P,
    n=I64,
    height=I64,
    width=I64,
    weight=AdamTensor,
    bias=AdamTensor,
    bias_of_rows=ctypes.c_bool,
    tensor_cores=ctypes.c_bool,
)


def build(folder: Path, old: str = "", new: str = "", flags: tuple[str, ...] = ()) -> Path:
    """Compile the kernels, after replacing `old`, which must be there exactly once, by `new`."""
    shutil.copytree(TESTS.parent / "csrc", folder, dirs_exist_ok=True)
    headers = [*folder.glob("*.cuh"), *folder.glob("*.h")]
    texts = {kernels: kernels.read_text() for kernels in headers}
    found = sum(text.count(old) for text in texts.values())
    assert not old or found == 1, f"{old!r} is {found} times in the kernels"
    for kernels, text in texts.items():
        kernels.write_text(text.replace(old, new) if old else text)
    library = folder / "host.so"
    subprocess.run(
        [
            "g++",
            "-std=c++20",
            "-O1",
            "-fPIC",
            "-shared",
            "-DLVAE_MAX_BLOCKS=4",
            *flags,
            f"-I{folder}",
            f"-I{TESTS}",
            str(TESTS / "cuda_on_host.cpp"),
            "-o",
            str(library),
        ],
        check=True,
    )
    return library


class Guarded:
    """A result of `size` elements, `offset` elements off alignment, with guards that nobody may write to."""

    def __init__(self, size: int, dtype: torch.dtype, offset: int = 0):
        self.whole = torch.full((size + 2 * GUARD + offset,), 99.0, dtype=dtype)
        self.part = self.whole[GUARD + offset : GUARD + offset + size]

    def intact(self) -> bool:
        start = self.part.storage_offset()
        return bool(
            (self.whole[:start] == 99).all() and (self.whole[start + self.part.numel() :] == 99).all()
        )


def scalar(tensor):
    return Scalar() if tensor is None else Scalar(tensor.data_ptr(), KINDS[tensor.dtype])


class HostKernel:
    def __init__(self, library: Path):
        self.library = ctypes.CDLL(str(library))
        for function in (self.library.elbo, self.library.scale, self.library.adam, self.library.layer):
            function.restype = ctypes.c_char_p
        assert self.library.problem_size() == ctypes.sizeof(Problem)

    def elbo(self, logits, x, mu, logvar, sigma=None, scale=None, seed=0, grad=True, offset=0):
        """The op: a dict of its seven results. Raises RuntimeError for a deadlock or a damaged guard."""
        wide = torch.promote_types(logits.dtype, torch.float32)
        sizes = {
            "loss": 1,
            "rec": 1,
            "kl": 1,
            "d_logits": logits.numel(),
            "d_mu": mu.numel(),
            "d_logvar": mu.numel(),
            "d_sigma": 2,
        }
        types = dict.fromkeys(NAMES, wide) | {
            "d_logits": logits.dtype,
            "d_mu": mu.dtype,
            "d_logvar": logvar.dtype,
        }
        out = {
            name: Guarded(size, types[name], offset * (name == "d_logits")) for name, size in sizes.items()
        }
        partial = Guarded(self.library.partials(), torch.float64)
        at = {
            name: result.part.data_ptr() if grad or name in ("loss", "rec", "kl") else None
            for name, result in out.items()
        }
        latents = [
            Latents(t.data_ptr(), at[d], KINDS[t.dtype], *t.stride())
            for t, d in ((mu, "d_mu"), (logvar, "d_logvar"))
        ]
        results = [Scalar(at[name], KINDS[types[name]]) for name in ("loss", "rec", "kl")]
        d_sigma = Scalar(at["d_sigma"], KINDS[wide]) if sigma is not None else Scalar()
        if scale is None:
            scale = 1 / 255 if x.dtype == torch.uint8 else 1.0
        problem = Problem(
            logits.data_ptr(),
            x.data_ptr(),
            at["d_logits"],
            KINDS[logits.dtype],
            x.dtype == torch.uint8,
            logits.numel(),
            *mu.shape,
            scale,
            *latents,
            scalar(sigma),
            1,
            d_sigma,
            *results,
        )
        complaint = self.library.elbo(ctypes.byref(problem), P(partial.part.data_ptr()), seed)
        self._raise(complaint, *out.values(), partial)
        return {name: result.part for name, result in out.items()}

    def scale(self, tensors, factors):
        """Multiply four tensors in place, each by its factor."""
        items = [
            Scaling(t.data_ptr(), KINDS[t.dtype], t.numel(), scalar(f))
            for t, f in zip(tensors, factors, strict=True)
        ]
        self._raise(self.library.scale(ctypes.byref(Scalings((Scaling * 4)(*items)))))

    def adam(self, rows, done=()):
        """One update of each row in place: weight, gradient, exp_avg, exp_avg_sq, step, lr, perhaps a copy.

        It counts in the steps that are `done` as well.
        """
        nothing = torch.empty(0)
        items = [self.adam_tensor(*row) for row in [*rows, *([nothing] * 4 + [step] for step in done)]]
        self._raise(self.library.adam((AdamTensor * len(items))(*items), I64(len(items))))

    def layer(self, rows, columns, bias_of_rows, tensor_cores, weight, bias, seed=0):
        """One update in place of weight and bias: themselves, exp_avg, exp_avg_sq, step, lr, copy."""
        weight, bias = (
            self.adam_tensor(each[0], None, *each[1:]) if each else AdamTensor() for each in (weight, bias)
        )
        at = [rows.data_ptr(), columns.data_ptr(), len(rows), rows.shape[1], columns.shape[1]]
        layer = Layer(*at, weight, bias, bias_of_rows, tensor_cores)
        half = ctypes.c_bool(rows.dtype == torch.bfloat16)
        self._raise(self.library.layer(ctypes.byref(layer), half, seed))

    @staticmethod
    def adam_tensor(*row):
        places = [None if each is None or not each.numel() else each.data_ptr() for each in row]
        return AdamTensor(*places, *[None] * (7 - len(row)), row[0].numel())

    @staticmethod
    def _raise(complaint, *guarded):
        if complaint:
            raise RuntimeError(complaint.decode())
        if not all(result.intact() for result in guarded):
            raise RuntimeError("written outside of a result")


class Ops:
    """`HostKernel.layer` and `.adam` by torch's ops on a device; what lies off alignment does so there."""

    def __init__(self, device):
        self.device = device

    def placed(self, tensor):
        off = tensor.storage_offset() % 4
        memory = torch.empty(tensor.numel() + off, dtype=tensor.dtype, device=self.device)
        return memory[off:].view(tensor.shape).copy_(tensor)

    def layer(self, rows, columns, bias_of_rows, tensor_cores, weight, bias, seed=0):
        there = [[self.placed(tensor) for tensor in each] for each in (weight, bias)]
        torch.ops.lvae.layer_(self.placed(rows), self.placed(columns), bias_of_rows, tensor_cores, *there)
        for tensor, moved in zip([*weight, *bias], [*there[0], *there[1]], strict=True):
            tensor.copy_(moved)

    def adam(self, rows, done=()):
        there = [[self.placed(tensor) for tensor in row] for row in rows]
        columns, counts = list(zip(*there, strict=True)), [self.placed(step) for step in done]
        torch.ops.lvae.adam_(*columns[:6], columns[6] if columns[6:] else [], counts)
        for row, moved in zip([*rows, done], [*there, counts], strict=True):
            for tensor, new in zip(row, moved, strict=True):
                tensor.copy_(new)


def inputs(n, d, latents=3, dtype=torch.float32, pixel=torch.uint8, latent=None, offsets=(0, 0)):
    """Random logits, x, mu, logvar, sigma.

    dtype, pixel, latent   of logits, of x, of mu and logvar (default: float32, or float64 where logits are)
    offsets                how many elements logits and x are off alignment; mu and logvar are strided
    """
    draw = torch.Generator().manual_seed(n * 7919 + d)
    logits = 4 * torch.randn(n * d + offsets[0], generator=draw, dtype=torch.float64)
    x = torch.randint(0, 256, (n * d + offsets[1],), generator=draw, dtype=torch.uint8)
    x = x if pixel == torch.uint8 else (x / 255).to(pixel)
    wide = torch.promote_types(dtype, torch.float32)
    mu, logvar = (
        torch.randn(n, 2 * latents, generator=draw, dtype=torch.float64).to(latent or wide).chunk(2, 1)
    )
    return (
        logits.to(dtype)[offsets[0] :].view(n, d),
        x[offsets[1] :].view(n, d),
        mu,
        logvar,
        torch.tensor([1.25, 0.75], dtype=wide),
    )


def by_twin(arguments, dtype):
    """The seven results by `losses.lvae_loss` in `dtype` (x and the logits keep theirs where it is None)."""
    logits, x, mu, logvar, sigma = arguments
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (logits, mu, logvar, sigma)]
    pixels = x if dtype is None or x.dtype == torch.uint8 else x.to(dtype)
    results = losses.lvae_loss(leaves[0], pixels, *leaves[1:])
    return dict(zip(NAMES, (*results, *torch.autograd.grad(results[0], leaves)), strict=True))


def assert_close(given, arguments):
    """Each result errs at most twice as much as the twin does, or by 4e-7 of itself (float64: 1e-12).

    Largest error against largest error.
    """
    slack = 1e-12 if arguments[0].dtype == torch.float64 else 4e-7
    exact, twin = by_twin(arguments, torch.float64), by_twin(arguments, None)
    for name in NAMES:
        truth, theirs, ours = (r[name].detach().double().flatten() for r in (exact, twin, given))
        if not truth.numel():
            continue
        allowed = max(2 * (theirs - truth).abs().max(), slack * truth.abs().max())
        error = (ours - truth).abs().max()
        assert error <= allowed, (name, error.item(), allowed.item())


# Four blocks of 256 threads with packs of 4: 4096 elements are one round of the loop.
SIZES = [
    (1, 1),
    (1, 3),
    (1, 4),
    (1, 5),
    (3, 37),
    (1, 1023),
    (1, 1024),
    (5, 205),
    (2, 2048),
    (1, 4097),
    (7, 1999),
]
TYPES = [
    (torch.float32, torch.uint8),
    (torch.float32, torch.float32),
    (torch.float64, torch.uint8),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.uint8),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.uint8),
    (torch.float16, torch.float32),
]


HALF_LATENTS = [  # as autocast makes them
    (torch.bfloat16, torch.uint8, torch.bfloat16),
    (torch.float16, torch.float32, torch.float16),
]


def check_sizes(kernel, types=TYPES[:1], offset=0):
    for kinds in types:
        for seed, (n, d) in enumerate(SIZES):
            arguments = inputs(n, d, 3, *kinds, offsets=(offset, offset))
            assert_close(kernel.elbo(*arguments, seed=seed, offset=offset), arguments)
    arguments = inputs(150, 8, latents=9)  # more latents than threads
    assert_close(kernel.elbo(*arguments, seed=1), arguments)
    logits, x, *latents, sigma = arguments
    turned = [t.t().contiguous().t() for t in latents]  # columns of memory, not rows
    assert_close(kernel.elbo(logits, x, *turned, sigma, seed=2), arguments)


def check_alignment(kernel):
    """Of logits, x and the gradient of the logits, one at a time is off alignment."""
    for kinds in TYPES:
        for place in range(3):
            off = [int(place == other) for other in range(3)]
            arguments = inputs(2, 2048, 3, *kinds, offsets=off[:2])
            assert_close(kernel.elbo(*arguments, offset=off[2]), arguments)


def check_scaling(kernel):
    one, third = torch.ones(()), torch.tensor(1 / 3)
    for factors in ((one, third, third, one), (third, one, one, None)):
        tensors = [torch.arange(float(size)) for size in (2500, 7, 7, 2)]
        expected = [t if f is None else t * f for t, f in zip(tensors, factors, strict=True)]
        kernel.scale(tensors, factors)
        for given, wanted in zip(tensors, expected, strict=True):
            assert torch.equal(given, wanted)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):  # more elements than threads
        tensors = [torch.linspace(-9, 9, size).to(dtype) for size in (2500, 7, 7, 2)]
        expected = [t * 3 for t in tensors]
        kernel.scale(tensors, [torch.tensor(3.0)] * 4)
        assert all(torch.equal(*pair) for pair in zip(tensors, expected, strict=True))


# A block of Adam's kernel has 1024 elements of one tensor; a launch has at most 48 tensors.
ADAM_SIZES = [1, 3, 7, 1023, 1024, 1025, 4097, 2048, *[2] * 50]


def guarded(tensor, offset=0):
    result = Guarded(tensor.numel(), torch.float32, offset)
    result.part.copy_(tensor)
    return result


def adam_case(offset, step, half):
    """torch's Adam in float64 for weights of two rates, and the same for the kernel: six Guarded a weight.

    With `half` the gradients are in bfloat16, and a seventh is for the copy.
    """
    kind = torch.bfloat16 if half else torch.float32
    draw = torch.Generator().manual_seed(step)
    rates = [torch.tensor([1e-2]), torch.tensor([3e-3])]
    exact_weights, ours = [], []
    for k, size in enumerate(ADAM_SIZES):
        weight, mean, square = torch.randn(3, size, generator=draw)
        six = [weight, torch.zeros(size), mean * (step > 0), (square.square() + 1e-3) * (step > 0)]
        # Of long ones, one of the four; of the last long one, the copy alone.
        off = [offset * (not 3 <= k <= 7 or k - 3 == j) for j in range(4)]
        ours.append([guarded(part, each) for part, each in zip(six, off, strict=True)])
        ours[-1][1] = Guarded(size, kind, off[1])
        ours[-1] += [guarded(torch.tensor([float(step)])), guarded(rates[k % 2])]
        ours[-1] += [Guarded(size, kind, offset * (k % 2))] * half
        exact_weights.append(weight.double().requires_grad_())
    groups = [{"params": exact_weights[k::2], "lr": rates[k].item()} for k in range(2)]
    return torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8), exact_weights, ours, draw


def check_adam(kernel, offset=0, half=False, steps=(0, 1, 1000), updates=3):
    """Each update errs by 1e-6 of the way that the larger of mean and gradient would move the weight."""
    for step in steps:
        optimizer, exact_weights, ours, draw = adam_case(offset, step, half)
        before, done = [], guarded(torch.tensor([float(step)]))
        for _ in range(updates):
            before.clear()
            for exact, six in zip(exact_weights, ours, strict=True):
                six[1].part.copy_(torch.randn(len(exact), generator=draw))
                six[1].part[::3] *= 1e-7  # where eps counts
                old, exact.grad, mean, square, count = (each.part.double() for each in six[:5])
                exact.data.copy_(old)
                optimizer.state[exact] = {"step": count[0].float(), "exp_avg": mean, "exp_avg_sq": square}
                before.append((old, mean.clone(), square.clone()))
            optimizer.step()
            kernel.adam([[each.part for each in six] for six in ours], [done.part])
            assert all(each.intact() for six in [*ours, [done]] for each in six), (
                "written outside of a tensor"
            )
            for (old, mean, square), exact, six in zip(before, exact_weights, ours, strict=True):
                new, state = exact.detach(), optimizer.state[exact]
                most = torch.maximum(mean.abs(), exact.grad.abs())
                way = (new - old).abs() / state["exp_avg"].abs() * most
                errors = [(six[k].part - t).abs() for k, t in ((0, new), (2, state["exp_avg"]))]
                assert (errors[0] <= 1e-6 * way + 1.2e-7 * torch.maximum(new.abs(), old.abs())).all()
                assert (errors[1] <= 2e-7 * most).all()
                most = torch.maximum(square, exact.grad.square())
                assert ((six[3].part - state["exp_avg_sq"]).abs() <= 2e-7 * most).all()
                assert six[4].part.item() == done.part.item() == state["step"].item()
                assert not half or torch.equal(six[6].part, six[0].part.bfloat16())


def tf32(tensor):
    """Rounded to 10 bits of fraction, halves away from zero."""
    return ((tensor.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def check_layer(
    kernel, n, height, width, half=False, tensor_cores=False, bias_of_rows=True, offsets=(0,) * 6, seed=0
):
    """Weights and biases move as by Adam in float64 with the gradients that torch has in float64.

    offsets   how far off alignment are rows, columns, weight, exp_avg, exp_avg_sq and copy
    """
    draw = torch.Generator().manual_seed(n + 100 * height + width)
    kind = torch.bfloat16 if half else torch.float32
    rows, columns = (
        Guarded(n * size, kind, offset) for size, offset in zip((height, width), offsets, strict=False)
    )
    for matrix in (rows, columns):
        matrix.part.copy_(torch.randn(len(matrix.part), generator=draw))
    rows, columns = rows.part.view(n, height), columns.part.view(n, width)
    exact, owned = [], []
    for shape in ((height, width), (height if bias_of_rows else width,)):
        size = torch.Size(shape).numel()
        weight, mean = torch.randn(2, size, generator=draw)
        five = [
            weight,
            mean,
            torch.rand(size, generator=draw) + 1e-3,
            torch.tensor([7.0 - len(owned)]),
            torch.tensor([0.01 / (1 + len(owned))]),
        ]
        owned.append([guarded(part, (*offsets[2:5], 0, 0)[k]) for k, part in enumerate(five)])
        owned[-1] += [Guarded(size, torch.bfloat16, offsets[5])] * half
        exact.append(weight.double().view(shape).requires_grad_())
    given = [tf32(matrix) if tensor_cores else matrix for matrix in (rows.float(), columns.float())]
    exact[0].grad = given[0].double().t() @ given[1].double()
    exact[1].grad = (rows if bias_of_rows else columns).double().sum(0)
    rates = [five[4].part.item() for five in owned]
    groups = [{"params": [weight], "lr": lr} for weight, lr in zip(exact, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8)
    for weight, five in zip(exact, owned, strict=True):
        mean, square = (five[k].part.double().view(weight.shape) for k in (1, 2))
        optimizer.state[weight] = {"step": five[3].part[0].clone(), "exp_avg": mean, "exp_avg_sq": square}
    optimizer.step()
    parts = [[each.part for each in five] for five in owned]
    kernel.layer(rows, columns, bias_of_rows, tensor_cores, *parts, seed=seed)
    assert all(each.intact() for five in owned for each in five), "written outside of a tensor"
    for count, weight, (ours, mean, square, step, _, *copy) in zip((7, 6), exact, parts, strict=True):
        state = optimizer.state[weight]
        for found, expected in ((ours, weight), (mean, state["exp_avg"]), (square, state["exp_avg_sq"])):
            torch.testing.assert_close(found.double(), expected.detach().view(-1), rtol=2e-5, atol=2e-5)
        assert step.item() == count  # `adam` counts
        assert not copy or torch.equal(copy[0], ours.bfloat16())
    return [part for five in parts for part in five]


LAYERS = [(1, 1, 1), (3, 5, 7), (64, 64, 64), (65, 128, 68), (130, 20, 66), (7, 65, 132)]  # n, height, width


def check_layers(kernel, offset=0):
    for number, shape in enumerate(LAYERS):
        for half, tensor_cores in ((False, False), (False, True), (True, True)):
            check_layer(kernel, *shape, half, tensor_cores, bool(number % 2), (offset,) * 6, number)
            check_layer(kernel, *shape, half, tensor_cores, not number % 2, (offset,) * 6, number)
            if offset and shape == (64, 64, 64):  # one of the six at a time
                for place in range(6):
                    offsets = tuple(offset * (place == other) for other in range(6))
                    check_layer(kernel, *shape, half, tensor_cores, offsets=offsets)


def check_all(library: Path) -> None:
    kernel = HostKernel(library)
    kernel.adam([], [torch.zeros(1)])  # nothing but a count
    for half in (False, True):
        check_adam(kernel, 0, half)
        check_adam(kernel, 1, half)
    check_layers(kernel)
    check_layers(kernel, offset=1)
    check_scaling(kernel)
    check_sizes(kernel)
    check_sizes(kernel, offset=1)
    check_sizes(kernel, HALF_LATENTS)
    check_alignment(kernel)


if __name__ == "__main__":
    check_all(Path(sys.argv[1]))
