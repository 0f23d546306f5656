#!/usr/bin/env bash
# The list for a machine with an NVIDIA GPU, the CUDA toolkit (nvcc, compute-sanitizer) and the package installed
# with its tests. It builds the op, runs the tests on CUDA, looks for faults in the kernels, and measures:
#
#     bash tests/on_gpu.sh [FILE]            FILE: where the measurements go (default: bench-gpu.json)
set -euo pipefail
cd "$(dirname "$0")/.."
stop() { echo "on_gpu.sh: $1" >&2; exit 1; }

python -c "import torch, sys; sys.exit(not torch.cuda.is_available())" 2> /dev/null ||
  stop "needs an NVIDIA GPU, and a torch that sees it"
sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) ||
  stop "needs compute-sanitizer, which comes with the CUDA toolkit"
reason=$(python -c "from lvae_min import fused; print(fused.why_not('cuda'))")
[ -z "$reason" ] || stop "the op is not built: $reason"

python -m pytest -rs tests/test_fused.py tests/test_fused_autograd.py tests/test_cuda_on_host.py tests/test_train.py

# Every size and type of test_fused.py, forward and backward. torch cuts its tensors out of large blocks, in which a
# read past the end of one is no fault; without that cache each tensor has memory of its own.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck synccheck initcheck; do
  echo "== $tool"
  "$sanitizer" --tool "$tool" --error-exitcode 1 \
    python -m pytest -q -s tests/test_fused.py -k test_cuda_is_as_accurate_as_the_reference
done

python bench.py --device cuda --json "${1:-bench-gpu.json}"
