"""Time over batch size and width of the network, memory over the size of the data set."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import torch

from bench import common
from lvae_min import data, model
from lvae_min.datasets.stores import Bits


def memory(kind: str, count: int) -> float:
    """Memory in GB that `count` images take, while 50 batches are made: bits in memory, or a file of RGB."""
    before = common.resident()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "bits":
            store = Bits(torch.ones(count, 512, dtype=torch.uint8), (1, 64, 64))
        else:
            store = common.empty_file(Path(folder), (3, 64, 64), count)
        for start in range(50):
            store.batch(torch.arange(start, count, max(count // 64, 1))[:64])
        return common.resident() - before


def measure(device: torch.device) -> list[dict]:
    """How cost grows: ms over batch size and width of the MLP, GB over images (figures/cost.py)."""
    dataset = data.load("dsprites").to(device)
    steps = {
        ("batch size", size): common.make_step(dataset, size, device) for size in (16, 32, 64, 128, 256, 512)
    }
    for width in (300, 600, 1200, 2400):
        with mock.patch.object(model, "HIDDEN", width):
            steps["hidden units", width] = common.make_step(dataset, 64, device)
    seconds = common.least(steps, rounds=2, calls=4, device=device)
    rows = [
        {"over": over, "value": value, "ms or GB": 1e3 * taken} for (over, value), taken in seconds.items()
    ]
    for kind, title in (("bits", "images, bits in memory"), ("file", "images, RGB in a file")):
        counts = (50_000, 200_000, 737_280)
        with ThreadPoolExecutor(len(counts)) as pool:  # each in a process of its own: not a time
            found = list(pool.map(lambda count, kind=kind: common.apart(memory, kind, count), counts))
        rows += [
            {"over": title, "value": count, "ms or GB": size}
            for count, size in zip(counts, found, strict=True)
        ]
    return rows
