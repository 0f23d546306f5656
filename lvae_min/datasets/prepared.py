"""Images on their way from the files others made into a prepared set; nothing is unpickled, nothing unpacked.

A prepared set is a folder with `images.npy` (M, H, W, C) uint8, `about.json`, and `factors.npy` (M, K), int64
or float64, where the factors do not follow from the index. It is written beside its place and moved there
when it is whole.
"""

import io
import json
import math
import os
import shutil
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401  # so that these formats are there
from PIL.Image import Transpose
from tqdm import tqdm

from lvae_min.io import atomic, npy
from lvae_min.io.text import brief, of_the_system, one_line

CHUNK = 256  # images in memory at a time
SHAPES = {(side, side, channels) for side in (64, 128) for channels in (1, 3)}  # of prepared images
MOST_FACTORS = 1000
LARGEST_FILE = 2**28  # bytes of an image or of labels
HIDDEN = (".", "__MACOSX")  # how the name of a folder begins that a program made for itself
MADE = (("config.json", "lock"), ("about.json", "images.npy"))  # files of a run, and of a prepared set
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# Of the formats that Pillow can read: for some others (EPS) it starts a program on what the file holds.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
TOO_LARGE = Image.DecompressionBombError, Image.DecompressionBombWarning
DAMAGED = (*npy.DAMAGED, SyntaxError, TypeError, *TOO_LARGE)


def quiet() -> None:
    """Pillow warns of what it can read all the same, and reads what claims up to 179 million pixels."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


quiet()


def files_in(folder: Path) -> list[Path]:
    """All files in a folder but hidden ones, and none of hidden folders, runs and prepared sets below it.

    Symbolic links are followed, to each folder once and to none that `folder` is in; a broken one is a file,
    and reading it raises. Raises OSError for a folder that cannot be read.
    """
    top = folder.resolve()
    seen = {identity(one) for one in (top, *top.parents)}

    def wanted(below: Path) -> bool:
        if below.name.startswith(HIDDEN) or is_made(below) or (found := identity(below)) in seen:
            return False
        seen.add(found)
        return True

    def refuse(error: OSError) -> None:
        raise error

    files: list[Path] = []
    for below, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [one for one in sorted(folders) if wanted(Path(below, one))]
        shown = [Path(below, name) for name in names if not name.startswith(HIDDEN)]
        files += [file for file in shown if file.is_file() or not file.exists()]
    return sorted(files)


def identity(folder: Path) -> tuple[int, int]:
    """Device and number of a folder, whatever path leads to it."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def is_made(folder: Path) -> bool:
    """Whether this package made a folder: a run or a prepared set."""
    return any(all(os.path.exists(folder / name) for name in names) for names in MADE)


class Members:
    """The files in a folder or, read in place, a zip, by name. Raises ValueError for names that climb out."""

    def __init__(self, path: Path):
        self.path, self.archive = path, None
        if path.is_dir():
            self.names = [file.relative_to(path).as_posix() for file in files_in(path)]
        else:
            self.archive = zipfile.ZipFile(path)
            self.names = [name for name in self.archive.namelist() if not name.endswith("/")]
        for name in self.names:
            if ".." in PurePosixPath(name.replace("\\", "/")).parts or name.startswith(("/", "\\")):
                raise ValueError(f"holds a file named {name[:80]!r}, which lies outside it")

    def read(self, name: str) -> bytes:
        if self.archive is None:
            return (self.path / name).read_bytes()
        size = self.archive.getinfo(name).file_size
        if size > LARGEST_FILE:
            raise ValueError(f"claims {size:,} bytes")
        with npy.open_member(self.archive, name) as stream:
            return stream.read(size)  # no more: it may have been packed from anything

    def close(self) -> None:
        if self.archive:
            self.archive.close()


def decode(content: bytes, mode: str = "RGB", photo: bool = False) -> np.ndarray:
    """An image file as (H, W, C) uint8; a photo as a viewer shows it: upright, and white where transparent.

    Raises ValueError if it is no image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            pixels = np.asarray((shown(image) if photo else image).convert(mode))
    except TOO_LARGE:
        raise ValueError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except DAMAGED as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        raise ValueError("not an image" if unknown else f"damaged ({brief(error)})") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def shown(image: Image.Image) -> Image.Image:
    """An image turned as its camera noted, on white."""
    with suppress(Exception):  # notes of a camera raise nearly anything; the picture is fine
        image = image.transpose(TURNS[image.getexif()[0x0112]])
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def fit(images: np.ndarray, crop: int, side: int) -> np.ndarray:
    """The middle crop x crop pixels of images (N, H, W, C) uint8 as (N, side, side, C), antialiased."""
    top, left = (images.shape[1] - crop) // 2, (images.shape[2] - crop) // 2
    images = images[:, top : top + crop, left : left + crop]
    if crop == side:
        return images
    import torch  # not above: it takes a second
    from torch.nn import functional as F

    planes = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return planes.permute(0, 2, 3, 1).numpy()


def read_images(
    members: Members, names: list[str], make: Callable[[bytes], np.ndarray]
) -> Iterator[np.ndarray]:
    """make(content) (H, W, C) of the files `names`, CHUNK at a time, on all cores. Errors name the file."""

    def one(name: str) -> np.ndarray:
        try:
            return make(members.read(name))
        except DAMAGED as error:
            if of_the_system(error):
                raise
            raise ValueError(f"{one_line(name)}: {brief(error)}") from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), CHUNK):
            yield np.stack(list(pool.map(one, names[start : start + CHUNK])))


@contextmanager
def locked(folder: Path, wait: bool = False):
    """Hold the prepared set `folder`, there or to come, for this thread.

    Raises ValueError if another holds it and is not waited for.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.with_name(folder.name + ".lock"), os.O_RDWR | os.O_CREAT)  # never renamed
    try:
        try:
            atomic.lock(lock, wait)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process prepares it; wait for that") from None
        except OSError as error:
            reason = f"{atomic.UNLOCKABLE} ({error.strerror})"
            raise ValueError(f"{folder}: {reason}; name another folder with --data") from None
        yield
    finally:
        os.close(lock)


def write_set(
    folder: Path,
    shape: tuple[int, int, int, int],
    chunks: Iterable[np.ndarray],
    about: dict,
    factors: np.ndarray | None = None,
) -> None:
    """Make the prepared set `folder` of images `shape` (M, H, W, C) out of uint8 chunks, whole or not at all.

    Whoever calls it has it `locked`. Raises ValueError if the chunks do not add up to that, or if the disk is
    too small.
    """
    part, size = folder.with_name(folder.name + ".part"), math.prod(shape)
    if part.exists():  # by a process that was killed
        shutil.rmtree(part)
    part.mkdir(parents=True)
    try:
        if shutil.disk_usage(part).free < size:
            raise ValueError(
                f"{folder}: needs {size / 1e9:.1f} GB, and the disk has "
                f"{shutil.disk_usage(part).free / 1e9:.1f} GB; name another folder with --data"
            )
        fill(part, shape, chunks, about, factors)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def bar(chunks: Iterable[np.ndarray], total: int) -> Iterator[np.ndarray]:
    """The chunks, with a progress bar where stderr is a terminal."""
    with tqdm(total=total, unit="image", disable=None) as progress:
        for chunk in chunks:
            yield chunk
            progress.update(len(chunk))


def fill(
    part: Path, shape: tuple, chunks: Iterable[np.ndarray], about: dict, factors: np.ndarray | None
) -> None:
    """Write the files of a prepared set. They are written, not mapped: mapped pages would fill the memory."""
    written, content = 0, 0
    with open(part / "images.npy", "wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in bar(chunks, shape[0]):
            if chunk.shape[1:] != tuple(shape[1:]) or chunk.dtype != np.uint8:
                raise ValueError(
                    f"images are {chunk.dtype} {chunk.shape[1:]}, expected uint8 {tuple(shape[1:])}"
                )
            pixels = np.ascontiguousarray(chunk).data
            with atomic.naming(part / "images.npy"):
                stream.write(pixels)
            content = zlib.crc32(pixels, content)
            written += len(chunk)
        if written != shape[0]:
            raise ValueError(f"{written} images, expected {shape[0]}")
        with atomic.naming(part / "images.npy"):
            stream.flush()
            os.fsync(stream.fileno())
    if factors is not None:
        with atomic.whole(part / "factors.npy") as stream:
            np.save(stream, factors, allow_pickle=False)
    atomic.write_whole(part / "about.json", json.dumps({**about, "content": content}, indent=1).encode())


def open_set(folder: Path) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Images (M, H, W, C) uint8, a read-only memory map, factors or None, and what `about.json` says.

    Raises ValueError if the folder is damaged.
    """
    try:
        with open(folder / "images.npy", "rb") as stream:
            shape, dtype = npy.read_header(stream, os.fstat(stream.fileno()).st_size)
            if len(shape) != 4 or dtype != np.uint8 or not shape[0] or shape[1:] not in SHAPES:
                raise ValueError(f"images are {dtype} {shape}")
            images = np.memmap(stream, dtype, "r", stream.tell(), shape)
        file, factors = folder / "factors.npy", None
        if file.exists():
            factors = read_array(file)
            fits = factors.ndim == 2 and len(factors) == len(images)
            if not fits or str(factors.dtype) not in ("int64", "float64"):
                raise ValueError(f"factors are {factors.dtype} {factors.shape} for {len(images)} images")
            if not 1 <= factors.shape[1] <= MOST_FACTORS or not np.isfinite(factors).all():
                raise ValueError("factors are not all finite, or too many")
        about = json.loads((folder / "about.json").read_bytes())
        check_about(about, len(images), 0 if factors is None else factors.shape[1])
        return images, factors, about
    except DAMAGED as error:
        if of_the_system(error) and not isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{folder}: damaged ({brief(error)}); remove it and prepare it again") from None


def check_about(about, images: int, factors: int) -> None:
    """Raise ValueError unless about.json says what it should of a set with so many images and factors."""
    names, files = (about.get(key, []) if isinstance(about, dict) else None for key in ("names", "files"))
    for words in (names, files):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("about.json is no table, or its names are no words")
    if files and len(files) != images:
        raise ValueError(f"about.json names {len(files)} files, and there are {images} images")
    if names and (len(names) != factors or len(set(names)) < factors):
        raise ValueError(f"about.json names {len(set(names))} factors, and there are {factors}")
    if not isinstance(about.get("source", ""), str) or type(about.get("content")) not in (int, type(None)):
        raise ValueError("about.json has another source or content")


def read_array(file: Path) -> np.ndarray:
    """The array in an .npy. Raises one of DAMAGED if it is none."""
    with open(file, "rb") as stream:
        return npy.read_array(stream, os.fstat(stream.fileno()).st_size)


def fingerprint(path: Path, counts: Callable[[str], bool]) -> list:
    """Changes when the file does, or a file in the folder whose name counts: name, size, time of change."""
    files = [path]
    if path.is_dir():
        files = [file for file in files_in(path) if counts(file.name)]
    stats = [(file, file.stat()) for file in files]
    content = repr(
        [
            (file.relative_to(path).as_posix(), info.st_size, info.st_mtime_ns)
            for file, info in stats
            if stat.S_ISREG(info.st_mode)
        ]
    )
    return [len(files), sum(info.st_size for _, info in stats), zlib.crc32(content.encode())]
