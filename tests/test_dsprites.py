import hashlib
import subprocess
import sys
import textwrap

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


def alone(code):
    """What code prints in a process without PyTorch, where warnings are errors, one of forks too."""
    before = """
        import hashlib, os, signal, sys
        from lvae_min.datasets import dsprites
        ahead = dsprites.AHEAD"""
    after = """
        print(hashlib.sha256(dsprites.draw().astype("<u8")).hexdigest())
        assert "torch" not in sys.modules"""
    code = "\n".join(map(textwrap.dedent, (before, code, after)))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_images_drawn_ahead_by_another_process_are_the_same_and_taken_once():
    code = """
        ahead.begin()
        first = ahead.process
        ahead.begin()
        rows = ahead.take()
        print(hashlib.sha256(rows.astype("<u8")).hexdigest(), rows.shape == (*dsprites.SIZES, 64))
        print(first not in (0, os.getpid()), ahead.process, ahead.rows, ahead.take())
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("one process, waited for")"""
    found = alone(code)
    assert " ".join(found) == f"{SHA256} True True 0 None None one process, waited for {SHA256}"


def test_drawing_takes_what_was_drawn_ahead(monkeypatch):
    monkeypatch.setattr(dsprites, "AHEAD", dsprites.Ahead())
    monkeypatch.setattr(dsprites.AHEAD, "take", lambda: np.full((2, 32, 64), 7, np.uint64))
    assert dsprites.draw().shape == (64, 64) and (dsprites.draw() == 7).all()


@pytest.mark.parametrize(
    "trouble",
    [
        "ahead.begin(); os.kill(ahead.process, signal.SIGKILL); assert ahead.process",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN); ahead.begin(); assert ahead.process",
        "fork = os.fork; os.fork = lambda: os.open('/nowhere', 0); ahead.begin(); os.fork = fork",
        "dsprites.mmap.mmap = lambda *_: os.open('/nowhere', 0); ahead.begin(); assert not ahead.process",
        "sys.platform = 'darwin'; ahead.begin(); assert not ahead.process",
    ],
    ids=["killed", "its end unseen", "no fork", "no memory", "not Linux"],
)
def test_where_the_images_were_not_drawn_ahead_they_are_drawn_here(trouble):
    assert alone(trouble) == [SHA256]


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
