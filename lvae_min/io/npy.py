"""Arrays in the .npy and .npz files that others made: read bit by bit, never unpickled, never believed.

A header, of an array or of a zip, may claim any size; nothing is allocated for more than what is there.
"""

import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from tokenize import TokenError

import numpy as np

CHUNK = 256                     # rows in memory at a time
CHUNK_BYTES = 2**26             # and bytes, unless a single row has more
LARGEST_ROW = 2**28             # bytes
LARGEST_HEADER = 10_000         # bytes; numpy's own limit for a header it does not trust
DAMAGED = (ValueError, KeyError, IndexError, OSError, EOFError, RuntimeError, MemoryError, OverflowError,
           struct.error, zlib.error, zipfile.BadZipFile)


def open_member(archive: zipfile.ZipFile, name: str):
    """A member of a zip, to be read. Raises ValueError if it is packed so that Python unpacks it at once."""
    method = archive.getinfo(name).compress_type
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"is packed by method {method}, expected stored or deflated")
    return archive.open(name)


def read_layout(stream, size: int | None = None) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type of the array that follows in an open .npy file.

    size  bytes of the file, if that is known
    Raises ValueError for anything but plain values: nothing is ever unpickled.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # that Python 2 wrote it
            shape, fortran, dtype = read(stream, max_header_size=LARGEST_HEADER)
    except (TypeError, IndexError, SyntaxError, TokenError, RecursionError, MemoryError):
        raise ValueError("has a header that is no array's") from None
    if dtype.hasobject:
        raise ValueError("holds pickled objects, which are never read")
    if dtype.names is not None or dtype.subdtype or not dtype.itemsize or any(
            type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"is {str(dtype)[:80]} {shape}, no plain array")
    if size is not None and size - stream.tell() < math.prod(shape) * dtype.itemsize:
        raise ValueError(f"is {dtype} {shape}, and has {size - stream.tell():,} bytes of that")
    return shape, fortran and len(shape) > 1, dtype


def read_header(stream, size: int | None = None) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in C order, of which no row is larger than LARGEST_ROW."""
    shape, fortran, dtype = read_layout(stream, size)
    if fortran:
        raise ValueError("is in Fortran order; save it after np.ascontiguousarray")
    if math.prod(shape[1:]) * dtype.itemsize > LARGEST_ROW:
        raise ValueError(f"is {dtype} {shape}, of which a single row has more than {LARGEST_ROW:,} bytes")
    return shape, dtype


def rows_of(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """How many rows of an array are in memory at a time."""
    return min(max(CHUNK_BYTES // max(math.prod(shape[1:]) * dtype.itemsize, 1), 1), CHUNK)


def read_chunks(stream, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The rest of an open .npy file, at most CHUNK rows at a time. Raises ValueError if it is cut short."""
    row, rows = math.prod(shape[1:]) * dtype.itemsize, rows_of(shape, dtype)
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        content = stream.read(count * row)
        if len(content) < count * row:
            raise ValueError(f"cut short in rows {start} to {start + count}")
        yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


def read_array(stream, size: int | None = None) -> np.ndarray:
    """The whole array of an open .npy file, in either order."""
    shape, fortran, dtype = read_layout(stream, size)
    if not shape:
        raise ValueError("is a single value, no table")
    kept = shape[::-1] if fortran else shape
    array = np.concatenate([np.empty((0, *kept[1:]), dtype), *read_chunks(stream, kept, dtype)])
    return array.T if fortran else array
