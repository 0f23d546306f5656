"""The two terms and the loss of Eq. 5 as one op in C++ and CUDA: the signatures and numbers of `losses`.

The op (csrc/) is compiled when it is first needed, in seconds, and kept. With LVAE_BUILD=1 set,
`pip install --no-build-isolation .` compiles it ahead of time. Where that is impossible `why_not()` says why
in one line, and `losses.implementation` takes the functions of `losses`. How it joins PyTorch: the schema and
the CPU and CUDA kernels are registered in csrc/; `_register` adds shapes without data (a fake implementation)
and the derivative, which is all that torch.compile needs. Eager mode goes through `_Elbo`, which does the
same with less overhead (measured: bench/loss.py) and multiplies the gradients in place.
"""

import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

HERE = Path(__file__).resolve().parent
CSRC = HERE / "csrc" if (HERE / "csrc").is_dir() else HERE.parent / "csrc"  # installed; in the repository
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10 and later
# The two -fno- flags let the compiler turn a comparison into a blend; no result changes. Never -ffast-math.
CXX_FLAGS = ["-O3", "-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", STABLE_ABI]
NVCC_FLAGS = ["-O3", "-std=c++20", "-DUSE_CUDA", STABLE_ABI]
_LOADING = threading.Lock()


def elbo_terms(
    logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """`losses.elbo_terms` in one pass over the image: rec and kl, both differentiable.

    Raises ValueError for wrong shapes, dtypes or devices, RuntimeError if the op is not built for the device.
    """
    return _call(logits, x, mu, logvar, None, scale)[1:]


def lvae_loss(
    logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, sigma: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`losses.lvae_loss` in one pass over the image: loss; rec and kl for the log (they carry no gradient).

    Raises ValueError for wrong shapes, dtypes or devices, RuntimeError if the op is not built for the device.
    """
    check_sigma(sigma, logits)
    return _call(logits, x, mu, logvar, sigma, scale)


def available(device: torch.device | str = "cpu") -> bool:
    """Whether the op works on this device; the first call compiles it."""
    return not why_not(device)


def why_not(device: torch.device | str = "cpu") -> str:
    """Why the op is not available, in one line; empty if it is."""
    reason, cuda_reason = _load()
    kind = torch.device(device).type
    if reason or kind == "cpu":
        return reason
    return cuda_reason if kind == "cuda" else f"made for the CPU and CUDA, not for {kind}"


# ------------------------------------------------------------------------------------------------ the call


def pixel_scale(x: Tensor, scale: float | None) -> float:
    """What images are multiplied by; None: 1/255 for uint8, 1 for floats."""
    if scale is not None:
        return scale
    return 1 / 255 if getattr(x, "dtype", None) == torch.uint8 else 1.0


def check(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, scale: float) -> None:
    """Raise ValueError unless the arguments are as `losses.elbo_terms` describes them."""
    for name, given in (("logits", logits), ("x", x), ("mu", mu), ("logvar", logvar)):
        if not isinstance(given, Tensor):
            raise ValueError(f"{name} must be a tensor, given {type(given).__name__}")
    if logits.dim() < 1 or logits.shape != x.shape:
        raise ValueError(
            f"logits and x must both be (N, ...), given {tuple(logits.shape)} and {tuple(x.shape)}"
        )
    if mu.dim() != 2 or mu.shape != logvar.shape:
        raise ValueError(
            f"mu and logvar must both be (N, L), given {tuple(mu.shape)} and {tuple(logvar.shape)}"
        )
    if logits.shape[0] != mu.shape[0] or not mu.shape[0]:
        raise ValueError(
            "logits (N, ...) and mu (N, L) need the same N > 0, given "
            f"{tuple(logits.shape)} and {tuple(mu.shape)}"
        )
    if not scale > 0:
        raise ValueError(f"scale must be above 0, given {scale}")
    _check_types(logits, x, mu, logvar)


def check_sigma(sigma: Tensor, logits: Tensor) -> None:
    """Raise ValueError unless sigma is as `losses.lvae_loss` describes it."""
    if sigma.shape != (2,):
        raise ValueError(f"sigma must be (2,), given {tuple(sigma.shape)}")
    if sigma.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"sigma must be float32 or float64, given {sigma.dtype}")
    if sigma.device != logits.device:
        raise ValueError(f"sigma must be on {logits.device} like the logits, given {sigma.device}")


def _check_types(logits, x, mu, logvar):
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        raise ValueError(f"x must be uint8 or floating, given {x.dtype}")
    for name, tensor in (("logits", logits), ("mu", mu), ("logvar", logvar)):
        if tensor.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            raise ValueError(f"{name} must be float32, float64, bfloat16 or float16, given {tensor.dtype}")
    for name, tensor in (("x", x), ("mu", mu), ("logvar", logvar)):
        if tensor.device != logits.device:
            raise ValueError(f"{name} must be on {logits.device} like the logits, given {tensor.device}")


def _call(logits, x, mu, logvar, sigma, scale):
    scale = pixel_scale(x, scale)
    check(logits, x, mu, logvar, scale)
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x gets no gradient from the fused loss; detach it, or take that of lvae_min.losses")
    _require(logits.device.type)
    # Rounded to float16 before the loss scale (torch.amp.GradScaler) reaches it, the gradient of most pixels
    # of a trained model would be 0. As float32 it is multiplied first; torch rounds it on its way to the
    # logits.
    logits, mu, logvar = (t.float() if t.dtype == torch.float16 else t for t in (logits, mu, logvar))
    trained = torch.is_grad_enabled() and (
        logits.requires_grad
        or mu.requires_grad
        or logvar.requires_grad
        or (sigma is not None and sigma.requires_grad)
    )
    forward_mode = forward_ad._current_level >= 0  # the op would drop the tangents and give 0; _Elbo raises
    if torch.compiler.is_compiling():
        if forward_mode:
            raise RuntimeError(
                "the fused loss has no derivative in forward mode; that of lvae_min.losses has"
            )
    elif trained or forward_mode:
        return _Elbo.apply(logits, x, mu, logvar, sigma, scale)
    return torch.ops.lvae.elbo.default(logits, x, mu, logvar, sigma, scale, trained)[:3]


def _require(kind):
    if reason := why_not(kind):
        raise RuntimeError(f"the fused loss is not built: {reason}")


# torch.compile calls it for real, once, while it traces. It is what torch.compiler.assume_constant_result
# does, which imports the compiler for it: 1.2 s.
_require._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Elbo(torch.autograd.Function):
    """The op and its derivative in eager mode: the forward makes the gradients, the backward hands them on.

    They are multiplied by the incoming gradient in place, and not at all where it is 1, which the device
    finds out by itself. So they can be given away once: a second backward through the same graph
    (retain_graph) computes them afresh from the inputs.
    """

    @staticmethod
    def forward(ctx, logits, x, mu, logvar, sigma, scale):
        with torch._C._AutoDispatchBelowAutograd():  # past what _register puts there: 5 us of 32
            results = torch.ops.lvae.elbo.default(logits, x, mu, logvar, sigma, scale, True)
        loss, rec, kl, *ctx.gradients = results
        ctx.save_for_backward(logits, x, mu, logvar, sigma)
        ctx.scale, ctx.weighed = scale, sigma is not None
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*((loss,) if sigma is None else (rec, kl)))
        return loss, rec, kl

    @staticmethod
    def backward(ctx, g_loss, g_rec, g_kl):
        _refuse_second_derivative()
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # only now read the saved inputs: x may be refilled before the first backward
            gradients = torch.ops.lvae.elbo.default(*ctx.saved_tensors, ctx.scale, True)[3:]
        if ctx.weighed:
            g_rec = g_kl = g_loss
        torch.ops.lvae.scale_.default(*gradients, g_rec, g_kl)
        d_logits, d_mu, d_logvar, d_sigma = gradients
        return (
            d_logits if g_rec is not None else None,
            None,
            d_mu if g_kl is not None else None,
            d_logvar if g_kl is not None else None,
            d_sigma if g_loss is not None else None,
            None,
        )


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():  # create_graph=True: the result would be silently taken as constant
        raise RuntimeError("the fused loss has no second derivative; that of lvae_min.losses has")


def _register():
    """Fake implementation and derivative of the op, for torch.compile. Before its first use, and once."""

    @torch.library.register_fake("lvae::elbo")
    def _(logits, x, mu, logvar, sigma, scale, grad):
        wide = torch.promote_types(logits.dtype, torch.float32)
        loss = wide if sigma is None else torch.promote_types(wide, sigma.dtype)
        scalars = [logits.new_empty((), dtype=dtype) for dtype in (loss, wide, wide)]
        none = [logits.new_empty(0, dtype=wide) for _ in range(4)]
        if not grad:
            return *scalars, *none
        d_sigma = none[3] if sigma is None else sigma.new_empty(2)
        rows = mu.new_empty(mu.shape), logvar.new_empty(logvar.shape)
        return *scalars, torch.empty_like(logits), *rows, d_sigma

    def setup(ctx, inputs, output):
        loss, rec, kl, *gradients = output
        ctx.weighed, ctx.ready = inputs[4] is not None, inputs[6]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*gradients, *((rec, kl) if ctx.weighed else (loss,)))
        ctx.save_for_backward(*gradients)

    def backward(ctx, g_loss, g_rec, g_kl, *_):
        if not ctx.ready:
            raise RuntimeError("lvae::elbo was called with grad=False and has no gradients")
        if not torch.compiler.is_compiling():
            _refuse_second_derivative()
        if ctx.weighed:
            g_rec = g_kl = g_loss
        d_logits, d_mu, d_logvar, d_sigma = ctx.saved_tensors
        times = [None if g is None else g * d for g, d in ((g_rec, d_logits), (g_kl, d_mu), (g_kl, d_logvar))]
        d_sigma = g_loss * d_sigma if ctx.weighed and g_loss is not None else None
        return times[0], None, times[1], times[2], d_sigma, None, None

    torch.library.register_autograd("lvae::elbo", backward, setup_context=setup)

    @torch.library.register_fake("lvae::scale_")
    def _(d_logits, d_mu, d_logvar, d_sigma, g_rec, g_kl):
        return None


# ------------------------------------------------------------------------------------------------ the build


def _load() -> tuple[str, str]:
    """Load the op, compile it if need be: why it is not there, why its CUDA part is not; empty if it is."""
    with _LOADING:  # runs in threads of one process ask at the same moment
        return _load_once()


@functools.cache
def _load_once() -> tuple[str, str]:
    try:
        cuda_reason = _load_library()
    except Exception as error:  # whatever is wrong with a compiler must not stop a training run
        reason = _one_line(error)
        return reason, reason
    _register()
    on_cuda = torch._C._dispatch_has_kernel_for_dispatch_key("lvae::elbo", "CUDA")
    return "", "" if on_cuda else f"built for the CPU only: {cuda_reason}"


def _load_library() -> str:
    for ahead_of_time in HERE.glob("_C*.so"):
        try:
            torch.ops.load_library(ahead_of_time)
        except OSError:  # built for a torch that is too different: compile afresh
            continue
        if not hasattr(torch.ops.lvae, "layer_"):  # its ops cannot be defined again in this process
            raise RuntimeError(f"{ahead_of_time.name} is older than the package: install the package again")
        return "the library installed ahead of time has no CUDA part"
    cuda_reason = _why_no_cuda()
    if not cuda_reason:
        try:
            _build_and_load(["lvae.cpp", "lvae_cuda.cu"])
            return ""
        except Exception as error:
            cuda_reason = _one_line(error)
    _build_and_load(["lvae.cpp"])
    return cuda_reason


def _one_line(error: Exception) -> str:
    """The line of an error message of a compiler, ninja or Python that states the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    errors = [
        line
        for line in lines
        if not line.startswith("Error building extension")
        and re.search(r"\berror\b|not found|cannot find|no space|denied", line.lower())
    ]
    return (errors or lines)[0][:300]


def _why_no_cuda() -> str:
    """Why the CUDA part cannot be compiled, in one line; empty if it can be. Torch checks none of it."""
    return _toolkit()[1]


def _toolkit() -> tuple[str, str]:
    """The root of the CUDA toolkit to compile with, and why there is none; one of the two is empty.

    It is CUDA_HOME, or else /usr/local/cuda, or else what the nvcc on the PATH belongs to. Torch looks in
    another order, and takes the folder above an nvcc for the root, where a script that calls the real nvcc
    (/usr/local/bin/nvcc) has neither headers nor libraries beside it.
    """
    if torch.version.cuda is None:
        return "", "this torch has no CUDA"
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc", path=os.path.join(home, "bin")) or shutil.which("nvcc")
    if nvcc is None:
        return "", "nvcc not found"
    version = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    if version is None or version[1] != torch.version.cuda.split(".")[0]:
        found = version[0][8:] if version else "unreadable"
        return "", f"nvcc is {found}, torch is for CUDA {torch.version.cuda}"
    plan = _output(nvcc, "--dryrun", "-E", "-x", "cu", os.devnull)  # in which it says where it lies
    folders = [Path(line[10:]) for line in plan.splitlines() if line.startswith("#$ _HERE_=")]
    folders += [Path(nvcc).parent, Path(nvcc).resolve().parent]
    for root in (folder.parent for folder in folders):
        if any(root.glob("include/cuda_runtime.h")) or any(root.glob("targets/*/include/cuda_runtime.h")):
            return str(root), ""
    return "", f"{nvcc} has no include/cuda_runtime.h beside it; set CUDA_HOME to the toolkit it belongs to"


def _output(*command: str) -> str:
    """What a command prints, its errors among it; empty if it cannot be started."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    except OSError:
        return ""


@contextmanager
def toolkit():
    """Let torch's cpp_extension compile and link with the toolkit that `_toolkit` finds."""
    from torch.utils import cpp_extension

    root, before = _toolkit()[0], cpp_extension.CUDA_HOME  # found once, when it is imported
    if root:
        os.environ["CUDA_HOME"] = cpp_extension.CUDA_HOME = root
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before


def _folder(sources: list[str]) -> Path:
    """Where this version of the sources is built, for this torch and machine."""
    gpus = "lvae_cuda.cu" in sources and (  # nvcc compiles for the GPUs it finds; homes are shared
        os.environ.get("TORCH_CUDA_ARCH_LIST"),
        [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())],
    )
    digest = hashlib.sha256(repr((sources, CXX_FLAGS, NVCC_FLAGS, gpus)).encode())
    for file in sorted(CSRC.iterdir()):
        if file.suffix in (".cpp", ".h", ".cu", ".cuh"):
            digest.update(file.read_bytes())
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch_extensions"
    )
    return Path(root) / f"lvae-{digest.hexdigest()[:12]}-torch{torch.__version__}-{platform.machine()}"


def _name(sources: list[str]) -> str:
    """Of the library: two that are tried in one process need two, or torch adds a number to the second."""
    return Path(sources[-1]).stem


def _build_and_load(sources: list[str]) -> None:
    folder = _folder(sources)
    library, done = folder / f"{_name(sources)}.so", folder / "done"
    if done.exists():  # 3 ms instead of the 200 that torch's own check of the build takes
        torch.ops.load_library(library)
        return
    with _locked(folder):
        if not done.exists():  # else another process built it while this one waited
            _check_compilers()
            _refuse_what_failed(folder)
            # Torch's own lock: a killed build leaves it behind, and load() would wait for it for ever.
            (folder / "lock").unlink(missing_ok=True)
            try:
                _compile(sources, folder)
            except Exception as error:
                _remember(error, folder)
                raise
            done.touch()
            return  # compiling has loaded it
    torch.ops.load_library(library)


def _compiler() -> str:
    return (os.environ.get("CXX", "").split() or ["c++"])[0]


def _compilers() -> list[str]:
    """What compiles: another version of it, or another program, may succeed where this one failed."""
    compiler = _compiler()
    found = [os.path.realpath(shutil.which(compiler) or compiler), _output(compiler, "--version")]
    root = _toolkit()[0]
    return found + ([root, _output(os.path.join(root, "bin", "nvcc"), "--version")] if root else [])


def _remember(error: Exception, folder: Path) -> None:
    """Write down that a build failed: the next process need not find out again, which takes up to a minute.

    Not where the machine was at fault, which had no space left or killed the compiler: that passes.
    """
    if not re.search(r"no space|denied|killed|memory|interrupt", str(error).lower()):
        content = {"reason": _one_line(error), "compilers": _compilers()}
        with suppress(OSError):
            (folder / "failed.json").write_text(json.dumps(content))


def _refuse_what_failed(folder: Path) -> None:
    """Raise RuntimeError if these sources failed to build with these compilers before."""
    file = folder / "failed.json"
    try:
        failed = json.loads(file.read_text())
        reason = failed["reason"] if failed["compilers"] == _compilers() else None
    except (OSError, ValueError, TypeError, KeyError):  # none, or no such file: try
        return
    if reason:
        raise RuntimeError(f"{str(reason)[:120]} (failed before; to try again remove {file})")


@contextmanager
def _locked(folder: Path):
    """Hold the folder: one process builds, the others wait. The system lets go of it when a process dies."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / "flock", "w")
    except OSError as error:
        raise RuntimeError(f"cannot write to {folder} ({error.strerror}); set TORCH_EXTENSIONS_DIR") from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _path() -> str:
    """The PATH, with where pip puts ninja, activated or not."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def _check_compilers() -> None:
    """Raise RuntimeError if a program that every build needs is missing."""
    compiler = _compiler()
    if shutil.which(compiler, path=_path()) is None:
        raise RuntimeError(f"no C++ compiler: {compiler} not found")
    if shutil.which("ninja", path=_path()) is None:
        raise RuntimeError("ninja not found")


def choose_architectures() -> None:
    """Name the GPUs to compile for where there is none to ask: torch would fail then."""
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")


def _compile(sources: list[str], folder: Path) -> None:
    before, log = dict(os.environ), logging.getLogger("torch.utils.cpp_extension")
    level = log.level
    os.environ["PATH"] = _path()
    if not os.environ.get("CXX", "").strip():
        os.environ.pop("CXX", None)  # set to nothing, torch would call it
    try:
        choose_architectures()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            log.setLevel(logging.ERROR)  # that there is no GPU is no news
            from torch.utils import cpp_extension

            with toolkit():
                cpp_extension.load(
                    _name(sources),
                    [str(CSRC / name) for name in sources],
                    build_directory=str(folder),
                    extra_cflags=CXX_FLAGS,
                    extra_cuda_cflags=NVCC_FLAGS,
                    is_python_module=False,
                )
    finally:
        log.setLevel(level)
        for name in os.environ.keys() | before.keys():  # no others: another thread may be reading them
            if name not in before:
                del os.environ[name]
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]
