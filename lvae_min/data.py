"""Every data set as one thing: images that stay whole and compact, factors, a split, and batches (Sec. 6.1).

A set is drawn or read once and never copied into floats: a batch is uint8, and becomes float inside the network
and the loss. Labels are not stored either: the sets are complete grids in row-major order, so that an image's
factors follow from its index.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvae_min import arm3d, render
from lvae_min.stores import Bits, Painted, Pixels

SCORED = 10_000         # images of a split that are scored, always the same ones
TEST_SHARE = 0.075      # Sec. 6.1: around 85 % for training, the rest equally split


@dataclass(frozen=True)
class Spec:
    """What is known of a data set before it is there: image shape and factors, slowest first."""

    shape: tuple[int, int, int]                 # C, H, W
    factors: dict[str, int]                     # name: number of values
    network: str = "cnn"                        # Sec. 6.3: an MLP for dSprites, a CNN for the others
    binary: bool = False                        # images are 0/1, kept as bits
    latents: int | None = None                  # dimensions of z, where not one a factor


SPECS = {
    "dsprites": Spec((1, 64, 64), {"shape": 3, "scale": 6, "orientation": 40, "position x": 32, "position y": 32},
                     network="mlp", binary=True),
    "arm3d": Spec((3, 64, 64), arm3d.FACTORS),
}
DSPRITES_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"


class Dataset:
    """Images (M, C, H, W) and their factors (M, K), by index.

    name, source    what it is called, and where its images came from
    store           the images: one of stores.py
    labels          (M, K) int64, the factors where they are not the complete grid of their values
    shape           (C, H, W)
    binary          images are 0/1, not 0 to 255; `scale` times an image is in [0, 1]
    factor_names, factor_sizes      empty where there are none
    """

    def __init__(self, name: str, source: str, spec: Spec, store: Bits | Pixels | Painted,
                 labels: np.ndarray | None = None):
        self.name, self.source, self.shape, self.network = name, source, spec.shape, spec.network
        self.binary, self.scale = spec.binary, 1.0 if spec.binary else 1 / 255
        self.factor_names, self.factor_sizes = list(spec.factors), tuple(spec.factors.values())
        self.latents = spec.latents or len(self.factor_names) or 10            # Sec. 6.3, if no other number is asked for
        self.store, self.labels = store, labels

    def __len__(self) -> int:
        return len(self.store)

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.store.device

    def to(self, device: torch.device | str) -> "Dataset":
        """Move the images to a device, where batches are then made."""
        self.store.to(device)
        return self

    def batch(self, index: Tensor) -> Tensor:
        """Images (N, C, H, W) uint8 of `index` (N,) int64, on the device of the set."""
        return self.store.batch(index)

    def factors(self, index: Sequence[int]) -> np.ndarray:
        """Factor values (N, K) int64 of images `index`."""
        if self.labels is not None:
            return self.labels[np.asarray(index)]
        return np.stack(np.unravel_index(np.asarray(index), self.factor_sizes), 1)


@dataclass(frozen=True)
class Split:
    """Indices of the three parts (Sec. 6.1); the same for every run on a data set."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, count: int) -> "Split":
        """85 / 7.5 / 7.5 per cent of `count` images, in an order drawn with seed 0."""
        order = np.random.default_rng(0).permutation(count)
        held = max(round(count * TEST_SHARE), 1)
        return cls(order[2 * held:], order[:held], order[held:2 * held])


class Batches:
    """Which images make the batch of an iteration: a function of the seed and the iteration alone.

    Each epoch is a fresh permutation of `training`; what does not fill a batch at its end is left out.
    Raises ValueError if a batch is larger than the training set.
    """

    def __init__(self, training: np.ndarray, batch_size: int, seed: int, device: torch.device | str = "cpu"):
        if batch_size > len(training):
            raise ValueError(f"batch size {batch_size}: the training set has {len(training)} images")
        self.training, self.batch_size, self.seed, self.device = training, batch_size, seed, device
        self.epoch, self.order = -1, torch.empty(0)

    def __call__(self, iteration: int) -> Tensor:
        """Indices (N,) int64 of the batch of `iteration`, counted from 0."""
        epoch, batch = divmod(iteration, len(self.training) // self.batch_size)
        if epoch != self.epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.training)
            self.epoch, self.order = epoch, torch.from_numpy(order).to(self.device)
        return self.order[batch * self.batch_size:(batch + 1) * self.batch_size]


def read_dsprites(file: Path) -> np.ndarray:
    """Images of the published npz as rows of bits, (737280, 64) uint64, in a few MB beside the result.

    Raises ValueError if the file is not that npz; nothing in it is unpickled.
    """
    wanted = (int(np.prod(render.DSPRITES_SIZES)), 64, 64)
    rows = np.empty(wanted[:2], np.uint64)
    try:
        with zipfile.ZipFile(file) as archive, archive.open("imgs.npy") as member:
            version = np.lib.format.read_magic(member)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read_header(member)
            if shape != wanted or fortran or dtype != np.uint8:
                raise ValueError(f"imgs is {dtype} {shape}, expected uint8 {wanted}")
            for start in range(0, wanted[0], 4096):
                count = min(4096, wanted[0] - start)
                octets = member.read(count * 64 * 64)
                images = np.frombuffer(octets, np.uint8).reshape(-1, 64, 64)
                if len(images) < count or images.max() > 1:
                    raise ValueError(f"images {start} to {start + count}: cut short, or not 0 and 1")
                rows[start:start + count] = render.pack(images)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise ValueError(f"{file}: not the published dSprites archive, or damaged ({error}); "
                         "replace it, or remove it: without it the images are drawn") from None
    return rows


def load_dsprites(folder: Path) -> Dataset:
    """dSprites from its archive, or drawn if that is not there (1 s)."""
    file = folder / DSPRITES_FILE
    # Drawing takes as long as reading the drawn images from a disk (1 s): they are not kept.
    rows = read_dsprites(file) if file.exists() else render.dsprites()
    octets = torch.from_numpy(rows.astype("<u8", copy=False).view(np.uint8))
    spec = SPECS["dsprites"]
    return Dataset("dsprites", str(file) if file.exists() else "drawn", spec, Bits(octets, spec.shape))


def load_arm3d(_: Path) -> Dataset:
    """The robot arm's scene, drawn (5 s); 160 MB."""
    sizes = tuple(arm3d.FACTORS.values())
    store = Painted(torch.from_numpy(arm3d.views()), arm3d.palettes(), sizes, geometry=(1, 2, 3, 5, 6), colors=(0, 4))
    return Dataset("arm3d", "drawn", SPECS["arm3d"], store)


LOADERS = {"dsprites": load_dsprites, "arm3d": load_arm3d}


def load(name: str, folder: Path | str = "data") -> Dataset:
    """The data set `name`; `folder` holds archives and prepared sets.

    Raises ValueError for an unknown name or a damaged archive.
    """
    if name not in SPECS:
        raise ValueError(f"dataset {name!r}: expected {' or '.join(SPECS)}")
    return LOADERS[name](Path(folder))
