"""What no input may do, in one place, and the bytes that hostile inputs are made of."""

import functools
import io
import os
import resource
import struct
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

MORE = int(os.environ.get("LVAE_FUZZ", 1))  # a long search makes so many times the cases
ROOM = 2**30  # bytes that a case may add to the process
PLANNED, RAN = Counter(), Counter()  # cases of each test

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {  # event: how many of its arguments are paths
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"), 2),
    **dict.fromkeys(("os.utime", "shutil.rmtree"), 1),
}
RUNS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile"} | {
    "socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class"
}  # fmt: skip


class Watch:
    """Sees what Python does to files outside of `folder`, and each thing that is started or unpickled."""

    folder, seen = None, []

    @classmethod
    def hook(cls, event, arguments):
        if cls.folder is None:
            return
        if event in RUNS:
            cls.seen.append((event, arguments))
        elif event == "open":
            cls.check(event, arguments[:1] if arguments[2] & WRITES else ())
        elif event in CHANGES:
            at = arguments[-1] if isinstance(arguments[-1], int) and arguments[-1] > 2 else None  # dir_fd
            cls.check(event, arguments[: CHANGES[event]], at if event in ("os.remove", "os.rmdir") else None)

    @classmethod
    def check(cls, event, paths, at=None):
        for path in paths:
            if isinstance(path, int) or str(path).endswith(".pyc"):  # open already; Python's own cache
                continue
            place = Path(os.readlink(f"/proc/self/fd/{at}") if at else "", os.fsdecode(path))
            place = place.parent.resolve() / place.name if event != "open" else place.resolve()
            if not place.is_relative_to(cls.folder):
                cls.seen.append((event, place))


sys.addaudithook(Watch.hook)


@contextmanager
def watched(folder):
    """Within, `folder` alone is changed, nothing is started or unpickled, and at most ROOM is allocated."""
    limit = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    Watch.folder, Watch.seen = Path(folder).resolve(), []
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
        Watch.folder = None
    assert not Watch.seen


def check_line(message, *names):
    """One printable line that names the input, not memory: a false size is found before that."""
    assert message and message.isprintable() and len(message) < 3000, message
    assert any(str(name) in message for name in names), (message, names)
    assert "MemoryError" not in message and "allocate" not in message, message


def outcome(folder, call, *names):
    """What `call` gives, or the line in which it refuses; `folder` is as it was before then.

    Everything but a refusal is a bug: a MemoryError, say, or a change outside of `folder`.
    """
    before, value, message = contents(folder), None, None
    with watched(folder):
        try:
            value = call()
        except FloatingPointError as error:  # weights that are no numbers: the run continued until then
            before, message = contents(folder), str(error)
        except (ValueError, OSError) as error:
            message = str(error)
    if message is not None:
        check_line(message, *names)
        assert before == contents(folder), message
    return value, message


def contents(folder):
    return {
        file: os.readlink(file) if file.is_symlink() else file.read_bytes()
        for file in Path(folder).rglob("*")
        if file.name != "lock" and file.suffix != ".lock" and (file.is_symlink() or file.is_file())
    }


@contextmanager
def place():
    """A folder for one case."""
    with tempfile.TemporaryDirectory(prefix="hostile") as folder:
        yield Path(folder).resolve()


def fuzz(cases):
    """Makes a test of that many cases, each from a generator of its own, always the same ones."""

    def decorate(test):
        @functools.wraps(test)
        def counted(*args, **arguments):
            RAN[test.__name__] += 1
            test(*args, **arguments)

        PLANNED[test.__name__] = cases
        return settings(
            max_examples=cases * MORE,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],  # a smaller seed is no simpler case
            suppress_health_check=list(HealthCheck),
        )(given(random=st.randoms(use_true_random=True))(counted))

    return decorate


# Values and bytes

NASTY = [None, True, -1, 0, 7, 0.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400]
NASTY += [
    -(10**30),
    "",
    "x\ny",
    "\x1b[31mred",
    "9" * 5000,
    "../../x",
    "\0",
    "\udcff",
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
]


def changed(random, document, values):
    """A document of dicts, with one thing in it taken out or put in the place of another."""
    key = random.choice(list(document))
    if isinstance(document[key], dict) and document[key] and random.random() < 0.7:
        return {**document, key: changed(random, document[key], values)}
    if random.random() < 0.2:
        return {name: value for name, value in document.items() if name != key}
    return {**document, key: random.choice(values)}


def mutated(random, content):
    """Bytes that are cut, or that differ in a few places, most of them near an end."""
    content = bytearray(content)
    for _ in range(random.randint(1, 4)):
        near = random.randint(0, min(len(content), 600))
        at = random.choice([near, len(content) - near, random.randint(0, len(content))])
        size = random.choice([1, 1, 1, 2, 4, 8])
        kind = random.choice(["flip", "flip", "flip", "put", "cut out", "end"])
        if kind == "flip" and at < len(content):
            content[at] ^= random.randint(1, 255)
        elif kind == "put":
            content[at : at + size] = random.choice([b"\0", b"\xff", b"9", b"-", b"\n"]) * size
        elif kind == "cut out":
            del content[at : at + size]
        elif kind == "end":
            del content[at:]
    return bytes(content)


def npy(descr="'|u1'", shape="(4, 16, 16)", payload=bytes(1024), fortran="False", version=1):
    """An .npy with an arbitrary header."""
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode("latin-1")
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + payload


DESCRS = ["'|u1'", "'|u1'", "'<f4'", "'>f8'", "'<f2'", "'|b1'", "'|O'", "'<U3'", "'|S0'", "'<M8[s]'", "'|V0'"]
DESCRS += ["[('a', '|u1')]", "('|u1', (999999999,))", "('|u1', (0,))", "()", "[]", "None", "'<f16'", "'<c8'"]
DESCRS += ["'a5'", "-" * 9000 + "1", "(" * 150 + ")" * 150, "'\\d'", "{}", "'<i8,<i8'", "1if 1else 2"]
DESCRS += ["'|V999999999'", "'|u1'\0", "'|u1"]
SHAPES = ["(4, 16, 16)", "(4, 16, 16)", "(4, 8, 8, 3)", "(4, 16, 16, 1)", "(99999999999, 64, 64)"]
SHAPES += [
    "(-4, 16, 16)",
    "(4, -16, 16)",
    "(4, 99999999, 99999999)",
    f"(4, {2**70}, 4)",
    "(4L, 16, 16)",
    "()",
    "(0, 16, 16)",
]
SHAPES += ["(4, 0, 16, 3)", "4", "(True, 16, 16)", "None", "(4, 4, 4, 5)", "(1e3, 2, 2)", "(4, 1)", "(4, 2)"]
SHAPES += ["(999999999999, 1)", "(4, 99999999999)", "(2,)", "(4, 3, 8, 8)", "(4, 0)", "(1, 30000, 30000)"]
PAYLOADS = [bytes(1024), b"", bytes(64), bytes(range(256)) * 4, b"\x7f\xa0" * 512, b"\xff" * 4096]


def array(random):
    """An .npy of anything."""
    fortran = random.choice(["False", "False", "False", "True", "1", "None"])
    return npy(*map(random.choice, (DESCRS, SHAPES, PAYLOADS)), fortran, random.choice([1, 1, 1, 2, 3, 9]))


def zipped(members, method=zipfile.ZIP_STORED):
    """A zip of (name, content) pairs."""
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", method) as archive:
        warnings.simplefilter("ignore")  # two of one name
        for name, member in members:
            archive.writestr(zipfile.ZipInfo(name), member, method)
    return content.getvalue()


FIELDS = {b"PK\3\4": {6: "H", 8: "H", 14: "I", 18: "I", 22: "I", 26: "H", 28: "H"}}  # of a member
FIELDS[b"PK\1\2"] = {8: "H", 10: "H", 16: "I", 20: "I", 24: "I", 28: "H", 30: "H", 42: "I"}  # of the list


def lying(random, content):
    """A zip of which one field is another: flags, method, crc, a size, a length or the place of a member."""
    mark = random.choice(list(FIELDS))
    offset, kind = random.choice(list(FIELDS[mark].items()))
    places = [at for at in range(len(content)) if content.startswith(mark, at)]
    content = bytearray(content)
    if places:
        value = random.choice([0, 1, 8, 9, 12, 14, 93, 99, 2**11, 0x7FFF, 0xFFFF, 2**31, 2**32 - 1])
        value &= 0xFFFF if kind == "H" else -1
        struct.pack_into("<" + kind, content, random.choice(places) + offset, value)
    return bytes(content)


def spoilt(random, content):
    """A zip that is whole, lies, or has other bytes."""
    return random.choice([lambda _, content: content, lying, mutated])(random, content)


METHODS = [zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED] * 2 + [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
MEMBERS = [
    "images.npy",
    "images.npy",
    "images",
    "other.npy",
    "factors.npy",
    "factor_names.npy",
    "x/",
    "é.npy",
]
MEMBERS += ["../../x.npy", "/etc/x.npy", "a\nb.npy", "\x1b[31m.npy"]


def archive(random, name, whole, members=MEMBERS):
    """A zip that begins with `name`, whole or damaged, with anything behind it."""
    parts = [(name, random.choice([whole, whole, whole, array(random)]))]
    parts += [(random.choice(members), array(random)) for _ in range(random.randint(0, 2))]
    return spoilt(random, zipped(parts, random.choice(METHODS)))
