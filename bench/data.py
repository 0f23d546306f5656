"""The batches of each data set against the iteration that waits for them."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from bench import common
from lvae_min import data
from lvae_min.data import Batches, Dataset, Split
from lvae_min.datasets.specs import SPECS


def data_row(name: str, device_name: str) -> dict:
    """How fast a data set makes batches of 64; sets that are not drawn are files of their shape, all 0."""
    spec, device = SPECS[name], torch.device(device_name)
    torch.zeros(1, device=device)  # the context of a GPU is not the data set's
    before = common.resident()
    with tempfile.TemporaryDirectory() as folder:
        if name in ("dsprites", "arm3d"):
            dataset = data.load(name)
        else:
            dataset = Dataset(
                name,
                "no content",
                spec,
                common.empty_file(Path(folder), spec.shape, spec.count),
                np.zeros((spec.count, len(spec.factors)), np.int64),
            )
        dataset.to(device)
        order = Batches(Split.of(len(dataset)).training, 64, seed=0, device=device)
        clock = torch.zeros(1, dtype=torch.int64, device=device)
        order.turn(0)

        def batch():
            dataset.batch(order.at(clock.add_(1)))

        seconds = common.least({"batch": batch}, rounds=3, calls=50, device=device)
        grown = common.resident() - before
        seconds |= common.least(
            {"step": common.make_step(dataset, 64, device)}, rounds=2, calls=3, device=device
        )
    return {
        "data set": name,
        "as bytes, GB": len(dataset) * int(np.prod(dataset.shape)) / 1e9,
        "resident, GB": grown,
        "images/s": 64 / seconds["batch"],
        "batch, ms": 1e3 * seconds["batch"],
        "step, ms": 1e3 * seconds["step"],
        "batch / step, %": 100 * seconds["batch"] / seconds["step"],
    }


def measure(device: torch.device) -> list[dict]:
    """Batches of 64 beside the step that waits for them. Files are all 0: read as from the system's cache."""
    return [common.apart(data_row, name, str(device)) for name in SPECS]
