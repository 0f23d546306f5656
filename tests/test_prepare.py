"""Each archive in small, in the layout of the published one, read by the code for the published one."""

import dataclasses
import errno
import hashlib
import http.client
import http.server
import io
import signal
import struct
import subprocess
import sys
import threading
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lvae_min import data
from lvae_min.datasets import dsprites, prepare, specs
from lvae_min.datasets import prepared as images

SIZES = {
    "mpi3d": (2, 2, 1, 2, 2, 5, 4),
    "falcor3d": (2, 3, 1, 2, 2, 2, 2),
    "isaac3d": (3, 2, 1, 2, 2, 1, 2, 2, 2),
}
PEOPLE = 200


def picture(pixels, kind):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return content.getvalue()


def smooth(random, height, width):
    """A picture without fine detail, so that a JPEG is close to it."""
    small = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.BICUBIC))


@pytest.fixture
def small_specs(monkeypatch):
    """The specs with small sizes; 30 images of a CelebA of 200."""
    for name, sizes in SIZES.items():
        names = specs.SPECS[name].factors
        monkeypatch.setitem(
            specs.SPECS,
            name,
            dataclasses.replace(specs.SPECS[name], factors=dict(zip(names, sizes, strict=True))),
        )
    monkeypatch.setitem(specs.SPECS, "celeba", dataclasses.replace(specs.SPECS["celeba"], images=30))
    monkeypatch.setattr(prepare, "CELEBA_IMAGES", PEOPLE)
    return specs.SPECS


class Published:
    """An archive made for a test: `file`, the pictures that went in, and, for CelebA, the attributes."""

    def __init__(self, name, folder):
        random = np.random.default_rng(0)
        self.name, self.members = name, {}
        self.file = folder / prepare.ARCHIVES[name].file
        if name == "mpi3d":
            self.pictures = random.integers(0, 256, (specs.SPECS[name].count, 64, 64, 3), np.uint8)
            np.savez(self.file, images=self.pictures)
        elif name == "celeba":
            self.pictures = [smooth(random, 218, 178) for _ in range(PEOPLE)]
            self.members = {
                f"img_align_celeba/{number:06d}.jpg": picture(pixels, "JPEG")
                for number, pixels in enumerate(self.pictures, 1)
            }
            self.attributes = random.integers(0, 2, (PEOPLE, 40))
            lines = [str(PEOPLE), " ".join(specs.ATTRIBUTES) + " "]
            lines += [
                f"{number:06d}.jpg " + " ".join(f"{2 * value - 1:2d}" for value in row)
                for number, row in enumerate(self.attributes, 1)
            ]
            (folder / prepare.ATTRIBUTE_FILE).write_text("\n".join(lines) + "\n")
            self.zip()
        else:
            root, labels = {
                "falcor3d": ("Falcor3D_down128", "train-rec.labels"),
                "isaac3d": ("Isaac3D_down128", "labels.npy"),
            }[name]
            sizes, content = SIZES[name], io.BytesIO()
            grid = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), 1)
            np.save(content, grid / np.maximum(np.array(sizes) - 1, 1))
            self.labels = f"{root}/{labels}"
            self.pictures = random.integers(0, 256, (len(grid), 128, 128, 3), np.uint8)
            self.members = {self.labels: content.getvalue()} | {
                f"{root}/images/{number:06d}.png": picture(pixels, "PNG")
                for number, pixels in enumerate(self.pictures)
            }
            self.zip()

    def zip(self):
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, content in self.members.items():
                archive.writestr(name, content)

    def expected(self, dataset):
        """The pictures (M, H, W, C) that the prepared set is to hold."""
        if self.name == "mpi3d":
            return self.pictures
        if self.name == "celeba":
            chosen = [self.pictures[number] for number in prepare.celeba_subset(len(dataset))]
            return np.stack(
                [
                    np.asarray(
                        Image.fromarray(pixels).crop((15, 35, 163, 183)).resize((128, 128), Image.BILINEAR)
                    )
                    for pixels in chosen
                ]
            )
        blocks = self.pictures.reshape(-1, 64, 2, 64, 2, 3).astype(int)
        return (blocks.sum((2, 4)) + 2) // 4


@pytest.fixture
def published(small_specs, tmp_path):
    (tmp_path / "archives").mkdir()
    return lambda name: Published(name, tmp_path / "archives")


def command(name, file, folder, capsys):
    """Exit code and the output of `prepare name --from file`."""
    code = prepare.command(["prepare", name, "--from", str(file), "--data", str(folder)])
    return code, capsys.readouterr()


@pytest.mark.parametrize("name", ["mpi3d", "falcor3d", "isaac3d", "celeba"])
def test_a_prepared_set_holds_the_pictures_of_its_archive(published, tmp_path, capsys, name):
    archive = published(name)
    code, output = command(name, archive.file, tmp_path / "data", capsys)
    assert code == 0 and f"{name}: {specs.SPECS[name].count} images in" in output.out
    dataset = data.load(name, tmp_path / "data")
    assert isinstance(dataset.store.images, np.memmap) and dataset.source == str(archive.file)
    labels = None if dataset.labels is None else zlib.crc32(dataset.labels)
    assert dataset.name == name
    assert dataset.content == {"pixels": zlib.crc32(dataset.store.images), "labels": labels}
    index = torch.arange(len(dataset)).flip(0)
    batch = dataset.batch(index)
    assert batch.dtype == torch.uint8 and batch.shape[1:] == dataset.shape == specs.SPECS[name].shape
    difference = np.abs(batch.flip(0).permute(0, 2, 3, 1).numpy().astype(int) - archive.expected(dataset))
    if name == "celeba":  # between them are JPEG and two ways to round
        assert difference.mean() < 2
    else:
        assert difference.max() <= (name != "mpi3d")


def test_factors_of_celeba_are_its_attributes(published, tmp_path, capsys):
    archive = published("celeba")
    command("celeba", archive.file, tmp_path, capsys)
    dataset = data.load("celeba", tmp_path)
    chosen = prepare.celeba_subset(30)
    assert dataset.factors([3, 0]).tolist() == archive.attributes[chosen[[3, 0]]].tolist()
    assert dataset.factor_names[20] == "Male" and dataset.factor_sizes == (2,) * 40 and dataset.latents == 10


def test_a_set_that_is_there_is_reported_and_asks_for_no_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(specs.SPECS, "mpi3d", specs.Spec((3, 64, 64), {"a": 4}))
    images.write_set(tmp_path / "mpi3d", (4, 64, 64, 3), [np.zeros((4, 64, 64, 3), np.uint8)], {})
    assert prepare.command(["prepare", "mpi3d", "--data", str(tmp_path)]) == 0
    assert "mpi3d: prepared before; --from FILE does it again" in capsys.readouterr().out


def test_the_subset_of_celeba_is_always_the_same():
    chosen = prepare.celeba_subset(28_602)
    assert len(np.unique(chosen)) == 28_602 and chosen[:4].tolist() == [2, 18, 36, 41]
    assert chosen.max() < 202_599 and abs(chosen.mean() / 202_599 - 0.5) < 0.01


def test_the_published_sizes_are_those_of_the_papers():
    assert {name: spec.count for name, spec in specs.SPECS.items()} == {
        "dsprites": 737_280,
        "mpi3d": 460_800,
        "falcor3d": 233_280,
        "isaac3d": 737_280,
        "celeba": 28_602,
        "arm3d": 460_800,
    }
    strides = np.cumprod([1, *list(specs.SPECS["isaac3d"].factors.values())[:0:-1]])[::-1]
    assert strides.tolist() == [245760, 30720, 6144, 1536, 384, 96, 16, 4, 1]


def test_an_unpacked_folder_is_as_good_as_the_zip(published, tmp_path, capsys):
    archive = published("falcor3d")
    with zipfile.ZipFile(archive.file) as whole:
        whole.extractall(tmp_path / "unpacked")
    for name, source in (("one", archive.file), ("two", tmp_path / "unpacked")):
        assert command("falcor3d", source, tmp_path / name, capsys)[0] == 0
    files = [(tmp_path / name / "falcor3d" / "images.npy").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def truncate(archive):
    archive.file.write_bytes(archive.file.read_bytes()[: -archive.file.stat().st_size // 2])


def flip_a_byte(archive):
    with zipfile.ZipFile(archive.file) as whole:
        offset = whole.infolist()[-1].header_offset + 300
    content = bytearray(archive.file.read_bytes())
    content[offset] ^= 255
    archive.file.write_bytes(content)


def change(archive, **members):
    """Put `members` in, by the last part of the name; None takes one out."""
    for name, content in members.items():
        whole = next(member for member in archive.members if member.endswith(name.replace("__", ".")))
        archive.members.pop(whole)
        if content is not None:
            archive.members[whole] = content
    archive.zip()


def add_climber(archive):
    archive.members["../../evil.png"] = b"evil"
    archive.zip()


def save_images(images, **others):
    return lambda archive: np.savez(archive.file, images=images, **others)


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def rewrite_attributes(old, new):
    def damage(archive):
        file = archive.file.parent / prepare.ATTRIBUTE_FILE
        file.write_text(file.read_text().replace(old, new, 1))

    return damage


def numbered(name, last):
    return f"{last:06d}__{'jpg' if name == 'celeba' else 'png'}"


def repack(method, **others):
    def damage(archive):
        with zipfile.ZipFile(archive.file, "w", method) as whole:
            for name, content in (archive.members | others).items():
                whole.writestr(name, content)

    return damage


def claim(size):
    """The first picture's size in the directory of the zip."""

    def damage(archive):
        content = bytearray(archive.file.read_bytes())
        at = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
        struct.pack_into("<I", content, at + 24, size)
        archive.file.write_bytes(content)

    return damage


DAMAGES = {
    "packed by lzma": ("isaac3d", repack(zipfile.ZIP_LZMA), "is packed by method 14"),
    "a picture that claims 4 GB": ("isaac3d", claim(2**32 - 2), "000000.png: claims 4,294,967,294 bytes"),
    "labels of infinity": (
        "falcor3d",
        lambda a: change(a, labels=npy(np.full((96, 7), np.inf))),
        "labels are not all finite",
    ),
    "truncated": ("mpi3d", truncate, "not a zip file"),
    "truncated pictures": ("falcor3d", truncate, "not a zip file"),
    "a page instead of the file": (
        "mpi3d",
        lambda a: a.file.write_bytes(b"<html>Quota exceeded</html>"),
        "not a zip file",
    ),
    "flipped byte": ("mpi3d", flip_a_byte, "CRC"),
    "wrong count": (
        "mpi3d",
        save_images(np.zeros((319, 64, 64, 3), np.uint8)),
        "expected uint8 (320, 64, 64, 3)",
    ),
    "another variant": (
        "mpi3d",
        save_images(np.zeros((1280, 64, 64, 3), np.uint8)),
        "'images' is uint8 (1280, 64",
    ),
    "wrong dtype": ("mpi3d", save_images(np.zeros((320, 64, 64, 3), np.int16)), "'images' is int16"),
    "pickle": (
        "mpi3d",
        save_images(np.array([{"evil": 1}] * 3, dtype=object)),
        "pickled objects, which are never read",
    ),
    "no images": ("mpi3d", lambda a: np.savez(a.file, pictures=np.zeros(3)), "images.npy"),
    "0 images": (
        "mpi3d",
        save_images(np.zeros((0, 64, 64, 3), np.uint8)),
        "'images' is uint8 (0, 64, 64, 3)",
    ),
    "no label file": ("falcor3d", lambda a: change(a, labels=None), "holds no train-rec.labels"),
    "no label file, isaac": ("isaac3d", lambda a: change(a, labels__npy=None), "holds no labels.npy"),
    "labels cut short": (
        "falcor3d",
        lambda a: change(a, labels=npy(np.zeros((9, 7)))),
        "labels are float64 (9, 7)",
    ),
    "pickled labels": (
        "falcor3d",
        lambda a: change(a, labels=npy(np.array([[{}]], object))),
        "pickled objects",
    ),
    "labels of another order": (
        "falcor3d",
        lambda a: change(a, labels=npy(np.zeros((96, 7)))),
        "no column has 2 values",
    ),
    "picture missing": ("falcor3d", lambda a: change(a, **{"000017__png": None}), "holds no 000017.png"),
    "no picture": (
        "falcor3d",
        lambda a: change(a, **{"000017__png": b"no picture"}),
        "000017.png: not an image",
    ),
    "picture cut short": (
        "isaac3d",
        lambda a: change(a, **{"000090__png": picture(a.pictures[0], "PNG")[:9000]}),
        "000090.png: damaged",
    ),
    "picture too large": (
        "isaac3d",
        lambda a: change(a, **{"000090__png": picture(np.zeros((512, 512, 3), np.uint8), "PNG")}),
        "000090.png: is 512 x 512, expected 128 x 128",
    ),
    "climbs out": ("isaac3d", add_climber, "holds a file named '../../evil.png', which lies outside it"),
    "person missing": (
        "celeba",
        lambda a: change(a, **{"000001__jpg": None}),
        "holds 199 images, expected 200",
    ),
    "not aligned": (
        "celeba",
        lambda a: (
            a.members.update(
                {name: picture(np.zeros((200, 178, 3), np.uint8), "JPEG") for name in a.members}
            ),
            a.zip(),
        ),
        "is 178 x 200, expected 178 x 218",
    ),
    "no attributes": (
        "celeba",
        lambda a: (a.file.parent / prepare.ATTRIBUTE_FILE).unlink(),
        "put it next to the images",
    ),
    "other attributes": (
        "celeba",
        rewrite_attributes("Eyeglasses", "Monocle"),
        "line 2 has not the 40 names",
    ),
    "attribute of 0": (
        "celeba",
        rewrite_attributes("000007.jpg  1", "000007.jpg  0"),
        "line 9 is not 000007.jpg",
    ),
    "one person less": (
        "celeba",
        rewrite_attributes("000200.jpg", "000201.jpg"),
        "line 202 is not 000200.jpg",
    ),
    "attributes in latin-1": (
        "celeba",
        lambda a: (a.file.parent / prepare.ATTRIBUTE_FILE).write_bytes(b"\xff"),
        "ascii",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_reported_in_one_line_and_nothing_is_kept(published, tmp_path, capsys, damage):
    name, do, message = DAMAGES[damage]
    archive = published(name)
    if damage == "attribute of 0" and archive.attributes[6, 0] == 0:
        do = rewrite_attributes("000007.jpg -1", "000007.jpg  0")
    do(archive)
    code, output = command(name, archive.file, tmp_path / "data", capsys)
    error = [line for line in output.err.splitlines() if "md5" not in line]
    assert code == 2 and len(error) == 1 and message in error[0] and str(tmp_path) in error[0]
    kept = (tmp_path / "data").iterdir() if (tmp_path / "data").exists() else ()
    assert {path.suffix for path in kept} <= {".lock"}
    assert not list(tmp_path.rglob("evil*")) and not (tmp_path.parent / "evil.png").exists()
    with pytest.raises(ValueError, match="not there; make it of the published archive"):
        data.load(name, tmp_path / "data")


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(
    published, tmp_path, capsys, monkeypatch
):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(images.shutil, "disk_usage", lambda _: usage)
    code, output = command("mpi3d", published("mpi3d").file, tmp_path / "data", capsys)
    assert code == 2 and "needs 0.0 GB, and the disk has 0.0 GB" in output.err


def test_a_folder_that_cannot_be_written_is_named_and_not_the_archive(
    published, tmp_path, capsys, monkeypatch
):
    archive = published("mpi3d").file
    (tmp_path / "file").touch()
    code, output = command("mpi3d", archive, tmp_path / "file" / "data", capsys)
    assert code == 2 and f"{tmp_path / 'file'}" in output.err and "nothing was prepared" in output.err
    assert "damaged" not in output.err

    def full(part, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "data/mpi3d"))

    monkeypatch.setattr(images, "fill", full)
    code, output = command("mpi3d", archive, tmp_path / "data", capsys)
    assert code == 2 and "damaged" not in output.err
    assert f"{tmp_path / 'data/mpi3d'}: No space left on device; nothing was prepared" in output.err


@pytest.mark.parametrize(
    "error, reason",
    [(OSError(errno.EIO, "Input/output error"), "Input/output error"), (MemoryError(), "not enough memory")],
)
def test_an_archive_that_the_system_does_not_let_be_read_is_not_called_damaged(
    published, tmp_path, capsys, monkeypatch, error, reason
):
    def fail(*_):
        raise error

    archive = published("mpi3d").file
    monkeypatch.setitem(prepare.READERS, "mpi3d", fail)
    code, output = command("mpi3d", archive, tmp_path / "data", capsys)
    assert code == 2 and "damaged" not in output.err and f"{archive}: {reason}" in output.err


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_a_set_that_the_system_does_not_let_be_read_is_not_called_damaged(
    published, tmp_path, capsys, monkeypatch, error
):
    prepare.prepare("mpi3d", published("mpi3d").file, tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(images.npy, "read_header", fail)
    with pytest.raises(type(error)) as raised:
        images.open_set(tmp_path / "mpi3d")
    assert raised.value is error
    archive = tmp_path / dsprites.ARCHIVE
    np.savez(archive, imgs=np.zeros((2, 64, 64), np.uint8))
    with pytest.raises(type(error)) as raised:
        dsprites.read(archive)
    assert raised.value is error


def test_a_folder_with_the_name_of_dsprites_is_no_prepared_set(tmp_path, capsys, monkeypatch):
    (tmp_path / "dsprites").mkdir()  # a clone of its repository, for example
    (tmp_path / dsprites.ARCHIVE).touch()
    monkeypatch.setattr(prepare.dsprites, "read", lambda _: None)
    prepare.main(["prepare", "dsprites", "--data", str(tmp_path)])
    assert capsys.readouterr().out.endswith("whole; used as it is\n")


@pytest.mark.parametrize(
    "name, words",
    [
        ("mpi3d", ("drive.google.com", "CC BY 4.0", "5.7 GB")),
        ("celeba", ("mmlab.ie.cuhk.edu.hk", "non-commercial", "1.4 GB", "list_attr_celeba.txt")),
    ],
)
def test_without_an_archive_it_says_where_to_get_it(tmp_path, capsys, name, words):
    assert prepare.command(["prepare", name, "--data", str(tmp_path)]) == 2
    output = capsys.readouterr().err
    assert all(word in output for word in (*words, "--from FILE", str(tmp_path))) and output.count("\n") == 1


@pytest.mark.parametrize("damage", ["short", "other shape", "no about"])
def test_a_damaged_prepared_set_is_refused(published, tmp_path, capsys, damage):
    command("mpi3d", published("mpi3d").file, tmp_path, capsys)
    file = tmp_path / "mpi3d" / "images.npy"
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "other shape":
        np.save(file, np.zeros((3, 64, 64, 3), np.uint8))
    else:
        (tmp_path / "mpi3d" / "about.json").unlink()
    with pytest.raises(ValueError, match="remove it and prepare it again"):
        data.load("mpi3d", tmp_path)


@pytest.mark.parametrize(
    "name, columns, expected", [("mpi3d", 2, "no"), ("celeba", 39, "40"), ("celeba", 0, "40")]
)
def test_labels_of_another_form_than_the_data_set_has_are_refused(
    published, tmp_path, capsys, name, columns, expected
):
    command(name, published(name).file, tmp_path, capsys)
    file = tmp_path / name / "factors.npy"
    file.unlink(missing_ok=True)
    if columns:
        np.save(file, np.zeros((specs.SPECS[name].count, columns), np.int64))
    with pytest.raises(ValueError, match=f"factors.npy is not of {expected} factors; remove it and prepare"):
        data.load(name, tmp_path)


def test_a_set_that_an_older_version_prepared_has_no_source_and_no_content(published, tmp_path, capsys):
    command("mpi3d", published("mpi3d").file, tmp_path, capsys)
    (tmp_path / "mpi3d" / "about.json").write_text("{}")
    dataset = data.load("mpi3d", tmp_path)
    assert dataset.source == "" and dataset.content == {"pixels": None, "labels": None}


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)      # a shell's background jobs ignore it
import numpy as np
from pathlib import Path
from lvae_min.datasets import prepared as images
def chunks():
    for number in range(1000):
        yield np.full((1, 64, 64, 3), number % 250, np.uint8)
        print(number, flush=True)
        time.sleep(0.01)
with images.locked(Path(sys.argv[1])):
    images.write_set(Path(sys.argv[1]), (1000, 64, 64, 3), chunks(), {})
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_preparation_leaves_nothing_that_is_used_and_can_be_repeated(
    published, tmp_path, capsys, kill
):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "mpi3d")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parent.parent,
    )
    for _ in range(20):
        process.stdout.readline()
    with pytest.raises(ValueError, match="another process prepares it"):
        prepare.prepare("mpi3d", published("mpi3d").file, tmp_path)
    process.send_signal(kill)
    process.communicate()
    assert process.returncode != 0 and not (tmp_path / "mpi3d").exists()
    with pytest.raises(ValueError, match="not there"):
        data.load("mpi3d", tmp_path)
    code, _ = command(
        "mpi3d", tmp_path / "archives" / "real3d_complicated_shapes_ordered.npz", tmp_path, capsys
    )
    assert code == 0 and len(data.load("mpi3d", tmp_path)) == 320 and not (tmp_path / "mpi3d.part").exists()


def test_preparing_needs_little_memory(tmp_path):
    """200 MB of images pass through; the process grows by less than 60 MB."""
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from lvae_min.datasets import prepared as images
chunk = np.zeros((256, 64, 64, 3), np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images.write_set(Path(sys.argv[1]), (16384, 64, 64, 3), (chunk for _ in range(64)), {})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert int(done.stdout) < 60_000


class Server(http.server.BaseHTTPRequestHandler):
    content, starts = b"", []

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.starts.append(start)
        if start >= len(self.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(monkeypatch):
    """An archive on a server of this machine, and where the downloads of it began."""
    content = np.random.default_rng(0).bytes(3_000_000)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    monkeypatch.setattr(Server, "content", content)
    monkeypatch.setattr(Server, "starts", [])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/archive.npz"
    yield prepare.Archive("archive.npz", "", "", "", url, hashlib.md5(content).hexdigest()), content
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("there", [0, 1_000_000, 3_000_000])
def test_a_download_resumes_where_it_was_stopped(served, tmp_path, there):
    archive, content = served
    (tmp_path / "archive.npz.part").write_bytes(content[:there])
    assert prepare.download(archive, tmp_path).read_bytes() == content
    assert Server.starts == [there] and [file.name for file in tmp_path.iterdir()] == ["archive.npz"]


def test_a_download_with_another_hash_is_removed(served, tmp_path):
    archive, content = served
    (tmp_path / "archive.npz.part").write_bytes(b"x" + content[1:1000])
    with pytest.raises(ValueError, match=f"md5 .*, expected {archive.md5}; the file was removed"):
        prepare.download(archive, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [http.client.InvalidURL("nonnumeric port: 'abc'"), http.client.BadStatusLine("?")]
)
def test_a_proxy_that_speaks_no_http_is_reported_in_one_line(tmp_path, monkeypatch, wrong):
    def answer(*_, **__):
        raise wrong

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    archive = prepare.Archive("archive.npz", "", "", "", "http://127.0.0.1:9/archive.npz", "0")
    with pytest.raises(ValueError, match="archive.npz: .*the same command continues the download"):
        prepare.download(archive, tmp_path)


def test_a_server_that_cannot_be_reached_is_reported_in_one_line(tmp_path):
    archive = prepare.Archive("archive.npz", "", "", "", "http://127.0.0.1:9/archive.npz", "0")
    with pytest.raises(ValueError, match="archive.npz: .*the same command continues the download") as error:
        prepare.download(archive, tmp_path)
    assert "\n" not in str(error.value)


def test_the_command_line_prepares(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lvae_min.datasets", "prepare", "mpi3d", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("prepare: mpi3d: real3d_")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("damage", ["encrypted", "method 99", "bzip2"])
def test_a_dsprites_archive_that_cannot_be_unpacked_is_reported_in_one_line(tmp_path, damage):
    file = tmp_path / dsprites.ARCHIVE
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2 if damage == "bzip2" else 0) as archive:
        archive.writestr("imgs.npy", bytes(1000))
    content = bytearray(file.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(mark) + flags
        if damage == "encrypted":
            content[at] |= 1
        elif damage == "method 99":
            content[at + 2] = 99
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not the published dSprites archive, or damaged") as error:
        dsprites.read(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
