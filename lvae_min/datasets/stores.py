"""How the images of a data set are kept, whole and compact, and made batches; one class a way of keeping.

Each has a length, `device`, where its batches are made, `resident`, whether its images are there too,
`to(device)`, and `batch(index)`, which gives images (N, C, H, W) uint8 of `index` (N,) int64 on that device.
"""

import math
import os
import weakref

import numpy as np
import torch
from torch import Tensor

CHUNK_BYTES = 2**26  # copied to a GPU at a time
GPU_SHARE = 0.5  # of a GPU's free memory that images may take


class Bits:
    """Binary images of `shape` (C, H, W): octets (M, C*H*W / 8) uint8, bit j of a byte is its pixel j."""

    resident = True

    def __init__(self, octets: Tensor, shape: tuple[int, int, int]):
        self.octets, self.shape = octets, shape
        eight = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self.pixels = torch.from_numpy(eight.view(np.int64)[:, 0].copy())  # (256,) eight 0/1 pixels of a byte

    def __len__(self) -> int:
        return len(self.octets)

    @property
    def device(self) -> torch.device:
        return self.octets.device

    def to(self, device: torch.device | str) -> "Bits":
        self.octets, self.pixels = self.octets.to(device), self.pixels.to(device)
        return self

    def batch(self, index: Tensor) -> Tensor:
        octets = self.octets.index_select(0, index).flatten()
        return self.pixels.index_select(0, octets.int()).view(torch.uint8).view(-1, *self.shape)


class Pixels:
    """Images (M, H, W, C) uint8, an array or a memory map of a file, of which only a batch's images are read.

    They are read with pread: mapped pages would fill the process up to the size of the set, and each brings
    its neighbors along (200 cold batches of 64: 228 ms a batch and 0.9 GB resident, against 3 ms and none).
    """

    def __init__(self, images: np.ndarray):
        height, width, channels = images.shape[1:]
        self.images, self.shape = images, (channels, height, width)
        self.device = torch.device("cpu")
        self.copy: Tensor | None = None  # the images on a GPU
        self.path, self.offset, self.file = "", 0, -1  # of a memory map
        if isinstance(images, np.memmap):
            self.path, self.offset = str(images.filename), images.offset
            self.file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self.file)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def resident(self) -> bool:
        return self.copy is not None or self.device.type == "cpu"

    def to(self, device: torch.device | str) -> "Pixels":
        """Make batches on `device`; the images move to a GPU if they take at most half of its free memory."""
        device = torch.empty(0, device=device).device  # "cuda" alone gets its number
        if device != self.device:
            self.device, self.copy = device, None
            if device.type == "cuda" and self.images.nbytes <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
                self.copy = torch.empty(self.images.shape, dtype=torch.uint8, device=device)
                step = max(CHUNK_BYTES // math.prod(self.shape), 1)
                for start in range(0, len(self), step):
                    part = np.array(self.images[start : start + step])
                    self.copy[start : start + step] = torch.from_numpy(part)
        return self

    def read(self, index: list[int]) -> np.ndarray:
        """Images (N, H, W, C) of the array or file. Raises OSError if the file has become shorter."""
        if not self.path:
            return self.images[index]
        images = np.empty((len(index), *self.images.shape[1:]), np.uint8)
        for image, number in zip(images, index, strict=True):
            place = self.offset + number * image.nbytes
            if not 0 <= number < len(self) or self.fill(image, place) < image.nbytes:
                raise OSError(f"{self.path}: no image {number} in it, or cut short")
        return images

    def fill(self, image: np.ndarray, place: int) -> int:
        """Read the bytes of the file from `place` into an image; how many there were."""
        if hasattr(os, "preadv"):
            return os.preadv(self.file, [image], place)  # type: ignore[list-item]  # an array is a buffer
        with open(self.path, "rb") as file:  # Windows
            file.seek(place)
            return file.readinto(image.data)

    def batch(self, index: Tensor) -> Tensor:
        if self.copy is not None:
            images = self.copy.index_select(0, index)
        else:
            images = torch.from_numpy(self.read(index.tolist())).to(self.device)
        return images.permute(0, 3, 1, 2).contiguous()


def neighbors(numbers: tuple[int, ...]) -> list[list[int]]:
    """Numbers in groups that count up by one."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


class Painted:
    """Square images that are views and palettes: views (V, H*W) uint8, palettes (P, 256, 3) uint8.

    `sizes` are those of the factors; `geometry` and `colors` say which of them, by position, make the number
    of a view and of a palette.
    """

    resident = True

    def __init__(
        self,
        views: Tensor,
        palettes: np.ndarray,
        sizes: tuple[int, ...],
        geometry: tuple[int, ...],
        colors: tuple[int, ...],
    ):
        self.views, self.sizes, self.geometry, self.colors = views, sizes, geometry, colors
        side = math.isqrt(views.shape[1])
        self.shape = (3, side, side)
        fourth = np.zeros((*palettes.shape[:2], 1), np.uint8)  # red, green, blue, 0 as one int32
        packed = np.concatenate([palettes, fourth], 2).view(np.int32)
        self.palettes = torch.from_numpy(packed.reshape(-1))  # (P * 256,)

    def __len__(self) -> int:
        return math.prod(self.sizes)

    @property
    def device(self) -> torch.device:
        return self.views.device

    def to(self, device: torch.device | str) -> "Painted":
        self.views, self.palettes = self.views.to(device), self.palettes.to(device)
        return self

    def number(self, index: Tensor, factors: tuple[int, ...]) -> Tensor:
        """The row-major number (N,) of the values that `factors` have in images `index` (N,).

        Neighbors among them make one number, in three small operations: a GPU takes longer to start one than
        to carry it out.
        """
        number: Tensor | None = None
        for group in neighbors(factors):
            size = math.prod(self.sizes[group[0] : group[-1] + 1])
            part = index
            if group[-1] + 1 < len(self.sizes):
                part = part // math.prod(self.sizes[group[-1] + 1 :])
            if group[0] > 0:
                part = part % size
            number = part if number is None else number * size + part
        assert number is not None, "no factors"
        return number

    def batch(self, index: Tensor) -> Tensor:
        materials = self.views.index_select(0, self.number(index, self.geometry)).int()  # (N, H*W)
        materials += 256 * self.number(index, self.colors).int()[:, None]
        colors = self.palettes.index_select(0, materials.flatten()).view(torch.uint8)
        return colors.view(len(index), *self.shape[1:], 4)[..., :3].permute(0, 3, 1, 2).contiguous()
