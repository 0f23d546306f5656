"""Install the package; csrc/ travels with it and is compiled at first use."""

from setuptools import setup

setup(
    name="lvae_min",
    version="0.1.0",
    description="Reference implementation of L-VAE, a VAE that learns the weights of its own loss",
    license="MIT",
    python_requires=">=3.10",
    packages=["lvae_min", "lvae_min.csrc"],
    package_dir={"lvae_min.csrc": "csrc"},
    package_data={"lvae_min.csrc": ["*"]},
    install_requires=["torch>=2.10", "numpy", "h5py", "scikit-learn", "ninja", "matplotlib", "tqdm", "pillow"],
    extras_require={"test": ["pytest", "hypothesis", "pybind11"]},
)
