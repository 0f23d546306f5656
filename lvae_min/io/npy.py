"""Arrays in the .npy and .npz files that others made: read bit by bit, never unpickled, never believed.

A header, of an array or of a zip, may claim any size; nothing is allocated for more than what is there.
"""

import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np

from lvae_min.io.text import one_line

CHUNK = 256  # rows in memory at a time
CHUNK_BYTES = 2**26  # and bytes, unless a single row has more
LARGEST_ROW = 2**28  # bytes
LARGEST_HEADER = 10_000  # bytes; numpy's own limit for a header it does not trust
LARGEST_TABLE = 2**31  # bytes of an array of codes or factors
DAMAGED = (
    ValueError,
    KeyError,
    IndexError,
    OSError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


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
            warnings.simplefilter("ignore")  # that Python 2 wrote it
            shape, fortran, dtype = read(stream, max_header_size=LARGEST_HEADER)
    except (TypeError, IndexError, SyntaxError, TokenError, RecursionError, MemoryError):
        raise ValueError("has a header that is no array's") from None
    if dtype.hasobject:
        raise ValueError("holds pickled objects, which are never read")
    if (
        dtype.names is not None
        or dtype.subdtype
        or not dtype.itemsize
        or any(type(size) is not int or size < 0 for size in shape)
    ):
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


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names in an .npz. ValueError says in one line what is wrong with the file."""
    if not path.is_file():
        raise ValueError("no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError("not an .npz archive")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            tables = {}
            for name in names:
                size = sizes.get(f"{name}.npy")
                if size is None:
                    raise ValueError(
                        f"no array {name!r}, found {', '.join(map(repr, sizes))[:200] or 'nothing'}"
                    )
                if size > LARGEST_TABLE:
                    raise ValueError(f"{name} would take {size:,} bytes, more than 2 GiB")
                with open_member(archive, f"{name}.npy") as stream:
                    tables[name] = read_array(stream, size)
        return tables
    except DAMAGED as error:
        raise ValueError(one_line(error)[:300] or type(error).__name__) from error


def write_npz_rows(file, name: str, shape: tuple[int, ...], dtype, chunks: Iterable[np.ndarray]) -> None:
    """Write an open file as an .npz of one array, whose rows come in chunks: none of it is kept in memory.

    Raises ValueError if the rows are not as many as `shape` says.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(member, header)
            rows = 0
            for chunk in chunks:
                member.write(np.ascontiguousarray(chunk, dtype).data)
                rows += len(chunk)
    if rows != shape[0]:
        raise ValueError(f"{rows} rows of {shape[0]}")
