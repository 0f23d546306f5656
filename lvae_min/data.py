"""Every data set as one thing: images that stay whole and compact, factors, a split, and batches (Sec. 6.1).

A set is drawn or read once and never copied into floats: a batch is uint8, and becomes float inside the
network and the loss. The factors of an image follow from its index where a set is a complete grid in
row-major order; other sets (CelebA, a user's own) store them.
"""

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvae_min.datasets import arm3d, dsprites
from lvae_min.datasets.specs import NAMES, SPECS, Spec, is_path, own_name
from lvae_min.datasets.stores import Bits, Painted, Pixels

SCORED = 10_000  # images of a split that are scored, always the same ones
TEST_SHARE = 0.075  # Sec. 6.1: around 85 % for training, the rest equally split


class Dataset:
    """Images (M, C, H, W) and their factors (M, K), by index.

    name, source    what it is called, and where its images came from
    store           the images: one of stores.py
    labels          (M, K) int64 or float64, the factors where they are not the complete grid of their values
    shape           (C, H, W)
    binary          images are 0/1, not 0 to 255; `scale` times an image is in [0, 1]
    factor_names, factor_sizes      empty where there are none
    content         crc32 of the pixels of a prepared set and of its labels, None where there are none
    files           of the user's own folder: the path of each image, from the folder; else empty
    by_folder       whether the factor is the folder that an image is in, which nobody asked for
    """

    by_folder = False

    def __init__(
        self,
        name: str,
        source: str,
        spec: Spec,
        store: Bits | Pixels | Painted,
        labels: np.ndarray | None = None,
        content: int | None = None,
        files: Sequence[str] = (),
    ):
        self.name, self.source, self.shape, self.network = name, source, spec.shape, spec.network
        self.binary, self.scale = spec.binary, 1.0 if spec.binary else 1 / 255
        self.factor_names, self.factor_sizes = list(spec.factors), tuple(spec.factors.values())
        self.wanted_latents, self.store, self.labels = spec.latents, store, labels
        self.files = files
        self.content = {
            "pixels": content,
            "labels": None if labels is None else zlib.crc32(np.ascontiguousarray(labels).data),
        }

    def __len__(self) -> int:
        return len(self.store)

    @property
    def latents(self) -> int:
        """Dimensions of z if no other number is asked for: one a factor (Sec. 6.3), 10 with fewer than two.

        A single factor, such as a class, does not describe an image.
        """
        factors = len(self.factor_names)
        return self.wanted_latents or (factors if factors > 1 else 10)

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.store.device

    @property
    def resident(self) -> bool:
        """Whether the images themselves are on `device`."""
        return self.store.resident

    def to(self, device: torch.device | str) -> "Dataset":
        """Move the images to a device, where batches are then made."""
        self.store.to(device)
        return self

    def without_factors(self) -> "Dataset":
        """The same images, as if nothing were known of them."""
        other = copy.copy(self)
        other.factor_names, other.factor_sizes, other.labels = [], (), None
        return other

    def batch(self, index: Tensor) -> Tensor:
        """Images (N, C, H, W) uint8 of `index` (N,) int64, on the device of the set."""
        return self.store.batch(index)

    def factors(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        """Factor values (N, K), int64 or float64, of images `index`."""
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
        return cls(order[2 * held :], order[:held], order[held : 2 * held])


class Batches:
    """Which images make the batch of an iteration: a function of the seed and the iteration alone.

    Each epoch is a fresh permutation of `training`; what does not fill a batch at its end is left out.
    Raises ValueError if a batch is larger than the training set.
    """

    def __init__(self, training: np.ndarray, batch_size: int, seed: int, device: torch.device | str = "cpu"):
        if batch_size > len(training):
            raise ValueError(f"--batch-size {batch_size}: the training set has {len(training)} images")
        self.training, self.batch_size, self.seed = training, batch_size, seed
        self.count = len(training) // batch_size  # of an epoch
        self.epoch = -1
        self.order = torch.empty(self.count, batch_size, dtype=torch.int64, device=device)

    def turn(self, iteration: int) -> None:
        """See to it that the epoch of `iteration`, counted from 0, is laid out on the device."""
        epoch = iteration // self.count
        if epoch != self.epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.training)
            self.epoch = epoch
            self.order.copy_(torch.from_numpy(order[: self.order.numel()]).view_as(self.order))

    def at(self, clock: Tensor) -> Tensor:
        """Indices (N,) int64 of the batch of iteration `clock` (1,), a number on the device."""
        return self.order.index_select(0, clock % self.count).view(-1)


def load_dsprites(folder: Path) -> Dataset:
    """dSprites from its archive, or drawn if that is not there (1 s)."""
    file = folder / dsprites.ARCHIVE
    # Drawing takes as long as reading the drawn images from a disk (1 s): they are not kept.
    rows = dsprites.read(file) if file.exists() else dsprites.draw()
    octets = torch.from_numpy(rows.astype("<u8", copy=False).view(np.uint8))
    spec = SPECS["dsprites"]
    return Dataset("dsprites", str(file) if file.exists() else "drawn", spec, Bits(octets, spec.shape))


def load_arm3d() -> Dataset:
    """The robot arm's scene, drawn (5 s); 160 MB."""
    sizes = tuple(arm3d.FACTORS.values())
    store = Painted(
        torch.from_numpy(arm3d.views()), arm3d.palettes(), sizes, geometry=(1, 2, 3, 5, 6), colors=(0, 4)
    )
    return Dataset("arm3d", "drawn", SPECS["arm3d"], store)


def load_prepared(name: str, folder: Path) -> Dataset:
    """A set that `prepare` made of its archive, memory-mapped."""
    from lvae_min.datasets.prepared import open_set

    spec = SPECS[name]
    if not (folder / name).exists():
        raise ValueError(
            f"{folder / name}: not there; make it of the published archive: "
            f"python -m lvae_min.datasets prepare {name} --data {folder}"
        )
    images, labels, about = open_set(folder / name)
    channels, height, width = spec.shape
    if images.shape != (spec.count, height, width, channels):
        raise ValueError(
            f"{folder / name}: images of shape {images.shape}, expected "
            f"{(spec.count, height, width, channels)}; remove it and prepare it again"
        )
    expected = len(spec.factors) if spec.images else None
    if expected != (None if labels is None else labels.shape[1]):
        raise ValueError(
            f"{folder / name}: factors.npy is not of {expected or 'no'} factors; "
            "remove it and prepare it again"
        )
    return Dataset(name, about.get("source", ""), spec, Pixels(images), labels, about.get("content"))


def load_own(path: Path, folder: Path, shape: tuple[int, int, int] | None = None) -> Dataset:
    """Images of the user's own, prepared under `folder` the first time; of this shape where one is given."""
    from lvae_min.datasets import own  # here: it reads HDF5 and pictures, as no other set does

    images, labels, about = own.prepared(path, folder, shape)
    values = [] if labels is None else [len(np.unique(column)) for column in labels.T]
    if len(names := about.get("names", [])) != len(values):
        raise ValueError(
            f"{path}: its prepared set names {len(names)} factors and has {len(values)}; "
            f"remove it from {folder / 'own'}"
        )
    spec = Spec((images.shape[3], *images.shape[1:3]), dict(zip(names, values, strict=True)))
    source, content = about.get("source", str(path)), about.get("content")
    files = about.get("files", [])
    dataset = Dataset(own_name(str(path)), source, spec, Pixels(images), labels, content, files)
    dataset.by_folder = bool(about.get("by_folder"))
    return dataset


def load(name: str, folder: Path | str = "data", shape: tuple[int, int, int] | None = None) -> Dataset:
    """The data set `name`, or the user's own images at that path; `folder` holds archives and prepared sets.

    shape  (C, H, W) in which own images are prepared (default: what fits them)
    Raises ValueError for an unknown name, a set that has to be prepared first, and damaged or strange files.
    """
    folder = Path(folder)
    if name in ("dsprites", "arm3d"):
        return load_dsprites(folder) if name == "dsprites" else load_arm3d()
    if is_path(name):
        return load_own(Path(name), folder, shape)
    if name not in SPECS:
        raise ValueError(f"dataset {name!r}: expected {NAMES}")
    return load_prepared(name, folder)
