#!/usr/bin/env bash
# What to run on a machine with an NVIDIA GPU, the CUDA toolkit and the package installed with its tests. Its parts,
# in order of importance; each ends within eight minutes (made for an H200), whatever it has left undone:
#
#     bash tests/on_gpu.sh tests         the tests of the GPU, all other tests, the kernels under compute-sanitizer
#     bash tests/on_gpu.sh bench         python -m bench, and python -m bench.updates
#     bash tests/on_gpu.sh paper SEED    six methods with the paper's 300,000 iterations, at once; again: continues
#     bash tests/on_gpu.sh seeds         six methods, ten seeds each, with the default schedule; again: continues
#
# PYTHON   the interpreter (default: python, or else python3)
# OUT      where logs, results and pictures go (default: on-gpu). Each part leaves PART.json, a summary of what
#          passed, failed and was measured, and PART.tar.gz, all that is to be kept: networks are not in it.
#
# Exit code: 0, 1 if something failed or was not finished, 2 if it cannot begin.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$(command -v python || command -v python3)} || { echo "on_gpu.sh: no python; set PYTHON" >&2; exit 2; }
export PYTHON
exec "$PYTHON" tests/on_gpu.py "$@"
