"""Prepare a data set once, from the archive that its authors publish.

    python -m lvae_min.datasets prepare mpi3d                 where the archive is to be had, and its licence
    python -m lvae_min.datasets prepare mpi3d --from FILE     make data/mpi3d of it
    python -m lvae_min.datasets prepare dsprites              download it, or continue a download

A set is made in one pass, and is there whole or not at all. arm3d needs no preparation, dSprites only where
its published file is preferred to drawing the same images.
"""

import hashlib
import http.client
import io
import re
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lvae_min.datasets import dsprites
from lvae_min.datasets import prepared as im
from lvae_min.datasets.specs import ATTRIBUTES, SPECS, Spec
from lvae_min.io import npy
from lvae_min.io.text import Parser, brief, carry_out, of_the_system, one_line

CELEBA_IMAGES, CELEBA_SIZE, CELEBA_CROP = 202_599, (178, 218), 148
ATTRIBUTE_FILE = "list_attr_celeba.txt"
BLOCK = 2**20  # bytes that are downloaded or hashed at a time


@dataclass(frozen=True)
class Archive:
    """What is known of a published archive. A size or hash that nobody published is left out."""

    file: str
    where: str  # a page or link for people
    size: str
    licence: str
    url: str = ""  # of a direct download, where there is one
    md5: str = ""
    also: str = ""  # a file that has to be next to it


DRIVE = "https://drive.google.com/uc?id="
HIGH_RES = "CC BY 4.0 (github.com/NVlabs/High-res-disentanglement-datasets)"
ARCHIVES = {
    "dsprites": Archive(
        dsprites.ARCHIVE,
        "https://github.com/google-deepmind/dsprites-dataset",
        "26 MB",
        "Apache 2.0",
        url="https://github.com/google-deepmind/dsprites-dataset/raw/master/" + dsprites.ARCHIVE,
        md5="7da33b31b13a06f4b04a70402ce90c2e",
    ),
    "mpi3d": Archive(
        "real3d_complicated_shapes_ordered.npz",
        DRIVE + "1Tp8eTdHxgUMtsZv5uAoYAbJR1BOa_OQm",
        "up to 5.7 GB",
        "CC BY 4.0 (github.com/rr-learning/disentanglement_dataset)",
    ),
    "falcor3d": Archive(
        "Falcor3D_down128.zip", DRIVE + "1XAQfFK1x6cpN1eiovbP0hVfLTm5SsSoJ", "3.7 GB", HIGH_RES
    ),
    "isaac3d": Archive("Isaac3D_down128.zip", DRIVE + "1OmQ1G2wnm6eTsSFGTKFZZAh5D3nQTW1B", "13 GB", HIGH_RES),
    "celeba": Archive(
        "img_align_celeba.zip",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "1.4 GB",
        "non-commercial research only, no redistribution",
        md5="00d2c5bc6d35e252742224ab0c1e8fcb",
        also=ATTRIBUTE_FILE,
    ),
}


def read_mpi3d(file: Path, spec: Spec) -> Iterator[np.ndarray]:
    """Images of the npz, in the order they are in."""
    channels, height, width = spec.shape
    wanted = (spec.count, height, width, channels)
    with zipfile.ZipFile(file) as archive, npy.open_member(archive, "images.npy") as stream:
        shape, dtype = npy.read_header(stream)
        if shape != wanted or dtype != np.uint8:
            raise ValueError(f"'images' is {dtype} {shape}, expected uint8 {wanted}")
        yield from npy.read_chunks(stream, shape, dtype)


def halved(content: bytes) -> np.ndarray:
    """A 128 x 128 image file as (64, 64, 3) uint8: the mean of each 2 x 2 pixels."""
    pixels = im.decode(content)
    if pixels.shape != (128, 128, 3):
        raise ValueError(f"is {pixels.shape[1]} x {pixels.shape[0]}, expected 128 x 128")
    # Differs from the paper, which says 64 x 64 and not how.
    return np.asarray(Image.fromarray(pixels).reduce(2))


def check_labels(content: bytes, sizes: tuple[int, ...]) -> None:
    """Raise ValueError unless labels (M, K) are the complete grid of `sizes`, the last factor fastest.

    A factor's values may be any numbers, and its column any one: only the factors' order and sizes are relied
    on.
    """
    stream = io.BytesIO(content)
    shape, dtype = npy.read_header(stream, len(content))
    wanted = int(np.prod(sizes)), len(sizes)
    if shape != wanted or dtype.kind not in "iuf":
        raise ValueError(f"labels are {dtype} {shape}, expected numbers {wanted}")
    labels = np.empty((shape[1], shape[0]), dtype)
    done = 0
    for rows in npy.read_chunks(stream, shape, dtype):
        if not (np.abs(rows) < 1e4).all():
            raise ValueError("labels are not all finite, and below 10,000")
        labels[:, done : done + len(rows)] = rows.T
        done += len(rows)
    for k, size in enumerate(sizes):
        stride = int(np.prod(sizes[k + 1 :]))
        grid = np.arange(wanted[0]) // stride % size
        values = labels[:, np.arange(size) * stride].round(4)  # (K, size), of every value of factor k
        if not any(
            len(np.unique(value)) == size and (value[grid] == column.round(4)).all()
            for value, column in zip(values, labels, strict=True)
        ):
            raise ValueError(f"labels: no column has {size} values that change every {stride} images")


def numbered(names: list[str], count: int) -> list[str]:
    """Those of `names` that end in 000000.png to count - 1, in order. Raises ValueError if one is missing."""
    found: list = [None] * count  # a list: a dict of 737,280 file names takes 0.2 GB more
    for name in names:
        match = re.search(r"(?:^|/)([0-9]{6})\.png$", name)
        if match and int(match[1]) < count:
            found[int(match[1])] = name
    missing = [number for number, name in enumerate(found) if name is None]
    if missing:
        raise ValueError(
            f"holds no {missing[0]:06d}.png"
            + (f", and {len(missing) - 1} more are missing" if len(missing) > 1 else "")
        )
    return found


def read_pngs(file: Path, spec: Spec, labels: str) -> Iterator[np.ndarray]:
    """Images of Falcor3D or Isaac3D at 128 x 128, halved: a zip, or a folder, with images/000000.png, ..."""
    members = im.Members(file)
    try:
        where = [name for name in members.names if name.rsplit("/", 1)[-1] == labels]
        if not where:
            raise ValueError(f"holds no {labels}")
        check_labels(members.read(where[0]), tuple(spec.factors.values()))
        yield from im.read_images(members, numbered(members.names, spec.count), halved)
    finally:
        members.close()


def celeba_subset(count: int) -> np.ndarray:
    """Numbers, from 0 and in order, of the `count` images of CelebA that are used.

    Differs from the paper, which does not say which 12 % it used: the first of a permutation with seed 0
    here.
    """
    return np.sort(np.random.default_rng(0).permutation(CELEBA_IMAGES)[:count])


def read_attributes(file: Path) -> np.ndarray:
    """The attributes (202599, 40), 0 or 1, of all images of CelebA."""
    if not file.is_file():
        raise ValueError(f"{file}: not there; it belongs to CelebA, put it next to the images")
    try:
        lines = file.read_text("ascii").splitlines()
        names, rows = lines[1].split(), [line.split() for line in lines[2:] if line.strip()]
        if names != ATTRIBUTES:
            raise ValueError("line 2 has not the 40 names of the attributes")
        if lines[0].strip() != str(CELEBA_IMAGES) or len(rows) != CELEBA_IMAGES:
            raise ValueError(f"{len(rows)} images, expected {CELEBA_IMAGES}")
        for number, row in enumerate(rows, 1):
            if row[0] != f"{number:06d}.jpg" or len(row) != 41 or not {"1", "-1"}.issuperset(row[1:]):
                raise ValueError(f"line {number + 2} is not {number:06d}.jpg and 40 times 1 or -1")
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file}: {brief(error)}") from None
    return np.array([[value == "1" for value in row[1:]] for row in rows])


def cropped(content: bytes) -> np.ndarray:
    """An aligned image of CelebA, 178 x 218, as (128, 128, 3) uint8."""
    pixels = im.decode(content)
    if pixels.shape[1::-1] != CELEBA_SIZE:
        raise ValueError(
            f"is {pixels.shape[1]} x {pixels.shape[0]}, expected {CELEBA_SIZE[0]} x {CELEBA_SIZE[1]}"
        )
    # Differs from the paper, which gives no crop: the middle 148 x 148 here.
    return im.fit(pixels[None], CELEBA_CROP, 128)[0]


def read_celeba(file: Path, spec: Spec) -> Iterator[np.ndarray]:
    """The images of CelebA that are used, from img_align_celeba.zip or the folder in it."""
    members = im.Members(file)
    try:
        names = {name.rsplit("/", 1)[-1]: name for name in members.names if name.endswith(".jpg")}
        if len(names) != CELEBA_IMAGES:
            raise ValueError(f"holds {len(names)} images, expected {CELEBA_IMAGES}")
        wanted = [f"{number + 1:06d}.jpg" for number in celeba_subset(spec.count)]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(f"holds no {missing[0]}")
        yield from im.read_images(members, [names[name] for name in wanted], cropped)
    finally:
        members.close()


READERS = {
    "mpi3d": read_mpi3d,
    "falcor3d": lambda file, spec: read_pngs(file, spec, "train-rec.labels"),
    "isaac3d": lambda file, spec: read_pngs(file, spec, "labels.npy"),
    "celeba": read_celeba,
}


def prepare(name: str, file: Path, folder: Path) -> Path:
    """Make the prepared set `folder`/`name` from its archive `file`. Raises ValueError if that is damaged."""
    spec = SPECS[name]
    channels, height, width = spec.shape
    if not file.exists():
        raise ValueError(f"{file}: not there")
    try:
        with im.locked(folder / name):
            factors = None
            if name == "celeba":
                attributes = read_attributes(file.parent / ATTRIBUTE_FILE)
                factors = attributes[celeba_subset(spec.count)].astype(np.int64)
            im.write_set(
                folder / name,
                (spec.count, height, width, channels),
                READERS[name](file, spec),
                {"source": str(file), "bytes": file.stat().st_size},
                factors,
            )
    except im.DAMAGED as error:
        if isinstance(error, MemoryError):
            raise ValueError(f"{file}: not enough memory to read it; nothing was prepared") from None
        if isinstance(error, OSError) and of_the_system(error):
            raise ValueError(f"{error.filename or file}: {error.strerror}; nothing was prepared") from None
        message, places = one_line(error), (f"{folder / name}: ", f"{file.parent / ATTRIBUTE_FILE}: ")
        if not message.startswith(places):
            message = f"{file}: not the archive of {name}, or damaged ({brief(error)})"
        raise ValueError(
            f"{message}; nothing was prepared. {name} is available from {ARCHIVES[name].where}"
        ) from None
    return folder / name


def md5(file: Path) -> str:
    total = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def download(archive: Archive, folder: Path) -> Path:
    """Download an archive into `folder`; a part that is there is continued.

    Raises ValueError when it cannot be had, and when its hash is not the published one; the file is not kept
    then.
    """
    file, part = folder / archive.file, folder / (archive.file + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            done = done if answer.status == 206 else 0  # 200: the whole file comes again
            total = done + int(answer.headers.get("Content-Length") or 0)
            with (
                open(part, "ab" if done else "wb") as stream,
                tqdm(
                    total=total, initial=done, unit="B", unit_scale=True, desc=file.name, disable=None
                ) as bar,
            ):
                while block := answer.read(BLOCK):
                    stream.write(block)
                    bar.update(len(block))
        if part.stat().st_size < total:
            raise ValueError("the connection was closed early")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to download
            raise ValueError(f"{archive.url}: {error.code} {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ValueError(f"{archive.url}: {brief(error)}; the same command continues the download") from None
    found = md5(part)
    if found != archive.md5:
        part.unlink()
        raise ValueError(
            f"{archive.url}: md5 {found}, expected {archive.md5}; the file was removed, try again"
        )
    part.replace(file)
    return file


def place(name: str, folder: Path) -> str:
    """Where to get an archive, in a sentence."""
    archive = ARCHIVES[name]
    extra = f" and {archive.also}, side by side" if archive.also else ""
    return (
        f"{name}: {archive.file} is not in {folder}; get it{extra} from {archive.where} "
        f"({archive.size}, licence: {archive.licence}), then: "
        f"python -m lvae_min.datasets prepare {name} --from FILE --data {folder}"
    )


def main(arguments: list[str]) -> None:
    parser = Parser(prog="python -m lvae_min.datasets", description=__doc__)
    parser.add_argument("action", choices=["prepare"])
    parser.add_argument("name", choices=ARCHIVES)
    parser.add_argument("--from", dest="file", type=Path, help="the archive (default: by its name in --data)")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of prepared sets (default: data)"
    )
    given = parser.parse_args(arguments)
    archive, file = ARCHIVES[given.name], given.file or given.data / ARCHIVES[given.name].file
    if given.file is None and given.name != "dsprites" and (given.data / given.name).exists():
        from lvae_min.data import load_prepared  # not above: PyTorch takes a second

        load_prepared(given.name, given.data)
        print(f"{given.data / given.name}: prepared before; --from FILE does it again")
        return
    if given.file is None and not file.exists() and archive.url:
        file = download(archive, given.data)
    if given.file is None and not file.exists():
        raise ValueError(place(given.name, given.data))
    began = time.monotonic()
    if archive.md5 and file.is_file() and (found := md5(file)) != archive.md5:
        print(f"{file}: md5 {found}, published is {archive.md5}; repacked, or damaged", file=sys.stderr)
    if given.name == "dsprites":
        if file.resolve() != (given.data / archive.file).resolve():
            raise ValueError(f"dsprites is used as published: put {file} into {given.data} as {archive.file}")
        dsprites.read(file)
        print(f"{file}: whole; used as it is")
    else:
        target = prepare(given.name, file, given.data)
        print(f"{target}: {SPECS[given.name].count} images in {time.monotonic() - began:.0f} s")


def command(arguments: list[str]) -> int:
    """`main`; a user's mistake is one line of error message and exit code 2."""
    return carry_out(main, arguments, "prepare", "stopped; nothing was prepared")
