"""The CUDA source runs on the CPU, gives the right numbers, and these tests notice when it is wrong."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import host_kernel
import pytest
import torch
from host_kernel import HALF_LATENTS, TYPES, HostKernel, inputs

from lvae_min import fused

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")

ALIGNMENT = ("-fsanitize=alignment", "-fno-sanitize-recover=alignment")
FIRST_BARRIER = "  __syncthreads();    // lane 0 of every warp has written\n"
SECOND_BARRIER = "  __syncthreads();    // warp 0 has read: the next call may write\n"

FAULTS = {  # what is wrong: what stands in one of the headers of kernels, what is put in its place
    "the barrier before warp 0 reads is missing": (FIRST_BARRIER, ""),
    "the barrier after warp 0 has read is missing": (SECOND_BARRIER, ""),
    "half of the threads skip a barrier": (SECOND_BARRIER, "  if (threadIdx.x < 128) __syncthreads();\n"),
    "the wrong lane hands on a warp's sum": ("lane == 0", "lane == 1"),
    "a warp adds only half of its lanes": (
        "d = kWarp / 2; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);    // lane j",
        "d = kWarp / 4; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);    // lane j",
    ),
    "the stride between packs is one too long": ("i < packs; i += threads)", "i < packs; i += threads + 1)"),
    "one pack too many is read": ("i < packs; i += threads)", "i <= packs; i += threads)"),
    "the last element of the tail is left out": (
        "i < p.pixels; i += threads)",
        "i < p.pixels - 1; i += threads)",
    ),
    "the tail starts one element late": ("packs * size + thread;", "packs * size + thread + 1;"),
    "the alignment of the logits is not checked": (
        "aligned(p.logits, alignof(Pack<T, kPack<T>>)) &&",
        "true &&",
    ),
    "the alignment of the gradient is not checked": (
        "aligned(p.d_logits, alignof(Pack<T, kPack<T>>)) &&",
        "true &&",
    ),
    "the alignment of the pixels is not checked": (
        "aligned(p.x, alignof(Pack<X, kPack<T>>));",
        "true;",
    ),
    "latents in bfloat16 are read as others": (
        "case Kind::bf16: return widen(element<bf16>",
        "case Kind::bf16: return 2 * widen(element<bf16>",
    ),
    "the gradients of latents in float16 are not written": (
        "default: static_cast<f16*>(data)[i] = ",
        "default: auto lost = ",
    ),
    "a shuffle leaves lanes out": (
        "v += __shfl_down_sync(0xffffffffu, v, d);\n  }",
        "v += __shfl_down_sync(0x0000ffffu, v, d);\n  }",
    ),
    "a launch has no blocks": ("if (blocks > 0) LVAE_LAUNCH", "LVAE_LAUNCH"),
    "the last block's sum is left out": ("i < blocks; i += kThreads)", "i < blocks - 1; i += kThreads)"),
    "there are more blocks than places for sums": ("blocks > kMaxBlocks ?", "blocks > 2 * kMaxBlocks ?"),
    "sums land in each other's place": ("partial[2 * blockIdx.x + 1] = ", "partial[blockIdx.x + 1] = "),
    "the stride of mu is ignored": ("row * p.mu.row + ", "row * p.latents + "),
    "the stride between mu's columns is ignored": ("column * p.mu.column))", "column))"),
    "only the first threads' latents count": (
        "i < p.rows * p.latents; i += threads)",
        "i < 1; i += threads)",
    ),
    "a factor of 1 ends the scaling of all": ("if (factor == 1) continue;", "if (factor == 1) return;"),
    "Adam's number of updates is that before this one": ("*t.step + 1;", "*t.step + (*t.step == 0);"),
    "Adam's updates are not counted": ("*all.tensor[k].step += 1;", ";"),
    "Adam takes the rate of the first tensor": ("const Rates rates(t);", "const Rates rates(all.tensor[0]);"),
    "Adam writes past the end of a tensor": (
        "if (j < size) data[j] = rounded.v[j];",
        "data[j] = rounded.v[j];",
    ),
    "Adam's blocks have the tensor before": ("all.first[middle] <= b ?", "all.first[middle] < b ?"),
    "Adam has no eps": (" * rates.root + kEps", " * rates.root"),
    "Adam does not correct the bias of v": ("near_root(v) * rates.root", "near_root(v)"),
    "Adam rounds beta, not what it lacks to 1": ("kLessBeta2 = 1 - 0.999,", "kLessBeta2 = 1 - 0.999f,"),
    "Adam's alignment of weights is not looked at": (
        "= size == kAdamPack && aligned(t.weight, 16) &&",
        "= size == kAdamPack &&",
    ),
    "Adam's alignment of copies is not looked at": (
        "t.copy ? 8 : 16) && aligned(t.copy, 8);",
        "t.copy ? 8 : 16);",
    ),
    "Adam forgets the copy": ("if (t.copy) put_four", "if (false) put_four"),
    "a layer's tile is overwritten while others read it": ("if (from > 0) __syncthreads();", ""),
    "a layer's product is made before its rows are there": (
        "put<rounded>(columns);\n    __syncthreads();",
        "put<rounded>(columns);",
    ),
    "a layer's bias has the weight's rates": (
        "b.exp_avg_sq[mine], Rates(b))",
        "b.exp_avg_sq[mine], of_weight)",
    ),
    "a layer's product is put where others read": (
        "__syncthreads();\n    fragments.put(rows);",
        "fragments.put(rows);",
    ),
    "a layer's product is read before it is there": (
        "fragments.put(rows);\n    __syncthreads();",
        "fragments.put(rows);",
    ),
    "the tensor cores get the rows twice": ("to_tf32(rows[k][r + 8])", "to_tf32(rows[k][r])"),
    "the tensor cores get numbers cut off": ("(bits_of<uint32_t>(v) + 0x1000)", "bits_of<uint32_t>(v)"),
    "a fragment is put down transposed": ("+ 2 * member + k % 2] =", "+ 2 * member + 1 - k % 2] ="),
    "every block of a layer moves the bias": ("(p.bias_of_rows ? first : top) == 0 && ", ""),
    "a layer's bias is that of the other side": (
        "(p.bias_of_rows ? top : first) +",
        "(p.bias_of_rows ? first : top) +",
    ),
    "a layer's sums are over 64 images": (
        "from < p.n; from += kDeep",
        "from < p.n && from < 64; from += kDeep",
    ),
    "a layer's last rows are moved as others": (
        "row + i + j < p.height ? there : 0;\n      if",
        "there;\n      if",
    ),
    "a layer forgets the copy": ("if (t.copy) put_some", "if (false) put_some"),
    "a layer's alignment is not looked at": ("aligned(p.rows, sizeof(T) * kAdamPack) &&", ""),
    "the last element is not scaled": ("i < size; i += threads) data", "i < size - 1; i += threads) data"),
}


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """Futures of the kernels as they are ("") and with each fault, compiled several at a time.

    All are begun at once; by a worker of pytest-xdist, which needs a few, each when it is asked for.
    """
    root = tmp_path_factory.mktemp("kernels")

    class Jobs(dict):
        def __missing__(self, fault):
            flags = ALIGNMENT if "align" in fault else ()
            self[fault] = pool.submit(
                host_kernel.build, root / str(len(self)), *FAULTS.get(fault, ()), flags=flags
            )
            return self[fault]

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        jobs = Jobs()
        for fault in ("", "aligned", *FAULTS) if "PYTEST_XDIST_WORKER" not in os.environ else ():
            jobs[fault]
        yield jobs


@pytest.fixture
def kernel(libraries):
    return HostKernel(libraries[""].result())


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    "types", [*TYPES, *HALF_LATENTS], ids=lambda types: "-".join(str(t)[6:] for t in types)
)
def test_kernels_are_as_accurate_as_the_reference(kernel, types, offset):
    host_kernel.check_sizes(kernel, [types], offset)


def test_kernels_multiply_gradients_in_place_and_leave_those_of_one_alone(kernel):
    host_kernel.check_scaling(kernel)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_kernel_updates_weights_as_adam_in_float64_does(kernel, offset, half):
    host_kernel.check_adam(kernel, offset, half)


@pytest.mark.parametrize("offset", [0, 1])
def test_kernel_moves_a_layer_as_adam_in_float64_does_with_the_product(kernel, offset):
    host_kernel.check_layers(kernel, offset)


@pytest.mark.parametrize("of_rows", [True, False])
@pytest.mark.parametrize(
    "dtype, bits",  # what a GPU's arithmetic gives; the NaN with the smallest bits; the largest, negative
    [
        *((torch.int32, bits) for bits in (0x7FFFFFFF, 0x7F800001, -1)),
        *((torch.int16, bits) for bits in (0x7FFF, 0x7F81, -1)),
    ],
)
def test_a_gradient_that_is_not_a_number_is_not_hidden_by_the_tensor_cores(kernel, dtype, bits, of_rows):
    ones = torch.ones(2, 8, 64, dtype={torch.int32: torch.float32, torch.int16: torch.bfloat16}[dtype])
    ones.view(dtype)[0, 3, 5] = bits
    rows, columns = ones if of_rows else ones.flip(0)
    weight, bias = (
        [torch.ones(size), torch.ones(size), torch.ones(size), torch.ones(1), torch.ones(1)]
        for size in (4096, 64)
    )
    kernel.layer(rows, columns, of_rows, True, weight, bias)
    # Of the means: a weight turns to NaN even from an infinite gradient.
    moved = weight[1].view(64, 64) if of_rows else weight[1].view(64, 64).T
    lost = moved.isnan().all(1)
    assert lost.nonzero().flatten().tolist() == bias[1].isnan().nonzero().flatten().tolist() == [5]
    assert not moved[~lost].isnan().any()


def test_a_layer_moves_to_the_same_bits_in_whatever_order_the_warps_run(kernel):
    found = [host_kernel.check_layer(kernel, 130, 68, 66, tensor_cores=True, seed=seed) for seed in range(4)]
    assert all(all(map(torch.equal, found[0], other)) for other in found[1:])


def test_kernels_give_the_same_bits_in_whatever_order_the_warps_run(kernel):
    arguments = inputs(7, 1999)
    first, *others = (kernel.elbo(*arguments, seed=seed) for seed in range(5))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_kernels_write_no_gradient_where_none_is_wanted(kernel):
    arguments = inputs(3, 37)
    results = kernel.elbo(*arguments, grad=False)
    assert (results["d_logits"] == 99).all() and (results["d_mu"] == 99).all()
    assert torch.equal(results["loss"], kernel.elbo(*arguments)["loss"])


def test_kernels_without_sigma_give_the_plain_sum(kernel):
    results = kernel.elbo(*inputs(3, 37)[:4])
    assert results["loss"].item() == pytest.approx((results["rec"] + results["kl"]).item())


def run_apart(library):
    command = [sys.executable, host_kernel.__file__, str(library)]
    return subprocess.run(command, capture_output=True, text=True)


def test_kernels_read_and_write_only_at_aligned_addresses(libraries):
    done = run_apart(libraries["aligned"].result())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_kernels_is_noticed(libraries, fault):
    library = libraries[fault].result()
    if "alignment" in fault:  # ends the process
        assert "misaligned" in run_apart(library).stderr
        return
    with pytest.raises((AssertionError, RuntimeError)):
        host_kernel.check_all(library)


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
def test_nvcc_compiles_the_cuda_op_without_spilling_registers(tmp_path):
    include = Path(torch.__file__).parent / "include"
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (75, 80, 90)]
    done = subprocess.run(
        [
            NVCC,
            *fused.NVCC_FLAGS,
            *targets,
            "-Xcompiler",
            "-fPIC",
            "-Xptxas",
            "-v",
            f"-I{include}",
            "--threads",
            "2",
            f"-I{include}/torch/csrc/api/include",
            "-c",
            str(fused.CSRC / "lvae_cuda.cu"),
            "-o",
            str(tmp_path / "o"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stdout + done.stderr)
    assert len(kernels) == 3 * (8 + 2 + 2 + 6) and set(kernels) == {("0", "0")}
