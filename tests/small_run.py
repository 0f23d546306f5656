"""run.py on 1,920 images of dSprites and a net of 32 hidden units, for tests in a process of their own."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import run
from lvae_min import data, model, render, stores


def small_dsprites(*_):
    grid = render.dsprites().reshape(*render.DSPRITES_SIZES, 64)[:, ::3, ::8, ::4, ::4]
    sizes = {"shape": 3, "scale": 2, "orientation": 5, "position x": 8, "position y": 8}
    octets = torch.from_numpy(np.ascontiguousarray(grid).reshape(-1, 64).view(np.uint8))
    spec = data.Spec((1, 64, 64), sizes, network="mlp", binary=True)
    return data.Dataset("dsprites", "drawn", spec, stores.Bits(octets, spec.shape))


if __name__ == "__main__":
    model.HIDDEN, data.load = 32, small_dsprites
    sys.exit(run.command(sys.argv[1:]))
