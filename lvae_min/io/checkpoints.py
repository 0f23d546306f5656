"""Tensors in a file: written whole, and read so that damage, be it of one bit, is seen."""

import zipfile
from pathlib import Path

import torch

from lvae_min.io.atomic import whole
from lvae_min.io.text import brief, of_the_system


def save(file: Path, state: dict) -> None:
    """Write tensors, numbers and dicts of them, whole, without a second copy of the file in memory."""
    with whole(file) as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:  # torch could not end the archive; the error before that one says why
            raise error.__context__ or error from None


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def is_machines(error: BaseException) -> bool:
    """Whether an error is the machine's and says nothing of what is in a file.

    It has no memory left, a GPU that fails, no such file, or does not let it be read.
    """
    return isinstance(error, torch.AcceleratorError) or out_of_memory(error) or of_the_system(error)


def load_checkpoint(file: Path) -> dict:
    """What `save` wrote, on the CPU; nothing but tensors is unpickled.

    Raises ValueError if it is damaged, be it by one bit. `torch.load` does not compare the checksums of the
    archive: that takes 0.35 s for 153 MB, beside 0.5 s for the rest.
    """
    try:
        with zipfile.ZipFile(file) as archive:  # torch allocates what the list of members claims
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed")
            if sum(member.file_size for member in archive.infolist()) > file.stat().st_size:
                raise ValueError("it claims more bytes than it has")
            # Of a folder, marked by bit 16 or its name, torch reads nothing and takes memory as it is.
            if any(member.is_dir() or member.external_attr & 16 for member in archive.infolist()):
                raise ValueError("it has a folder where tensors should be")
            if (member := archive.testzip()) is not None:
                raise ValueError(f"{member} is not what its checksum says")
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        if is_machines(error):
            raise
        raise ValueError(f"{file}: damaged, or not a checkpoint ({brief(error, file)})") from None


def check_tensors(found: dict, own: dict[str, torch.Tensor]) -> None:
    """Raise ValueError unless `found` are tensors of the names, shapes and types of `own`, whole."""
    if not isinstance(found, dict) or found.keys() != own.keys():
        raise ValueError(f"expected tensors {', '.join(map(str, own))[:80]}")
    for name, tensor in own.items():
        value = found[name]
        if type(value) is not torch.Tensor or value.layout != torch.strided or value.device.type != "cpu":
            raise ValueError(f"{name} is no plain tensor")
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise ValueError(
                f"{name} is {value.dtype} {tuple(value.shape)}, expected {tensor.dtype} {tuple(tensor.shape)}"
            )
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"{name} repeats a few numbers")  # strides of 0
