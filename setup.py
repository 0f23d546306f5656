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
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    sys.path.insert(0, str(ROOT))
    from lvae_min import fused

    toolkit, no_cuda = fused._toolkit()
    cpp_extension.CUDA_HOME = toolkit or cpp_extension.CUDA_HOME
    make, sources = (CppExtension, ["lvae.cpp"]) if no_cuda else (CUDAExtension, ["lvae.cpp", "lvae_cuda.cu"])
    fused.choose_architectures()
    return {
        "ext_modules": [
            make(
                "lvae_min._C",
                [f"csrc/{name}" for name in sources],
                py_limited_api=True,
                extra_compile_args={"cxx": fused.CXX_FLAGS, "nvcc": fused.NVCC_FLAGS},
            )
        ],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    name="lvae_min",
    version="0.2.0",
    description="Independent implementation of L-VAE, a VAE that learns the weights of its own loss",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=["lvae_min", "lvae_min.csrc", "lvae_min.datasets", "lvae_min.explore", "lvae_min.io"],
    package_dir={"lvae_min.csrc": "csrc"},
    package_data={"lvae_min": ["py.typed"], "lvae_min.csrc": ["*"]},
    # The tests pass with the oldest of each (tests/oldest.txt). numpy 1 computes with scalars in another
    # precision, which arm3d.py draws other images with.
    install_requires=[
        "torch>=2.10",
        "numpy>=2.0",
        "h5py>=3.11",
        "scikit-learn>=1.4.2",
        "threadpoolctl>=3.5",  # older ones do not find the BLAS of numpy 2
        "ninja>=1.11.1",
        "matplotlib>=3.8.4",
        "tqdm>=4.64.1",
        "pillow>=10.1",
    ],
    extras_require={
        "test": [
            "pytest>=7.2",
            "hypothesis>=6.56.4",
            "ruff>=0.17.6",
            "mypy>=2.4.1",
            "build>=1.6.1",
            "twine>=7.0.0",
        ],
        "explore": ["gradio>=6.31"],
    },
    **(extension() if os.environ.get("LVAE_BUILD") == "1" else {}),
)
