"""Install the package; csrc/ travels with it and is compiled at first use.

    pip install -e .                                         no compiler needed
    LVAE_BUILD=1 pip install --no-build-isolation -e .       compile now, with the torch that is installed
"""

import os
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent


def extension() -> dict:
    """The op as a library in the package: without Python in it, so one serves every version from 3.10 on."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    sys.path.insert(0, str(ROOT))
    from lvae_min import fused

    no_cuda = fused._why_no_cuda()
    make, sources = (CppExtension, ["lvae.cpp"]) if no_cuda else (CUDAExtension, ["lvae.cpp", "lvae_cuda.cu"])
    if not no_cuda and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        os.environ["TORCH_CUDA_ARCH_LIST"] = "8.0;9.0+PTX"
    return {
        "ext_modules": [make("lvae_min._C", [f"csrc/{name}" for name in sources], py_limited_api=True,
                             extra_compile_args={"cxx": fused.CXX_FLAGS, "nvcc": fused.NVCC_FLAGS})],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    name="lvae_min",
    version="0.1.0",
    description="Reference implementation of L-VAE, a VAE that learns the weights of its own loss",
    license="MIT",
    python_requires=">=3.10",
    packages=["lvae_min", "lvae_min.csrc"],
    package_dir={"lvae_min.csrc": "csrc"},
    package_data={"lvae_min.csrc": ["*"]},
    install_requires=["torch>=2.10", "numpy", "h5py", "scikit-learn", "threadpoolctl", "ninja", "matplotlib",
                      "tqdm", "pillow"],
    extras_require={"test": ["pytest", "hypothesis", "pybind11"]},
    **(extension() if os.environ.get("LVAE_BUILD") == "1" else {}),
)
