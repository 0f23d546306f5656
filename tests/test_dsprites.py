import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lvae_min import data
from lvae_min.datasets import dsprites

# Of the array that matched 409 published images without a wrong pixel.
SHA256 = "faaf9cf5fa6256819224cb831e7fe802f7e166a63fda58f12c5f1c6eec3f5ea0"
PUBLISHED_WHITE = 128_328_862  # the published mean x 4096 x 737,280


def test_dsprites_is_the_set_that_was_compared_with_the_published_images(sprites):
    assert sprites.shape == (737_280, 64) and sprites.dtype == np.uint64
    assert hashlib.sha256(sprites.astype("<u8")).hexdigest() == SHA256


def test_the_set_that_is_trained_on_has_these_images(sprites, tmp_path):
    dataset, some = data.load("dsprites", tmp_path), [0, 1, 345_678, 737_279]
    assert dataset.batch(torch.tensor(some))[:, 0].tolist() == dsprites.unpack(sprites[some]).tolist()


def test_images_drawn_ahead_by_another_process_are_the_same_and_taken_once(sprites):
    ahead = dsprites.Ahead()
    ahead.begin()
    first = ahead.process
    ahead.begin()
    assert ahead.process == first != os.getpid()  # one is enough
    assert (ahead.take().reshape(-1, 64) == sprites).all()
    assert ahead.take() is None and (ahead.process, ahead.rows) == (0, None)
    with pytest.raises(ChildProcessError):
        os.waitpid(first, os.WNOHANG)


def test_drawing_takes_what_was_drawn_ahead(monkeypatch):
    monkeypatch.setattr(dsprites, "AHEAD", dsprites.Ahead())
    monkeypatch.setattr(dsprites.AHEAD, "take", lambda: np.full((2, 32, 64), 7, np.uint64))
    assert dsprites.draw().shape == (64, 64) and (dsprites.draw() == 7).all()


def test_images_drawn_ahead_by_a_process_whose_end_nobody_saw_are_not_taken():
    ahead = dsprites.Ahead()
    ahead.begin()
    os.waitpid(ahead.process, 0)
    assert ahead.take() is None


def test_where_the_process_that_draws_ahead_was_killed_the_images_are_drawn_here():
    """With Python's warning of a fork beside threads as an error, and nothing imported that has any."""
    code = """
        import hashlib, os, signal, sys
        from lvae_min.datasets import dsprites
        dsprites.AHEAD.begin()
        os.kill(dsprites.AHEAD.process, signal.SIGKILL)
        assert "torch" not in sys.modules
        print(hashlib.sha256(dsprites.draw().astype("<u8")).hexdigest())"""
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (SHA256 + "\n", "")


def test_white_pixels_are_within_two_of_the_published_mean(sprites):
    assert (
        abs(sum(int(dsprites.unpack(part).sum()) for part in np.array_split(sprites, 60)) - PUBLISHED_WHITE)
        == 2
    )


def test_factors_describe_the_images(sprites):
    grid = dsprites.unpack(sprites.reshape(*dsprites.SIZES, 64)[:, :, 0, ::31, ::31])
    area = grid.sum((-2, -1)).mean((2, 3))  # (shape, scale)
    assert (np.diff(area, axis=1) > 0).all()
    x = (grid.sum(-2) * np.arange(64)).sum(-1) / grid.sum((-2, -1))  # centroid, (shape, scale, x, y)
    y = (grid.sum(-1) * np.arange(64)).sum(-1) / grid.sum((-2, -1))
    assert np.allclose(x[:, :, 1] - x[:, :, 0], 32, atol=0.5) and np.allclose(
        y[..., 1] - y[..., 0], 32, atol=0.5
    )


def test_first_and_last_orientation_look_alike(sprites):
    grid = sprites.reshape(*dsprites.SIZES, 64)
    assert (grid[:, :, 0] == grid[:, :, 39]).all() and not (grid[1:, :, 0] == grid[1:, :, 20]).all()


def test_packing_and_unpacking_are_inverse():
    images = np.random.default_rng(0).integers(0, 2, (5, 64, 64), np.uint8)
    assert (dsprites.unpack(dsprites.pack(images)) == images).all()
    assert dsprites.pack(np.eye(64, dtype=np.uint8))[3] == 8  # bit j is column j
