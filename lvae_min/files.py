"""Files that are there whole or not at all, and a folder that one process at a time works in."""

import fcntl
import io
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


def one_line(error: BaseException) -> str:
    """An error's message in one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def brief(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def write_whole(file: Path, content: bytes) -> None:
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


def load_checkpoint(file: Path) -> dict:
    """What `save` wrote, on the CPU; nothing but tensors is unpickled. Raises ValueError if it is damaged."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:          # torch raises half a dozen types for a damaged file
        raise ValueError(f"{file}: damaged, or not a checkpoint ({brief(error)}); "
                         "remove the file to start again without it") from None


class Claim:
    """Holds `folder`, made if it is not there, for this process until `close`, or until the process ends.

    Raises ValueError if another process holds it, or if it cannot be written.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ValueError(f"{folder}: cannot be written ({error.strerror}); "
                             "name another folder with --out") from None
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise ValueError(f"{folder}: another process works on this run; wait for it or stop it") from None

    def close(self) -> None:
        os.close(self.lock)
