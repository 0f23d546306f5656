"""Images of the user's own: a folder of image files, an .npy, .npz or .h5, made a prepared set once.

Images are cropped to their middle square and made 64 x 64, or 128 x 128 where they are at least that large.
An array is (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3; numbers from 0 to 1 or from 0 to 255.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
from PIL import Image

from lvae_min.datasets import prepared as im
from lvae_min.io import npy
from lvae_min.io.text import brief, of_the_system, one_line

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FACTORS, NAMES = "factors", "factor_names"
TABLES = f"{FACTORS}.npy", f"{NAMES}.npy"  # in a folder of images
Shape = tuple[int, int, int]  # (C, H, W)
VERSION = 6  # of how images are prepared: what another one made is made again
MOST_CLASSES = 10  # folders that are a factor: the scores put its values in as many bins
DARK = 128  # numbers up to a value between 1 and this are neither 0 to 1 nor 0 to 255
EXPECTED = "expected a folder of images, an .npy, .npz or .h5"
MOST_PACKED = 1100  # deflate makes a byte of at most 1,032


class Array:
    """Images in a file: `shape`, `dtype`, `chunks()`, and the arrays `factors` and `factor_names`.

    A subclass, one a kind of file, has `arrays`, `chunks` and `read`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.unread: list[str] = []  # arrays that cannot be read, and why
        found = self.arrays()
        images = {
            name: kind
            for name, kind in found.items()
            if name not in (FACTORS, NAMES) and len(kind[0]) in (3, 4)
        }
        if len(images) > 1 and "images" in images:
            images = {"images": images["images"]}
        ours = FACTORS, NAMES, "images."
        needed = [why for why in self.unread if len(images) != 1 or why.startswith(ours)]
        if needed:
            raise ValueError(needed[0])
        if len(images) != 1:
            tables = (f"{name} {shape}" for name, (shape, _) in found.items())
            names = one_line(", ".join(tables))[:200] or "nothing"
            forms = (
                ", or that one is called 'images'" if images else " (N, H, W), (N, H, W, C) or (N, C, H, W)"
            )
            raise ValueError(f"holds {names}; expected one array of images{forms}")
        ((self.name, (self.shape, self.dtype)),) = images.items()
        self.shapes = {name: found[name][0] for name in (FACTORS, NAMES) if name in found}
        self.unused = [name for name in found if name not in (self.name, *self.shapes)]
        for name in (self.name, *self.shapes):
            self.check(name)

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name, shape and type of each array."""
        raise NotImplementedError

    def check(self, name: str) -> None:
        """Raise ValueError if an array is not what it claims to be."""

    def chunks(self) -> Iterator[np.ndarray]:
        """The images, some at a time."""
        raise NotImplementedError

    def read(self, name: str) -> np.ndarray:
        """A whole array."""
        raise NotImplementedError


class Npy(Array):
    """A single array, without factors."""

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        with open(self.path, "rb") as stream:
            return {"images": npy.read_header(stream, os.fstat(stream.fileno()).st_size)}

    def chunks(self) -> Iterator[np.ndarray]:
        with open(self.path, "rb") as stream:
            yield from npy.read_chunks(stream, *npy.read_header(stream))


class Npz(Array):
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        found = {}
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                name, size = member.filename, member.file_size
                try:
                    with npy.open_member(archive, name) as stream:
                        shape, _, dtype = npy.read_layout(stream, size)
                        found[name.removesuffix(".npy")] = shape, dtype
                except ValueError as error:
                    self.unread.append(f"{one_line(name)[:80]}: {brief(error)}")
        return found

    def chunks(self) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(self.path) as archive, npy.open_member(archive, self.name + ".npy") as stream:
            yield from npy.read_chunks(stream, *npy.read_header(stream))

    def read(self, name: str) -> np.ndarray:
        with zipfile.ZipFile(self.path) as archive, npy.open_member(archive, name + ".npy") as stream:
            return npy.read_array(stream)


class Hdf5(Array):
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        found = {}
        with h5py.File(self.path, "r") as file:
            for name in file:
                # A link or an external data set could name any other file of this machine.
                here = isinstance(file.get(name, getlink=True), h5py.HardLink)
                if here and isinstance(file[name], h5py.Dataset):
                    if file[name].external or file[name].is_virtual:
                        raise ValueError(f"{name}: keeps its data in another file, which is not read")
                    found[name] = file[name].shape or (), file[name].dtype
        return found

    def check(self, name: str) -> None:
        with h5py.File(self.path, "r") as file:
            check_size(file[name])

    def chunks(self) -> Iterator[np.ndarray]:
        with h5py.File(self.path, "r") as file:
            rows = npy.rows_of(self.shape, self.dtype)
            for start in range(0, self.shape[0], rows):
                yield file[self.name][start : start + rows]

    def read(self, name: str) -> np.ndarray:
        with h5py.File(self.path, "r") as file:
            array = file[name]
            return array.asstr()[()] if h5py.check_string_dtype(array.dtype) else array[()]


def check_size(array: h5py.Dataset) -> None:
    """Raise ValueError for an array that claims more than can be there, or is read in huge pieces."""
    if array.shape is None:  # an empty space
        return
    shape, stored, name = array.shape, array.id.get_storage_size(), one_line(array.name)[:80]
    size = math.prod(shape) * array.dtype.itemsize
    if size > MOST_PACKED * stored and (stored or size > npy.CHUNK_BYTES):  # 0: never written, all 0
        raise ValueError(f"{name}: is {array.dtype} {shape}, and has {stored:,} bytes of that")
    for piece in (shape[1:], array.chunks or ()):
        if math.prod(piece) * array.dtype.itemsize > npy.LARGEST_ROW:
            raise ValueError(f"{name}: has pieces {piece} of more than {npy.LARGEST_ROW:,} bytes")


def value_factor(array: Array) -> float:
    """What makes the values count to 255. Raises ValueError for values that are no image's."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"images are {array.dtype}; expected integers or floats")
    low, high = np.inf, -np.inf
    for chunk in array.chunks():
        least, most = float(chunk.min()), float(chunk.max())  # a NaN stays
        if math.isnan(least):
            raise ValueError("images hold values that are not numbers (NaN); expected 0 to 1 or 0 to 255")
        low, high = min(low, least), max(high, most)
        if not (low >= 0 and high <= 255):
            raise ValueError(f"values from {low:.8g} to {high:.8g}; expected 0 to 1 or 0 to 255, all finite")
    if 1 < high < DARK and array.dtype != np.uint8:
        raise ValueError(
            f"values from {low:g} to {high!r}; expected 0 to 1 or 0 to 255: "
            + ("clip them to 1" if high < 1.001 else f"divide them by {high:g}")
        )
    return 255.0 if high <= 1 else 1.0


def side_of(height: int, width: int) -> int:
    return 128 if min(height, width) >= 128 else 64


def described(height: int, width: int, crop: int, side: int) -> str:
    """What was done to images of this size, in a few words; empty if nothing."""
    if height == width == side:
        return ""
    return (
        f", {width} x {height}"
        + (f" cropped to {crop} x {crop}" if height != width else "")
        + (f" made {side} x {side}" if crop != side else "")
    )


def prepare_array(array: Array, target: Path, about: dict, wanted: Shape | None = None) -> None:
    """Make a prepared set of the arrays in a file, as large as `wanted` where that is given."""
    shape = array.shape if len(array.shape) == 4 else (*array.shape, 1)
    first = shape[3] not in (1, 3)
    if first:
        shape = shape[0], *shape[2:], shape[1]
    count, height, width, channels = shape
    if count < 1 or height < 1 or width < 1 or channels not in (1, 3):
        raise ValueError(
            f"images of shape {array.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W), "
            "N at least 1, C 1 or 3"
        )
    if wanted and wanted[0] != channels:
        raise ValueError(f"images of {channels} channels; the network takes {wanted[0]}")
    factor, crop = value_factor(array), min(height, width)
    side = wanted[1] if wanted else side_of(height, width)
    factors, about["names"] = labels(array, count)
    about["source"] = str(array.path) + described(height, width, crop, side)
    if array.unused:
        about["source"] += f", not used: {one_line(', '.join(array.unused))[:80]}"

    def fitted() -> Iterator[np.ndarray]:
        for chunk in array.chunks():
            pixels = np.round(chunk * np.float32(factor)).astype(np.uint8)
            pixels = pixels.transpose(0, 2, 3, 1) if first else pixels.reshape(-1, height, width, channels)
            yield im.fit(pixels, crop, side)

    im.write_set(target, (count, side, side, channels), fitted(), about, factors)


def labels(array: Array, count: int) -> tuple[np.ndarray | None, list[str]]:
    """The factors (M, K) and their names; None and [] without factors."""
    if FACTORS not in array.shapes:
        return None, []
    for name, most in ((FACTORS, count * im.MOST_FACTORS), (NAMES, im.MOST_FACTORS)):
        if math.prod(array.shapes.get(name, ())) > most:
            raise ValueError(f"{name} are {array.shapes[name]}; expected at most {im.MOST_FACTORS} factors")
    names = named(NAMES, lambda: array.read(NAMES)) if NAMES in array.shapes else None
    return checked(named(FACTORS, lambda: array.read(FACTORS)), count, names)


def checked(values: np.ndarray, count: int, given: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """Factors as int64 or float64, and their names. Raises ValueError for what are no factors of `count`."""
    values = values[:, None] if values.ndim == 1 else values  # labels: a single factor
    fits = values.ndim == 2 and len(values) == count and 1 <= values.shape[1] <= im.MOST_FACTORS
    if not fits or values.dtype.kind not in "biuf":
        raise ValueError(f"factors are {values.dtype} {values.shape}; expected numbers ({count}, K)")
    if not np.isfinite(values).all():
        raise ValueError("factors are not all finite")
    names = [f"factor {k}" for k in range(values.shape[1])]
    if given is not None:
        given = np.char.decode(given, "utf-8", "replace") if given.dtype.kind == "S" else given
        names = [one_line(name) for name in np.ravel(given)]
    if len(names) != values.shape[1] or len(set(names)) < len(names):
        raise ValueError(
            f"factor_names has {len(names)} names, {len(set(names))} different, for {values.shape[1]} factors"
        )
    return values.astype(np.int64 if np.can_cast(values.dtype, np.int64) else np.float64), names


def is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def is_factors(name: str) -> bool:
    """Whether a file in a folder of images may have been meant as their factors."""
    return PurePosixPath(name).name.lower().startswith("factor")


def prepare_folder(path: Path, target: Path, about: dict, wanted: Shape | None = None) -> None:
    """Make a prepared set of the image files in a folder and its folders, in the order of their names.

    The factors are those in `factors.npy`, else the folders that the images are in, if those are `classes`.
    `wanted` is the shape of the images, which otherwise follows from the files.
    """
    members = im.Members(path)
    names = about["files"] = [name for name in members.names if is_picture(name)]
    table, titles = (path / name for name in TABLES)
    used = {*names, TABLES[0]} | ({TABLES[1]} if table.is_file() else set())
    others = [name for name in members.names if is_factors(name) and name not in used]
    if not names:
        raise ValueError(f"no images in it; expected files that end in {', '.join(PICTURES)}")
    sizes, grey, stacks = set(), True, 0
    for name in names:
        size, mode, several = picture_kind(path, name)
        sizes.add(size)
        stacks += several
        grey = grey and mode in ("1", "L")
    width, height = min(sizes, key=min)
    side, grey = (wanted[1], wanted[0] == 1) if wanted else (side_of(height, width), grey)
    about["source"] = str(path) + (
        described(height, width, min(height, width), side)
        if len(sizes) == 1
        else f", {len(sizes)} sizes cropped to squares and made {side} x {side}"
    )
    if stacks:
        about["source"] += f", of {stacks} files with several images the first"
    if others:
        expected = " and ".join(TABLES)
        about["source"] += f", not used: {one_line(', '.join(others))[:80]} (expected {expected})"
    factors = classes(names)
    about["names"] = [] if factors is None else ["folder"]
    if table.is_file():
        given = named(TABLES[1], lambda: im.read_array(titles)) if titles.is_file() else None
        values = named(TABLES[0], lambda: im.read_array(table))
        factors, about["names"] = checked(values, len(names), given)
    about["by_folder"] = factors is not None and not table.is_file()

    def make(content: bytes) -> np.ndarray:
        pixels = im.decode(content, "L" if grey else "RGB", photo=True)
        return im.fit(pixels[None], min(pixels.shape[:2]), side)[0]

    shape = len(names), side, side, 1 if grey else 3
    im.write_set(target, shape, im.read_images(members, names, make), about, factors)


def named(name: str, read: Callable):
    """What `read()` returns; a ValueError says that it is about `name`."""
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def classes(names: list[str]) -> np.ndarray | None:
    """Which of 2 to 10 folders each image is in, (M, 1), by the order of their names; else None."""
    parents = [PurePosixPath(name).parent for name in names]
    folders = {folder: number for number, folder in enumerate(sorted(set(parents)))}
    if not 2 <= len(folders) <= MOST_CLASSES or any(len(folder.parts) != 1 for folder in folders):
        return None
    return np.array([[folders[folder]] for folder in parents])


def picture_kind(folder: Path, file: str) -> tuple[tuple[int, int], str, bool]:
    """Width and height of an image file in a folder, its mode, and whether it holds more images than one."""
    name = one_line(file)
    try:
        with open(folder / file, "rb") as stream, Image.open(stream, formats=im.FORMATS) as image:
            size, mode = image.size, image.mode
            several = has_more(image)
    except im.TOO_LARGE:
        most = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise ValueError(f"{name}: has more than {most}; make it smaller or remove it") from None
    except im.DAMAGED as error:
        if of_the_system(error):
            raise
        formats = f"{', '.join(im.FORMATS[:-1])} or {im.FORMATS[-1]}"
        raise ValueError(f"{name}: not an image ({formats}), or damaged; convert or remove it") from None
    if mode[0] in "IF":
        raise ValueError(f"{name}: has more than 8 bits a channel (mode {mode}); convert it to 8")
    return size, mode, several


def has_more(image: Image.Image) -> bool:
    """Whether a file holds another image, which may be damaged; a second one in a JPEG is none to look at."""
    with suppress(*im.DAMAGED):
        return image.format in ("GIF", "TIFF", "WEBP", "PNG") and getattr(image, "n_frames", 1) > 1
    return False


def is_set(folder: Path, shape: Shape, about: dict) -> bool:
    """Whether a prepared set is of these images, in this shape."""
    try:
        images, _, found = im.open_set(folder)
    except ValueError:  # not there, or damaged
        return False
    channels, *sides = shape
    return found.get("fingerprint") == about["fingerprint"] and images.shape[1:] == (*sides, channels)


def prepared(
    path: Path, folder: Path, wanted: Shape | None = None
) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """The images at `path` as `prepared.open_set` gives them, prepared under `folder` if `path` has changed.

    wanted  the shape that a network takes; an array must have its channels
    Raises ValueError for what is not there, damaged or no images.
    """
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: not there; {EXPECTED}")
    kinds = {".npy": Npy, ".npz": Npz, ".h5": Hdf5, ".hdf5": Hdf5}
    if not path.is_dir() and path.suffix.lower() not in kinds:
        raise ValueError(f"{path}: {EXPECTED}")
    try:
        about = {
            "fingerprint": [VERSION, *im.fingerprint(path, lambda name: is_picture(name) or is_factors(name))]
        }
    except OSError as error:  # a folder that may not be read, a broken symbolic link
        raise ValueError(f"{path}: {brief(error, path)}") from None
    target = folder / "own" / f"{path.resolve().name}-{zlib.crc32(str(path.resolve()).encode()):08x}"
    if wanted and not is_set(target, wanted, about):
        target = target.with_name(f"{target.name}-{wanted[0]}x{wanted[1]}")
    with im.locked(target, wait=True):  # another run on the same images may begin at the same moment
        if not target.exists() or im.open_set(target)[2].get("fingerprint") != about["fingerprint"]:
            try:
                if path.is_dir():
                    prepare_folder(path, target, about, wanted)
                else:
                    prepare_array(kinds[path.suffix.lower()](path), target, about, wanted)
            except im.DAMAGED as error:
                message = one_line(error) if type(error) is ValueError else brief(error, path)
                if not message.startswith(f"{target}: "):
                    message = f"{path}: {message}"
                raise ValueError(message) from None
        return im.open_set(target)
