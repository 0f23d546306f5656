"""Headers that lie, and what is read all the same."""

import io
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from lvae_min.io import npy


def header(shape="(4, 2)", descr="'<f8'", fortran="False"):
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content, message",
    [
        (header("(99999999999, 2)"), "and has 0 bytes of that"),
        (header("(2, 99999999999)"), "and has 0 bytes of that"),
        (header("(-4, 2)"), "no plain array"),
        (header("(True, 2)"), "no plain array"),
        (header(descr="[('a', '|u1')]"), "no plain array"),
        (header(descr="'|O'"), "pickled objects, which are never read"),
        (header(descr="()"), "has a header that is no array's"),
        (header("(" * 40 + ",") + b"\n", "eader"),
        (header("(4,\n\n", fortran="(\n("), "eader"),
        (header("()", "'|u1'") + b"1", "is a single value"),
        (header("(4L, 2)") + bytes(9), "and has 9 bytes of that"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(content, message):
    tracemalloc.start()
    with warnings.catch_warnings(), pytest.raises(ValueError) as error:
        warnings.simplefilter("error")
        npy.read_array(io.BytesIO(content), len(content))
    assert message in str(error.value) and tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(700, 3), (3,), (0, 3), (5, 2, 4)])
def test_an_array_is_read_in_either_order(order, shape):
    array = np.random.default_rng(0).normal(size=shape).astype("<f4", order)
    content = io.BytesIO()
    np.save(content, array)
    content.seek(0)
    found = npy.read_array(content, len(content.getvalue()))
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_rows_that_are_large_are_read_a_few_at_a_time():
    assert npy.rows_of((10**6, 64, 64, 3), np.dtype("u1")) == 256
    assert npy.rows_of((10**6, 4096, 4096, 3), np.dtype("u1")) == 1
    with pytest.raises(ValueError, match="a single row has more than"):
        npy.read_header(io.BytesIO(header("(4, 30000, 30000)", "'|u1'")))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_is_unpacked_bit_by_bit_or_not_at_all(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.npy", bytes(10**6))
    with (
        zipfile.ZipFile(tmp_path / "a.zip") as archive,
        pytest.raises(ValueError, match="is packed by method"),
    ):
        npy.open_member(archive, "a.npy")
