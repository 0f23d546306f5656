"""Files that are there whole or not at all, and a folder that one process at a time works in."""

import io
import os
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from lvae_min.io.text import brief

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all. An OSError names it."""
    part = file.with_name(file.name + ".part")
    try:
        with naming(file):
            with open(part, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def lock(descriptor: int, wait: bool = False) -> None:
    """Hold an open file for this process alone until it is closed, or until the process ends.

    Raises OSError if another holds it and is not waited for. Windows has no such lock: nothing is held there.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def held(descriptor: int) -> bool:
    """Whether another holds an open file by `lock`; to be closed afterwards, so that nothing is held."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@contextmanager
def whole(file: Path):
    """A path to write a large file to, which becomes `file` if nothing is raised; there is no half one."""
    part = file.with_name(file.name + ".part")
    try:
        with naming(file):
            yield part
            with open(part, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(part, file)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def naming(file: Path):
    """Let an OSError say which file it is about: a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(file), None
        raise


def save(file: Path, state: dict) -> None:
    """Write tensors, numbers and dicts of them, whole."""
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(file, content.getbuffer())


def is_machines(error: BaseException) -> bool:
    """Whether an error is the machine's, which has no memory left or a GPU that fails, and not a file's."""
    kinds = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


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
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises half a dozen types for a damaged file
        if is_machines(error):
            raise
        raise ValueError(f"{file}: damaged, or not a checkpoint ({brief(error)})") from None


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


class Claim:
    """Holds `folder`, made if it is not there, for this process until `close`, or until the process ends.

    Raises ValueError if another process holds it, or if it cannot be written.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot be written ({error.strerror}); name another folder with --out"
            ) from None
        try:
            try:
                lock(self.lock)
            except OSError:
                time.sleep(0.05)  # who asks whether it is `held` holds it for a moment
                lock(self.lock)
        except OSError:
            self.close()
            raise ValueError(f"{folder}: another process works on this run; wait for it or stop it") from None

    def close(self) -> None:
        os.close(self.lock)
