"""Files that are there whole or not at all, and a folder that one process at a time works in."""

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNLOCKABLE = "its file system has no locks, which keep a second process out"


@contextmanager
def whole(file: Path):
    """A stream to write `file` with. After the block the file is complete on the disk.

    If anything is raised it is as it was before. An OSError names it.
    """
    part = file.with_name(file.name + ".part")
    try:
        with naming(file):
            with open(part, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there whole, or as before. An OSError names it."""
    with whole(file) as stream:
        stream.write(content)


def lock(descriptor: int, wait: bool = False) -> None:
    """Hold an open file for this process alone until it is closed, or until the process ends.

    Raises BlockingIOError if another holds it and is not waited for, and another OSError where the file
    system has no locks. Windows has no such lock: nothing is held there.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def held(descriptor: int) -> bool:
    """Whether another holds an open file by `lock`; to be closed afterwards, so that nothing is held."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)  # any other: a file system without locks
    return False


@contextmanager
def naming(file: Path | str):
    """Let an OSError say which file it is about: a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


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
            except BlockingIOError:
                time.sleep(0.05)  # who asks whether it is `held` holds it for a moment
                lock(self.lock)
        except OSError as error:
            self.close()
            reason = "another process works on this run; wait for it or stop it"
            if not isinstance(error, BlockingIOError):
                reason = f"{UNLOCKABLE} ({error.strerror}); name another folder with --out"
            raise ValueError(f"{folder}: {reason}") from None

    def close(self) -> None:
        os.close(self.lock)
