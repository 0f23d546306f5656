"""The C++ op, and the CUDA source on its host stand-in, under AddressSanitizer and UBSan.

Each test starts Python with the sanitizers' runtime loaded first, since Python itself is built without.
Leaks are not checked: Python and torch keep memory until they end.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import host_kernel
import pytest

from lvae_min import fused

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
ACCURACY = "tests/test_fused.py::test_fused_loss_is_as_accurate_as_the_reference"
# The op built from the sources in one folder, with more flags; then pytest.
SUITE = """
import sys
from pathlib import Path
import pytest
from lvae_min import fused
fused.CSRC, flags, arguments = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3:]
fused.CXX_FLAGS = [*fused.CXX_FLAGS, *flags]
assert not fused.why_not(), fused.why_not()     # without the op its tests are skipped
assert "libasan" in Path("/proc/self/maps").read_text()
sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", *arguments]))
"""

FAULTS = {  # what is wrong: file, what stands there, what is put in its place, what the sanitizer says
    "a pixel after the last is read": (
        "lvae.cpp",
        "; i + j < n; ++j)",
        "; i + j <= n; ++j)",
        "heap-buffer-overflow",
    ),
    "a sum is written after the last": (
        "lvae.cpp",
        "part(a + b);",
        "part(a + b - 1);",
        "heap-buffer-overflow",
    ),
    "a lane after the last is added": ("lvae.cpp", "j < half; ++j)", "j <= half; ++j)", "out of bounds"),
    "an integer overflows": (
        "lvae_math.h",
        "bits_of<uint32_t>(t) << 23}",
        "uint32_t(bits_of<int32_t>(t) * (1 << 23))}",
        "signed integer overflow",
    ),
}


def runtime(name: str) -> str:
    """The path of a library of g++, empty if there is none."""
    if shutil.which("g++") is None:
        return ""
    path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else ""


# libstdc++ as well: AddressSanitizer looks for the C++ exceptions when it starts, and Python has none.
PRELOADED = [runtime(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so.6")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(PRELOADED), reason="no g++ with AddressSanitizer and UndefinedBehaviorSanitizer"
    ),
]


def run(*arguments, **environment):
    """Python with the sanitizers loaded: exit status and output."""
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(PRELOADED),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def run_suite(csrc, folder, *arguments):
    compiler = folder / "g++"  # itself without the sanitizers: they would make it slow
    compiler.write_text('#!/bin/sh\nunset LD_PRELOAD\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    return run("-c", SUITE, csrc, " ".join(FLAGS), *arguments, TORCH_EXTENSIONS_DIR=folder, CXX=compiler)


def test_the_op_passes_its_tests_under_the_sanitizers(tmp_path):
    status, output = run_suite(
        fused.CSRC,
        tmp_path,
        "-m",
        "not unbuilt and not slow",
        "tests/test_fused.py",
        "tests/test_fused_autograd.py",
    )
    assert status == 0, output[-5000:]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_op_is_caught(tmp_path, fault):
    name, old, new, complaint = FAULTS[fault]
    csrc = shutil.copytree(fused.CSRC, tmp_path / "csrc")
    text = (csrc / name).read_text()
    assert text.count(old) == 1
    (csrc / name).write_text(text.replace(old, new))
    status, output = run_suite(csrc, tmp_path, ACCURACY, "-k", "float32-uint8")
    assert status != 0 and complaint in output, output[-5000:]


def test_the_cuda_source_passes_on_the_host_under_the_sanitizers(tmp_path):
    status, output = run(host_kernel.__file__, host_kernel.build(tmp_path, flags=FLAGS))
    assert status == 0, output[-5000:]


def test_a_fault_in_the_cuda_source_is_caught(tmp_path):
    fault = "i < packs; i += threads)", "i <= packs; i += threads)"
    status, output = run(host_kernel.__file__, host_kernel.build(tmp_path, *fault, flags=FLAGS))
    assert status != 0 and "heap-buffer-overflow" in output, output[-5000:]
