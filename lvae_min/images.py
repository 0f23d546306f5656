"""Images on their way from the files others made into a prepared set; nothing is unpickled, nothing unpacked.

A prepared set is a folder with `images.npy` (M, H, W, C) uint8, `about.json`, and `factors.npy` (M, K) int64
where the factors do not follow from the index. It is written beside its place and moved there when it is
whole.
"""

import fcntl
import io
import json
import math
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from lvae_min.files import brief

CHUNK = 256                     # images in memory at a time
LARGEST_HEADER = 10_000         # bytes; numpy's own limit for a header it does not trust
DAMAGED = (ValueError, KeyError, OSError, EOFError, RuntimeError, NotImplementedError, SyntaxError,
           struct.error, zipfile.BadZipFile, zlib.error)


def read_npy_header(stream) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that follows in an open .npy file.

    Raises ValueError for anything but plain numbers in C order: nothing is ever unpickled.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream, max_header_size=LARGEST_HEADER)
    if dtype.hasobject:
        raise ValueError("holds pickled objects, which are never read")
    if fortran and len(shape) > 1:
        raise ValueError("is in Fortran order")
    return shape, dtype


def read_npy_chunks(stream, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The rest of an open .npy file, CHUNK rows at a time. Raises ValueError if it is cut short."""
    row = math.prod(shape[1:]) * dtype.itemsize
    for start in range(0, shape[0], CHUNK):
        count = min(CHUNK, shape[0] - start)
        content = stream.read(count * row)
        if len(content) < count * row:
            raise ValueError(f"cut short in rows {start} to {start + count}")
        yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


class Members:
    """The files in a folder or, read in place, a zip, by name. Raises ValueError for names that climb out."""

    def __init__(self, path: Path):
        self.path, self.archive = path, None
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            self.names = [file.relative_to(path).as_posix() for file in files]
        else:
            self.archive = zipfile.ZipFile(path)
            self.names = [name for name in self.archive.namelist() if not name.endswith("/")]
        for name in self.names:
            if ".." in PurePosixPath(name.replace("\\", "/")).parts or name.startswith(("/", "\\")):
                raise ValueError(f"holds a file named {name!r}, which lies outside it")

    def read(self, name: str) -> bytes:
        return self.archive.read(name) if self.archive else (self.path / name).read_bytes()

    def close(self) -> None:
        if self.archive:
            self.archive.close()


def decode(content: bytes, mode: str = "RGB") -> np.ndarray:
    """An image file as (H, W, C) uint8. Raises ValueError if it is no image, or a damaged one."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert(mode))
    except (*DAMAGED, Image.DecompressionBombError) as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        raise ValueError("not an image" if unknown else f"damaged ({brief(error)})") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def fit(images: np.ndarray, crop: int, side: int) -> np.ndarray:
    """The middle crop x crop pixels of images (N, H, W, C) uint8 as (N, side, side, C), antialiased."""
    top, left = (images.shape[1] - crop) // 2, (images.shape[2] - crop) // 2
    images = images[:, top:top + crop, left:left + crop]
    if crop == side:
        return images
    planes = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return planes.permute(0, 2, 3, 1).numpy()


def read_images(members: Members, names: list[str],
                make: Callable[[bytes], np.ndarray]) -> Iterator[np.ndarray]:
    """make(content) (H, W, C) of the files `names`, CHUNK at a time, on all cores. Errors name the file."""
    def one(name: str) -> np.ndarray:
        try:
            return make(members.read(name))
        except DAMAGED as error:
            raise ValueError(f"{name}: {brief(error)}") from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), CHUNK):
            yield np.stack(list(pool.map(one, names[start:start + CHUNK])))


def write_set(folder: Path, shape: tuple[int, int, int, int], chunks: Iterable[np.ndarray], about: dict,
              factors: np.ndarray | None = None) -> None:
    """Make the prepared set `folder` of images `shape` (M, H, W, C) out of uint8 chunks, whole or not at all.

    Raises ValueError if the chunks do not add up to that, if the disk is too small, or if another process
    prepares the set.
    """
    part, size = folder.with_name(folder.name + ".part"), math.prod(shape)
    part.mkdir(parents=True, exist_ok=True)
    lock = os.open(part, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{folder}: another process prepares it; wait for that") from None
        for left in part.iterdir():                # by a process that was killed
            left.unlink()
        if shutil.disk_usage(part).free < size:
            raise ValueError(f"{folder}: needs {size / 1e9:.1f} GB, and the disk has "
                             f"{shutil.disk_usage(part).free / 1e9:.1f} GB; name another folder with --data")
        try:
            fill(part, shape, chunks, about, factors)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def bar(chunks: Iterable[np.ndarray], total: int) -> Iterator[np.ndarray]:
    """The chunks, with a progress bar where stderr is a terminal."""
    with tqdm(total=total, unit="image", disable=None) as progress:
        for chunk in chunks:
            yield chunk
            progress.update(len(chunk))


def fill(part: Path, shape: tuple, chunks: Iterable[np.ndarray], about: dict,
         factors: np.ndarray | None) -> None:
    """Write the files of a prepared set. They are written, not mapped: mapped pages would fill the memory."""
    written, content = 0, 0
    with open(part / "images.npy", "wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in bar(chunks, shape[0]):
            if chunk.shape[1:] != tuple(shape[1:]) or chunk.dtype != np.uint8:
                raise ValueError(f"images are {chunk.dtype} {chunk.shape[1:]}, "
                                 f"expected uint8 {tuple(shape[1:])}")
            pixels = np.ascontiguousarray(chunk).data
            stream.write(pixels)
            content = zlib.crc32(pixels, content)
            written += len(chunk)
        if written != shape[0]:
            raise ValueError(f"{written} images, expected {shape[0]}")
        stream.flush()
        os.fsync(stream.fileno())
    if factors is not None:
        np.save(part / "factors.npy", factors.astype(np.int64), allow_pickle=False)
    (part / "about.json").write_text(json.dumps({**about, "content": content}, indent=1))


def open_set(folder: Path) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Images (M, H, W, C) uint8, a read-only memory map, factors or None, and what `about.json` says.

    Raises ValueError if the folder is damaged.
    """
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} {images.shape}")
        file, factors = folder / "factors.npy", None
        if file.exists():
            factors = np.load(file, allow_pickle=False)
            if factors.ndim != 2 or len(factors) != len(images) or factors.dtype != np.int64:
                raise ValueError(f"factors are {factors.dtype} {factors.shape} for {len(images)} images")
        return images, factors, json.loads((folder / "about.json").read_text())
    except DAMAGED as error:
        raise ValueError(f"{folder}: damaged ({brief(error)}); remove it and prepare it again") from None


def fingerprint(path: Path) -> list:
    """Changes when the file, or a file in the folder, does: names, sizes and times of change."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    content = repr([(file.relative_to(path).as_posix(), info.st_size, info.st_mtime_ns)
                    for file, info in stats if stat.S_ISREG(info.st_mode)])
    return [len(files), sum(info.st_size for _, info in stats), zlib.crc32(content.encode())]
