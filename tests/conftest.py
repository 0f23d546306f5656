"""A small dSprites and a small network: the real code on 1,920 images and 32 hidden units."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from lvae_min import data, model
from lvae_min.datasets import dsprites, specs, stores


def pytest_collection_modifyitems(items):
    """Tests marked `cuda` are skipped where there is no GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU that torch sees"))


@pytest.fixture(autouse=True)
def denormals():
    """Runs flush them in the thread they train in, and hypothesis wants them."""
    torch.set_flush_denormal(False)


@contextmanager
def default_device(name):
    """A context in which torch makes tensors on another device where none is named."""
    torch.set_default_device(name)
    try:
        yield
        assert torch.get_default_device().type == name
    finally:
        torch.set_default_device(None)


@pytest.fixture(scope="session")
def sprites():
    """All of dSprites, drawn: (737280, 64) uint64."""
    return dsprites.draw()


@pytest.fixture(scope="session")
def small_images(sprites):
    """Every shape, 2 scales, 5 orientations, 8 x 8 positions of dSprites, as bytes of bits: (1920, 512)."""
    grid = sprites.reshape(*dsprites.SIZES, 64)[:, ::3, ::8, ::4, ::4]
    return np.ascontiguousarray(grid).reshape(-1, 64).view(np.uint8)


@pytest.fixture
def small(small_images, monkeypatch):
    """A data set of 1,920 images, and an MLP of 32 hidden units."""
    monkeypatch.setattr(model, "HIDDEN", 32)
    return small_sprites(small_images)


def small_sprites(small_images):
    sizes = {"shape": 3, "scale": 2, "orientation": 5, "position x": 8, "position y": 8}
    spec = specs.Spec((1, 64, 64), sizes, network="mlp", binary=True)
    return data.Dataset(
        "dsprites", "drawn", spec, stores.Bits(torch.from_numpy(small_images.copy()), spec.shape)
    )
