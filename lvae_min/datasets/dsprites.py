"""dSprites (Sec. 6.1, Matthey et al. 2017): drawn from its geometry, or read from the published archive.

`draw()` draws the 737,280 binary images exactly as published, so that nothing has to be downloaded; `read()`
reads them from the archive. A row of 64 pixels is one uint64: bit j is column j. All arithmetic is float64
and integers, so that the images do not depend on the machine. Coordinates are pixels, x to the right, y down.

PyTorch is not imported here: the images are drawn while it is (`Ahead`).
"""

import math
import mmap
import os
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lvae_min.io import npy
from lvae_min.io.text import brief, of_the_system

ARCHIVE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"  # the published file
FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "position x": 32, "position y": 32}  # slowest first
SIZES = tuple(FACTORS.values())
GRID = 256  # vertices are rounded to 1/256 pixel, as a GPU does
FULL_ROW = np.uint64(2**64 - 1)
SPRITES = [(shape, scale) for shape in (2, 1, 0) for scale in range(6)]  # those with the most edges first

SCALES = np.linspace(0.5, 1, 6)
ORIENTATIONS = np.linspace(0, 2 * np.pi, 40)  # 0 and 2 pi are both there: orientations 0 and 39 look alike
CENTRES = 16 + 32 * np.linspace(0, 1, 32)  # pixels


def outline(shape: int) -> np.ndarray:
    """Vertices of a sprite at scale 1 about the point it turns around: (vertices, 2), pixels.

    shape  0 square of side 19.2, 1 ellipse of 100 vertices, 2 heart of 150
    """
    radius = 9.6  # 0.15 of the image
    if shape == 0:
        return radius * np.array([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]])
    vertices = (100, 150)[shape - 1]
    t = 2 * np.pi * np.arange(vertices) / vertices
    if shape == 1:
        return np.stack([radius * 1.33 * np.cos(t), radius / 1.33 * np.sin(t)], 1)
    y = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 14.5 + 0.15
    return radius * np.stack([np.sin(t) ** 3, -y], 1)


def fill_edges(rows: np.ndarray, xa: np.ndarray, ya: np.ndarray, xb: np.ndarray, yb: np.ndarray) -> None:
    """Turn over all pixels to the right of an edge: after every edge the inside of the polygon is on.

    rows    (orientation, x, y, 64) uint64, changed in place
    xa, xb  (orientation, x)  ends of the edge in 1/256 pixel, for every position of the sprite
    ya, yb  (orientation, y)
    """
    half = GRID // 2  # a pixel is on if its centre is inside
    first = np.floor((np.minimum(ya, yb) - half) / GRID).astype(int) + 1  # a centre on the edge: lower row
    crossed = np.floor((np.maximum(ya, yb) - half) / GRID).astype(int) + 1 - first
    for k in range(crossed.max()):
        orientation, position = np.nonzero(crossed > k)
        row = first[orientation, position] + k
        start, height = ya[orientation, position], (yb - ya)[orientation, position]
        x = xa[orientation] + (GRID * row + half - start)[:, None] * (xb - xa)[orientation] / height[:, None]
        column = np.ceil((x - half) / GRID).astype(np.uint64)  # first pixel centre at or right of it
        rows[orientation, :, position, row] ^= FULL_ROW << column


def draw_sprites(rows: np.ndarray, shape: int, scale: int) -> None:
    """Draw all sprites of one shape and scale into zeroed `rows` (orientation, x, y, 64) uint64."""
    u, v = (outline(shape) * SCALES[scale]).T  # (vertices,)
    cos, sin = np.cos(ORIENTATIONS)[:, None], np.sin(ORIENTATIONS)[:, None]
    x = np.round((cos * u + sin * v)[..., None] * GRID + CENTRES * GRID)  # (orientation, vertex, x)
    y = np.round((cos * v - sin * u)[..., None] * GRID + CENTRES * GRID)  # (orientation, vertex, y)
    for b in range(len(u)):
        a = b - 1
        fill_edges(rows, x[:, a], y[:, a], x[:, b], y[:, b])


def draw() -> np.ndarray:
    """All dSprites images in the published order, packed: (737280, 64) uint64, bit j of a word is column j.

    Checked against 409 published images without one wrong pixel; the whole set has 2 white pixels more than
    the published mean implies, of 128 million.
    """
    if (rows := AHEAD.take()) is None:
        rows = np.zeros((*SIZES, 64), np.uint64)
        with ThreadPoolExecutor(2) as pool:  # more are slower: between numpy's short calls one runs at a time
            list(pool.map(lambda sprite: draw_sprites(rows[sprite], *sprite), SPRITES))
    return rows.reshape(-1, 64)


class Ahead:
    """Lets another process draw the images while this one imports PyTorch."""

    def __init__(self):
        self.process, self.rows = 0, None

    def begin(self) -> None:
        """Start drawing, in a forked process, what the next `draw` will return. Linux only.

        Call it before PyTorch is imported, which starts threads: a forked process has none of them, and a
        lock that one of them held would never be released there. numpy's own threads are idle at this moment.
        """
        if sys.platform != "linux" or self.process:
            return
        try:
            shared = mmap.mmap(-1, math.prod(SIZES) * 64 * 8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
                process = os.fork()
        except OSError:  # too little memory, or too many processes: `draw` draws
            return
        rows = np.frombuffer(shared, np.uint64).reshape(*SIZES, 64)
        if not process:
            code = 1
            try:
                for sprite in SPRITES:
                    draw_sprites(rows[sprite], *sprite)
                code = 0
            finally:
                os._exit(code)
        self.process, self.rows = process, rows

    def take(self) -> np.ndarray | None:
        """Wait for the images (*SIZES, 64); None without a `begin`, or if the process reported no success."""
        process, rows, self.process, self.rows = self.process, self.rows, 0, None
        try:
            return rows if process and os.waitpid(process, 0)[1] == 0 else None
        except ChildProcessError:  # SIGCHLD is ignored, as a parent may arrange: no exit status is kept
            return None


AHEAD = Ahead()


def pack(images: np.ndarray) -> np.ndarray:
    """0/1 images (..., 64, 64) as rows of bits (..., 64) uint64."""
    octets = np.packbits(np.asarray(images, bool), axis=-1, bitorder="little")
    return octets.view("<u8")[..., 0].astype(np.uint64)


def unpack(rows: np.ndarray) -> np.ndarray:
    """Rows of bits (..., 64) uint64 as 0/1 images (..., 64, 64) uint8."""
    octets = np.ascontiguousarray(rows).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little").reshape(*rows.shape, 64)


def read(file: Path) -> np.ndarray:
    """Images of the published npz as rows of bits, (737280, 64) uint64, in a few MB beside the result.

    Raises ValueError if the file is not that npz; nothing in it is unpickled.
    """
    wanted = (math.prod(SIZES), 64, 64)
    rows = np.empty(wanted[:2], np.uint64)
    try:
        with zipfile.ZipFile(file) as archive, npy.open_member(archive, "imgs.npy") as member:
            shape, dtype = npy.read_header(member)
            if shape != wanted or dtype != np.uint8:
                raise ValueError(f"imgs is {dtype} {shape}, expected uint8 {wanted}")
            start = 0
            for images in npy.read_chunks(member, shape, dtype):
                if images.max() > 1:
                    raise ValueError(f"images {start} to {start + len(images)} are not 0 and 1")
                rows[start : start + len(images)] = pack(images)
                start += len(images)
    except npy.DAMAGED as error:
        if of_the_system(error):
            raise
        raise ValueError(
            f"{file}: not the published dSprites archive, or damaged ({brief(error)}); "
            "replace it, or remove it: without it the images are drawn"
        ) from None
    return rows
