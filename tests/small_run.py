"""run.py on 1,920 images of dSprites and a net of 32 hidden units, for tests in a process of their own."""

import functools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvae_min import cli, data, model, train
from lvae_min.datasets import dsprites, specs, stores


@functools.cache
def small_images():
    grid = dsprites.draw().reshape(*dsprites.SIZES, 64)[:, ::3, ::8, ::4, ::4]
    return np.ascontiguousarray(grid).reshape(-1, 64).view(np.uint8)


def small_dsprites(*_):
    sizes = {"shape": 3, "scale": 2, "orientation": 5, "position x": 8, "position y": 8}
    spec = specs.Spec((1, 64, 64), sizes, network="mlp", binary=True)
    store = stores.Bits(torch.from_numpy(small_images().copy()), spec.shape)
    return data.Dataset("dsprites", "drawn", spec, store)


def command(arguments):
    """The exit code of run.py; this process has the small data set and the small network from now on.

    Each evaluation is followed by a checkpoint, as in a long run.
    """
    model.HIDDEN, data.load = 32, small_dsprites
    train.EVALUATED_SECONDS = -1
    return cli.command(arguments)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
