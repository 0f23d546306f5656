"""Images of the user's own, in every layout that is promised, and the messages about those that are not."""

import errno
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from lvae_min import data, metrics
from lvae_min.config import Config
from lvae_min.datasets import own, prepared

ROOT = Path(__file__).parent.parent


def colors(count, height=64, width=64, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def write(file, **arrays):
    if file.suffix == ".npz":
        np.savez_compressed(file, **arrays)
    elif file.suffix == ".npy":
        np.save(file, arrays["images"])
    else:
        with h5py.File(file, "w") as archive:
            for name, array in arrays.items():
                archive[name] = array
    return file


def loaded(path, folder):
    """The data set, and all its images (M, H, W, C)."""
    dataset = data.load(str(path), folder)
    return dataset, dataset.batch(torch.arange(len(dataset))).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".npy"])
@pytest.mark.parametrize(
    "layout",
    ["NHWC", "NCHW", "NHW", "float", "0 to 255 float", "0 to 255 integers", "bool", "uint8 of 0 and 1"],
)
def test_arrays_of_every_layout_give_their_images(tmp_path, suffix, layout):
    pixels = colors(300)
    if layout in ("bool", "uint8 of 0 and 1"):
        pixels = 255 * (pixels > 127).astype(np.uint8)
    array = {
        "NHWC": pixels,
        "NCHW": pixels.transpose(0, 3, 1, 2),
        "NHW": pixels[..., 0],
        "float": (pixels / 255).astype(np.float32),
        "0 to 255 float": pixels.astype(np.float64),
        "0 to 255 integers": pixels.astype(np.int64),
        "bool": pixels > 127,
        "uint8 of 0 and 1": pixels // 255,
    }[layout]
    dataset, shown = loaded(write(tmp_path / f"mine{suffix}", images=array), tmp_path)
    assert (shown == (pixels[..., :1] if layout == "NHW" else pixels)).all()
    assert dataset.name == "mine" and dataset.factor_names == [] and dataset.latents == 10
    assert isinstance(dataset.store.images, np.memmap) and dataset.scale == 1 / 255


@pytest.mark.parametrize(
    "height, width, side", [(64, 64, 64), (128, 128, 128), (90, 70, 64), (40, 64, 64), (218, 178, 128)]
)
def test_other_sizes_are_cropped_to_the_middle_square_and_resized(tmp_path, height, width, side):
    pixels = np.zeros((3, height, width, 3), np.uint8)
    crop = min(height, width)
    top, left = (height - crop) // 2, (width - crop) // 2
    pixels[:, top : top + crop, left : left + crop] = 200  # nothing but this is to be seen
    dataset, shown = loaded(write(tmp_path / "mine.npz", images=pixels), tmp_path)
    assert shown.shape == (3, side, side, 3) and (shown == 200).all()
    assert (f"{width} x {height}" in dataset.source) == (height != side or width != side)


@pytest.mark.parametrize("suffix, kind", [(".npz", None), (".npz", "S"), (".h5", "S")])
def test_factors_make_a_scored_set_with_their_names(tmp_path, suffix, kind):
    values = np.array([[0.5, 7], [2.5, 7], [0.5, 9], [1.0, 8]])
    names = np.array(["weight", "age"], dtype=kind)
    dataset, _ = loaded(
        write(tmp_path / f"mine{suffix}", images=colors(4), factors=values, factor_names=names), tmp_path
    )
    assert dataset.factors([0, 1, 2, 3]).tolist() == values.tolist()  # numbers, not ranks
    assert (
        dataset.factor_names == ["weight", "age"] and dataset.factor_sizes == (3, 3) and dataset.latents == 2
    )


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_labels_are_a_single_factor_and_leave_the_network_ten_latents(tmp_path, suffix):
    """A class does not describe an image: a network of one latent could draw one curve of images."""
    dataset, _ = loaded(write(tmp_path / f"mine{suffix}", images=colors(4), factors=[3, 1, 1, 0]), tmp_path)
    assert dataset.factors(range(4)).tolist() == [[3], [1], [1], [0]]
    assert dataset.factor_names == ["factor 0"] and dataset.factor_sizes == (3,) and dataset.latents == 10


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_arrays_that_are_not_used_are_named(tmp_path, suffix):
    file = write(tmp_path / f"mine{suffix}", images=colors(4), target=np.arange(4), factors=np.ones((4, 1)))
    assert loaded(file, tmp_path)[0].source == f"{file}, not used: target"


def save_classes(folder, classes):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), 9 * number).save(folder / name / f"{number}.png")
    return folder


def test_factors_that_are_not_read_in_a_folder_of_images_are_named(tmp_path):
    folder = save_classes(tmp_path / "pets", ["cat", "cat", "."])
    for name in ("factors.csv", "notes.txt", "factors-0.png"):
        (folder / name).write_bytes((folder / "2.png").read_bytes())
    assert loaded(folder, tmp_path / "data")[0].source.endswith(
        ", not used: factors.csv (expected factors.npy and factor_names.npy)"
    )
    np.save(folder / "factors.npy", np.arange(4))
    np.save(folder / "factor_names.npy", np.array(["weight"]))
    assert "not used: factors.csv (" in loaded(folder, tmp_path / "data")[0].source
    (folder / "factors.csv").unlink()
    dataset = loaded(folder, tmp_path / "data")[0]
    assert dataset.source == str(folder) and dataset.factor_names == ["weight"]
    np.save(folder / "factor_names.npy", np.array(["age"]))
    assert loaded(folder, tmp_path / "data")[0].factor_names == ["age"]
    (folder / "factors.npy").rename(folder / "cat" / "factors.npy")
    assert "not used: cat/factors.npy, factor_names.npy (" in loaded(folder, tmp_path / "data")[0].source


def test_images_are_brought_to_the_shape_of_a_network(tmp_path):
    """As `encode` does: other images of the user's own are not as large as those of the run."""
    for number in range(3):
        Image.new("L", (200, 130), 50 * number).save(tmp_path / f"{number}.png")
    made = lambda: [path.name for path in (tmp_path / "data/own").glob("*[!k]")]  # noqa: E731
    for shape in (None, (1, 128, 128)):  # which the images have by themselves
        assert data.load(str(tmp_path), tmp_path / "data", shape).shape == (1, 128, 128)
        assert len(made()) == 1
    dataset = data.load(str(tmp_path), tmp_path / "data", (3, 64, 64))
    assert [name.endswith("-3x64") for name in made()].count(True) == 1 and len(made()) == 2
    assert dataset.shape == (3, 64, 64) and dataset.batch(torch.tensor([2])).unique().tolist() == [100]
    assert data.load(str(tmp_path), tmp_path / "data").shape == (1, 128, 128)
    file = write(tmp_path / "mine.npz", images=np.zeros((2, 200, 130), np.uint8))
    assert data.load(str(file), tmp_path / "data", (1, 64, 64)).shape == (1, 64, 64)
    with pytest.raises(ValueError, match="mine.npz: images of 1 channels; the network takes 3"):
        data.load(str(file), tmp_path / "data", (3, 64, 64))
    assert len(made()) == 3


def test_an_image_that_is_a_broken_link_is_reported_and_not_passed_over(tmp_path):
    folder = save_classes(tmp_path / ("of long names " * 12) / "pets", ["cat", "cat"])
    (folder / "notes.txt").symlink_to("nowhere")
    assert len(loaded(folder, tmp_path / "data")[0]) == 2
    (folder / "cat/2.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match="pets: cat/2.png: No such file or directory"):
        loaded(folder, tmp_path / "data")


def test_a_photo_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    folder = save_classes(tmp_path / "pets", ["cat", "cat"])

    def refuse(file, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(own, "open", refuse, raising=False)
        with pytest.raises(ValueError, match="pets: cat/0.png: Permission denied$"):
            loaded(folder, tmp_path / "data")
    monkeypatch.setattr(prepared.Members, "read", lambda members, name: refuse(members.path / name))
    with pytest.raises(ValueError, match="pets: cat/0.png: Permission denied$"):
        loaded(folder, tmp_path / "data")


def test_a_damaged_photo_is_named_with_the_reason_however_long_its_path_is(tmp_path):
    folder = save_classes(tmp_path / "pets", ["cat" * 60])
    (folder / ("cat" * 60) / "1.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="catcat/1.png: not an image .*; convert or remove it$"):
        loaded(folder, tmp_path / "data")


def test_a_photo_that_comes_while_the_others_are_prepared_changes_no_name(tmp_path, monkeypatch):
    folder, read = save_pictures(tmp_path / "cats"), prepared.read_images

    def late(*given):
        Image.new("L", (64, 64)).save(folder / "00.png")
        yield from read(*given)

    monkeypatch.setattr(prepared, "read_images", late)
    dataset, _ = loaded(folder, tmp_path / "data")
    assert len(dataset) == 6 == len(dataset.files) and "00.png" not in dataset.files
    dataset, _ = loaded(folder, tmp_path / "data")
    assert len(dataset) == 7 and "00.png" in dataset.files


def test_a_format_for_which_pillow_starts_a_program_is_no_image(tmp_path):
    (tmp_path / "cats/more").mkdir(parents=True)
    file = tmp_path / "cats/more/a.png"
    Image.new("RGB", (70, 70)).save(file, format="EPS")
    with pytest.raises(
        ValueError, match="more/a.png: not an image .PNG, JPEG, .* or WEBP., or damaged; convert"
    ):
        data.load(str(tmp_path / "cats"), tmp_path / "data")
    with pytest.raises(ValueError, match="not an image"):
        prepared.decode(file.read_bytes())


def test_what_programs_put_into_a_folder_of_images_is_none_of_them(tmp_path, monkeypatch):
    """Its runs and prepared sets, and the copies that file managers and notebooks keep."""
    folder = save_classes(tmp_path / "pets", ["dog", "cat"])
    before, _ = loaded(folder, folder / "data")
    for name in ("runs/one", ".ipynb_checkpoints", "cat/.thumbnails", "__MACOSX"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (64, 64)).save(folder / name / "curves.png")
    for name in ("config.json", "lock"):
        (folder / "runs/one" / name).touch()
    (folder / "cat/._1.png").write_bytes(b"what macOS keeps beside a file")
    monkeypatch.setattr(own, "prepare_folder", None)  # nothing has changed
    again, _ = loaded(folder, folder / "data")
    assert (len(again), again.content, again.factor_sizes) == (2, before.content, (2,))


def test_folders_of_images_are_a_factor_by_the_order_of_their_names(tmp_path):
    folder = save_classes(tmp_path / "pets", ["dog", "cat", "cat-large", "cat"])
    dataset, shown = loaded(folder, tmp_path / "data")
    assert shown[:, 0, 0, 0].tolist() == [9, 27, 18, 0]
    assert dataset.factors(range(4)).tolist() == [[0], [0], [1], [2]] and dataset.factor_names == ["folder"]
    assert dataset.by_folder
    np.save(folder / "factors.npy", np.arange(8).reshape(4, 2))
    other = loaded(folder, tmp_path / "data")[0]
    assert other.factor_names == ["factor 0", "factor 1"] and not other.by_folder


def test_linked_folders_are_followed_once(tmp_path):
    classes = save_classes(tmp_path / "elsewhere", ["dog", "cat"])
    folder = tmp_path / "pets"
    folder.mkdir()
    links = {"a": classes / "dog", "b": classes / "cat", "c": classes, "d": folder, "e": tmp_path, "f": "/"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    dataset, _ = loaded(folder, tmp_path / "data")
    assert list(dataset.files) == ["a/0.png", "b/1.png"]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # `prepared.quiet` does it for a user
def test_of_a_file_with_several_images_the_first_is_taken_and_that_is_said(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    first, *others = (Image.new("L", (64, 64), shade) for shade in (10, 20, 30))
    for name in ("a.tif", "b.gif"):
        first.save(folder / name, save_all=True, append_images=others)
    first.save(folder / "c.png")
    first.save(folder / "d.tif")
    content = bytearray((folder / "d.tif").read_bytes())
    (directory,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, directory)
    struct.pack_into("<I", content, directory + 2 + 12 * entries, 10**6)  # another image, beyond its end
    (folder / "d.tif").write_bytes(content)
    dataset, shown = loaded(folder, tmp_path / "data")
    assert len(dataset) == 4 and (shown == 10).all()
    assert dataset.source.endswith(", of 2 files with several images the first")


def test_a_message_about_factors_names_their_array(tmp_path):
    images = np.zeros((4, 64, 64), np.uint8)
    file = write(tmp_path / "a.npz", images=images, factors=np.arange(4), factor_names="digit")
    with pytest.raises(ValueError, match="a.npz: factor_names: is a single value, no table"):
        data.load(str(file), tmp_path)
    file = write(tmp_path / "b.npz", images=images, factors=np.array(4))
    with pytest.raises(ValueError, match="b.npz: factors: is a single value, no table"):
        data.load(str(file), tmp_path)
    folder = save_classes(tmp_path / "pets", ["dog", "cat"])
    np.save(folder / "factors.npy", 3)
    with pytest.raises(ValueError, match="pets: factors.npy: is a single value, no table"):
        data.load(str(folder), tmp_path)


def test_a_disk_that_fills_up_while_a_set_is_made_is_what_the_message_names(tmp_path, monkeypatch):
    folder = save_classes(tmp_path / "pets", ["dog", "cat"])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepared.os, "fsync", full)
    with pytest.raises(ValueError, match="data/own/.*/images.npy: No space left on device"):
        data.load(str(folder), tmp_path / "data")
    assert not list((tmp_path / "data/own").glob("*/images.npy"))


@pytest.mark.parametrize(
    "classes",
    [["one"], ["a", "b", ""], ["a/x", "b/x"], ["a", "b/x"], list("abcdefghijk")],
    ids=["one", "some in none", "deeper", "some deeper", "eleven"],
)
def test_other_folders_are_no_factor(tmp_path, classes):
    dataset, _ = loaded(save_classes(tmp_path / "pets", classes), tmp_path / "data")
    assert dataset.labels is None and dataset.factor_names == []


def save_pictures(folder, modes=("RGB",), suffixes=(".png", ".jpg"), sizes=((80, 64),)):
    (folder / "more").mkdir(parents=True)
    (folder / "notes.txt").write_text("no picture")
    for number in range(6):
        size, mode = sizes[number % len(sizes)], modes[number % len(modes)]
        name = f"{number}{suffixes[number % len(suffixes)]}"
        Image.new(mode, size, 40 * number if mode == "L" else (40 * number,) * len(mode)).save(
            folder / ("more" if number > 3 else "") / name
        )
    return folder


@pytest.mark.parametrize("modes, channels", [(("RGB",), 3), (("L",), 1), (("RGB", "L"), 3)])
def test_a_folder_gives_its_images_in_the_order_of_their_names(tmp_path, modes, channels):
    dataset, shown = loaded(save_pictures(tmp_path / "cats", modes), tmp_path / "data")
    assert dataset.name == "cats" and shown.shape == (6, 64, 64, channels)
    assert np.abs(shown.astype(int) - 40 * np.arange(6)[:, None, None, None]).max() <= 1
    assert "80 x 64 cropped to 64 x 64" in dataset.source
    assert [name[:6] for name in dataset.files] == ["0.png", "1.jpg", "2.png", "3.jpg", "more/4", "more/5"]


def test_a_folder_of_several_sizes_takes_that_of_the_smallest(tmp_path):
    dataset, shown = loaded(
        save_pictures(tmp_path / "cats", sizes=((300, 200), (100, 120))), tmp_path / "data"
    )
    assert shown.shape == (6, 64, 64, 3) and "2 sizes cropped to squares and made 64 x 64" in dataset.source


def test_factors_beside_the_images_of_a_folder_are_used(tmp_path):
    folder = save_pictures(tmp_path / "cats")
    np.save(folder / "factors.npy", np.arange(6)[:, None] // 2)
    dataset, _ = loaded(folder, tmp_path / "data")
    assert dataset.factors(range(6)).tolist() == [[0], [0], [1], [1], [2], [2]]


def test_factors_keep_their_values_for_the_scores_that_count_with_them(tmp_path):
    values = np.array([1.0, 2, 4, 50, 1000])[:, None].repeat(4, 0)
    dataset, _ = loaded(write(tmp_path / "mine.npz", images=colors(20), factors=values), tmp_path)
    kept = dataset.factors(range(20))
    assert metrics.sap(kept, values) == pytest.approx(1) and dataset.factor_sizes == (5,)


def test_a_photo_is_turned_upright_and_white_where_it_is_transparent(tmp_path):
    (tmp_path / "cats").mkdir()
    turned = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[:, None, None], 64, 1).repeat(3, 2) * 4)
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "cats" / "a.png", exif=exif)
    Image.new("RGBA", (64, 64), (90, 20, 20, 0)).save(tmp_path / "cats" / "b.png")
    _, shown = loaded(tmp_path / "cats", tmp_path / "data")
    assert shown[0, 0, 0, 0] == 252 and shown[0, 63, 0, 0] == 0 and (shown[1] == 255).all()


def test_processes_that_meet_images_that_change_all_have_them(tmp_path):
    """Each round the images are others, and four processes want them at once."""
    code = (
        "import sys; from lvae_min import data; import numpy as np\n"
        "for line in sys.stdin:\n"
        "    print(data.load(sys.argv[1], sys.argv[2]).batch(data.torch.arange(2))[0, 0, 0, 0].item(), "
        "flush=True)"
    )
    file = tmp_path / "mine.npz"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, file, tmp_path],
                    text=True,
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for _ in range(4)
        ]
        for color in range(2, 10):
            write(file, images=np.full((40 + color, 64, 64, 1), color, np.uint8))
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
            assert [process.stdout.readline() for process in processes] == [f"{color}\n"] * 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # the package ignores it, and pytest does not
def test_a_photo_whose_camera_noted_nonsense_is_taken_as_it_is(tmp_path):
    (tmp_path / "cats").mkdir()
    picture = Image.fromarray(np.full((64, 64, 3), 9, np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 77
    picture.save(tmp_path / "cats" / "a.png", exif=exif)
    picture.save(tmp_path / "cats" / "b.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff nonsense")
    _, shown = loaded(tmp_path / "cats", tmp_path / "data")
    assert (shown[0] == 9).all() and abs(shown[1].astype(int) - 9).max() <= 1


def test_arrays_that_are_not_needed_may_be_anything_and_factors_in_any_order(tmp_path):
    factors = np.stack([np.arange(4), np.arange(4) % 2]).T  # in Fortran order
    np.savez(tmp_path / "mine.npz", images=colors(4), factors=factors, notes=np.array([{}], object))
    assert loaded(tmp_path / "mine.npz", tmp_path)[0].factors(range(4)).tolist() == factors.tolist()
    with h5py.File(tmp_path / "mine.h5", "w") as stream:
        stream["images"] = colors(4)
        stream.create_dataset("factors", (4, 1), "i8")  # all 0, never written
        stream.create_dataset("notes", (10**9, 10**4), "f8", chunks=(1, 10))
    assert loaded(tmp_path / "mine.h5", tmp_path)[0].factors(range(4)).tolist() == [[0]] * 4


def test_a_mistake_names_its_file_however_short_the_name_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("e").mkdir()
    with pytest.raises(ValueError, match="^e: no images in it; expected files"):
        data.load("e/", "data")


def test_own_images_have_the_name_of_their_file_and_are_known_by_their_content(tmp_path):
    values = np.arange(8).reshape(4, 2)
    file = write(tmp_path / "mine.npz", images=colors(4), factors=values)
    dataset, _ = loaded(file, tmp_path)
    content = {"pixels": zlib.crc32(colors(4)), "labels": zlib.crc32(values)}
    assert (dataset.name, dataset.source, dataset.content) == ("mine", str(file), content)
    (about,) = (tmp_path / "own").glob("*/about.json")
    older = json.loads(about.read_text())
    del older["source"], older["content"]
    about.write_text(json.dumps(older))
    dataset = data.load_own(file, tmp_path)
    assert (dataset.source, dataset.content["pixels"]) == (str(file), None)


def test_images_are_prepared_once_and_again_when_they_change(tmp_path):
    file = write(tmp_path / "mine.npz", images=colors(4), factors=np.zeros((4, 1)))
    loaded(file, tmp_path)
    (made,) = (tmp_path / "own").glob("*/images.npy")
    stamp = made.stat().st_mtime_ns
    loaded(file, tmp_path)
    assert made.stat().st_mtime_ns == stamp
    dataset, shown = loaded(write(file, images=255 - colors(5)), tmp_path)
    assert (
        (shown == 255 - colors(5)).all()
        and dataset.labels is None
        and len(list((tmp_path / "own").glob("*/images.npy"))) == 1
    )


def pickled(file):
    np.savez(file, images=np.array([{"evil": 1}], object))


def linked(file):
    with h5py.File(file, "w") as archive:
        archive["images"] = h5py.ExternalLink("/etc/passwd", "/")


def external(file):
    with h5py.File(file, "w") as archive:
        archive.create_dataset("images", (1, 64, 64), "u1", external=[("/etc/passwd", 0, 4096)])


def cut(file):
    write(file, images=colors(40))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def huge(file):
    with h5py.File(file, "w") as archive:
        archive.create_dataset("images", (10**12, 64, 64), "u1", chunks=(1, 64, 64))


def nothing(file):
    with h5py.File(file, "w") as archive:
        archive["images"] = h5py.Empty("f4")


def timed(file):
    with h5py.File(file, "w") as archive:
        h5py.h5d.create(archive.id, b"t", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4, 16, 16)))


def packed(file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", bytes(10**6))


def header(shape):
    """An .npy that claims its shape and holds nothing."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def picture(width, height):
    """A PNG that claims its size and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header)) + bytes(99)


def folder_of(**contents):
    def make(folder):
        folder.mkdir()
        for name, content in contents.items():
            (folder / name.replace("__", ".")).write_bytes(content)

    return make


def zip_of_nothing():
    content = io.BytesIO()
    zipfile.ZipFile(content, "w").close()
    return content.getvalue()


def grey():
    content = io.BytesIO()
    Image.new("L", (64, 64)).save(content, "PNG")
    return content.getvalue()


DAMAGES = {
    "huge h5": ("mine.h5", huge, "is uint8 (1000000000000, 64, 64), and has 0 bytes of that"),
    "null h5": ("mine.h5", nothing, "expected one array of images"),
    "time h5": ("mine.h5", timed, "mine.h5: "),
    "bzip2": ("mine.npz", packed, "images.npy: is packed by method 12"),
    "1,001 factors": (
        "mine.h5",
        lambda file: write(file, images=colors(2), factors=np.zeros((2, 1001))),
        "expected at most 1000 factors",
    ),
    "a name of two lines": (
        "mine.npz",
        lambda file: write(file, **{"a\nb": colors(2), "\x1b[31m": colors(2)}),
        "holds a b (2, 64, 64, 3), [31m (2, 64, 64, 3); expected one array",
    ),
    "claims 60,000 x 60,000": ("cats", folder_of(a__png=picture(60_000, 60_000)), "a.png: not an image"),
    "claims 10,000 x 10,000": ("cats", folder_of(a__png=picture(10_000, 10_000)), "a.png: not an image"),
    "zip as factors": (
        "cats",
        folder_of(a__png=grey(), factors__npy=zip_of_nothing()),
        "the magic string is not",
    ),
    "lying factors": (
        "cats",
        folder_of(a__png=grey(), factors__npy=header("(99999999999, 1)")),
        "is float64 (99999999999, 1), and has 0 bytes of that",
    ),
    "not there": ("mine.npz", lambda file: None, "not there"),
    "cut npz": ("mine.npz", cut, "not a zip file"),
    "cut h5": ("mine.h5", cut, "truncated file"),
    "text npz": ("mine.npz", lambda file: file.write_text("hello"), "not a zip file"),
    "text h5": ("mine.h5", lambda file: file.write_text("hello"), "file signature not found"),
    "csv": (
        "mine.csv",
        lambda file: file.write_text("1,2"),
        "expected a folder of images, an .npy, .npz or .h5",
    ),
    "pickle": ("mine.npz", pickled, "pickled objects, which are never read"),
    "link": ("mine.h5", linked, "holds nothing"),
    "external": ("mine.h5", external, "in another file, which is not read"),
    "0 images": ("mine.npz", lambda file: write(file, images=colors(0)), "N at least 1"),
    "5 channels": ("mine.npz", lambda file: write(file, images=colors(3, channels=5)), "C 1 or 3"),
    "complex": (
        "mine.npz",
        lambda file: write(file, images=colors(3).astype(np.complex64)),
        "complex64; expected integers or floats",
    ),
    "0 to 16": (
        "mine.npz",
        lambda file: write(file, images=colors(3) // 16 + 1.0),
        "values from 1 to 16.0; expected 0 to 1 or 0 to 255: divide them by 16",
    ),
    "0 to 1 and a little": (
        "mine.h5",
        lambda file: write(file, images=colors(3) / 254),
        "expected 0 to 1 or 0 to 255: divide them by 1.00394",
    ),
    "0 to 1 and a rounding": (
        "mine.npz",
        lambda file: write(file, images=colors(3) / 255 * np.nextafter(1, 2)),
        "values from 0 to 1.0000000000000002; expected 0 to 1 or 0 to 255: clip them to 1",
    ),
    "16 bits of an array": (
        "mine.npz",
        lambda file: write(file, images=colors(3).astype(np.uint16) * 257),
        "values from 0 to 65535; expected 0 to 1 or 0 to 255",
    ),
    "cut npy": (
        "mine.npy",
        lambda file: (np.save(file, colors(3)), file.write_bytes(file.read_bytes()[:5000])),
        "has 4,872 bytes of that",
    ),
    "table npy": (
        "mine.npy",
        lambda file: np.save(file, np.zeros((5, 784))),
        "holds images (5, 784); expected one array of images (N, H, W)",
    ),
    "words as factors": (
        "mine.npz",
        lambda file: write(file, images=colors(2), factors=["cat", "dog"]),
        "factors are <U3 (2, 1); expected numbers (2, K)",
    ),
    "negative": ("mine.npz", lambda file: write(file, images=colors(3) - 0.5), "values from -0.5"),
    "nan": ("mine.h5", lambda file: write(file, images=colors(3) * np.nan), "values that are not numbers"),
    "a nan among numbers": (
        "mine.npz",
        lambda file: write(file, images=np.where(np.arange(64) == 40, np.nan, colors(3)[..., 0])),
        "images hold values that are not numbers (NaN); expected 0 to 1 or 0 to 255",
    ),
    "inf": (
        "mine.npz",
        lambda file: write(file, images=np.where(np.arange(64) == 40, np.inf, colors(3)[..., 0])),
        "values from 0 to inf; expected 0 to 1 or 0 to 255, all finite",
    ),
    "-inf": (
        "mine.h5",
        lambda file: write(file, images=np.where(np.arange(64) == 40, -np.inf, colors(3)[..., 0] / 255)),
        "values from -inf to 1; expected",
    ),
    "two arrays": (
        "mine.npz",
        lambda file: write(file, a=colors(3), b=colors(3)),
        "holds a (3, 64, 64, 3), b (3, 64, 64, 3); expected one array",
    ),
    "table": ("mine.npz", lambda file: write(file, images=np.zeros((5, 9))), "expected one array of images"),
    "factors short": (
        "mine.npz",
        lambda file: write(file, images=colors(3), factors=np.zeros((2, 1))),
        "numbers (3, K)",
    ),
    "factors nan": (
        "mine.npz",
        lambda file: write(file, images=colors(1), factors=np.full((1, 1), np.nan)),
        "not all finite",
    ),
    "names": (
        "mine.npz",
        lambda file: write(file, images=colors(1), factors=np.ones((1, 2)), factor_names=["a", "a"]),
        "2 names, 1 different",
    ),
    "empty folder": ("cats", lambda file: file.mkdir(), "no images in it"),
    "no image": (
        "cats",
        lambda file: (file.mkdir(), (file / "a.png").write_text("hello")),
        "a.png: not an image",
    ),
    "cut image": (
        "cats",
        lambda file: (
            file.mkdir(),
            Image.fromarray(colors(1)[0]).save(file / "a.png"),
            (file / "a.png").write_bytes((file / "a.png").read_bytes()[:5000]),
        ),
        "a.png: damaged",
    ),
    "16 bits": (
        "cats",
        lambda file: (file.mkdir(), Image.fromarray(np.zeros((64, 64), np.uint16)).save(file / "a.png")),
        "more than 8 bits",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_images_that_cannot_be_used_are_reported_in_one_line(tmp_path, damage):
    name, make, message = DAMAGES[damage]
    make(tmp_path / name)
    with pytest.raises(ValueError) as error:
        data.load(str(tmp_path / name), tmp_path / "data")
    output = str(error.value)
    assert message in output and str(tmp_path / name) in output and "\n" not in output
    assert not list(tmp_path.glob("data/own/*/*"))


@pytest.mark.parametrize(
    "given, name", [("mine.npz", "mine"), ("some/folder", "folder"), ("./x.y.h5", "x.y")]
)
def test_a_path_is_a_data_set_and_names_the_run(given, name):
    assert Config(dataset=given).name == f"{name}-lvae"


def test_an_existing_folder_needs_no_separator_in_its_name(tmp_path, monkeypatch):
    (tmp_path / "my.cats").mkdir()
    (tmp_path / "cats").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Config(dataset="cats").name == "cats-lvae" and Config(dataset="my.cats").name == "my.cats-lvae"


@pytest.mark.parametrize("name", ["mnist", ""])
def test_another_name_is_refused_with_all_that_are_known(name):
    with pytest.raises(
        ValueError, match="expected dsprites or mpi3d or falcor3d or isaac3d or celeba or arm3d or the path"
    ):
        Config(dataset=name)


@pytest.mark.parametrize("factors", [{}, {"factors": np.arange(300)[:, None] % [2, 5]}])
def test_a_run_on_images_of_ones_own_ends_with_pictures_and_scores_if_there_are_factors(tmp_path, factors):
    write(tmp_path / "mine.npz", images=colors(300), **factors)
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "run.py",
            "--dataset",
            tmp_path / "mine.npz",
            "--iterations",
            "2",
            "--batch-size",
            "4",
            "--threads",
            "1",
            "--out",
            tmp_path / "runs",
            "--data",
            tmp_path / "data",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").glob("mine-lvae-*")
    scores = json.loads((folder / "results.json").read_text())["scores"]
    assert ("mig" in scores) == bool(factors) and scores["rec"] > 0
    assert {"curves.png", "reconstructions.png", "traversal.png", "traversal.gif"} <= {
        f.name for f in folder.iterdir()
    }


def test_a_run_on_a_damaged_file_ends_with_one_line_and_code_2(tmp_path):
    cut(tmp_path / "mine.npz")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "run.py",
            "--dataset",
            tmp_path / "mine.npz",
            "--out",
            tmp_path / "runs",
            "--data",
            tmp_path / "data",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "mine.npz: " in done.stderr


@pytest.mark.parametrize(
    "name, content",
    [
        ("about.json", b"[]"),
        ("about.json", b"[" * 100_000),
        ("about.json", {"names": 3}),
        ("about.json", {"names": ["a", "a"]}),
        ("about.json", {"names": [[], {}]}),
        ("about.json", {"names": []}),
        ("about.json", {"files": [3, 3, 3]}),
        ("about.json", {"files": ["a", "b"]}),
        ("about.json", {"source": 3}),
        ("about.json", {"content": {}}),
        ("images.npy", zip_of_nothing()),
        ("images.npy", np.zeros((3, 64, 64, 7), np.uint8)),
        ("images.npy", np.zeros((3, 64, 32, 3), np.uint8)),
        ("images.npy", np.zeros((3, 64, 64, 3), np.uint8, "F")),
        ("factors.npy", zip_of_nothing()),
        ("factors.npy", np.full((3, 2), np.nan)),
        ("factors.npy", np.ones((3, 2), np.float32)),
        ("factors.npy", np.zeros((3, 0), int)),
        ("factors.npy", header("(99999999999, 1)")),
    ],
)
def test_a_prepared_set_of_another_form_is_refused_in_one_line(tmp_path, name, content):
    file = write(tmp_path / "mine.npz", images=colors(3), factors=np.arange(6).reshape(3, 2))
    loaded(file, tmp_path)
    made = next((tmp_path / "own").glob("*/images.npy")).parent
    if isinstance(content, dict):
        content = json.dumps({**json.loads((made / name).read_text()), **content}).encode()
    if isinstance(content, bytes):
        (made / name).write_bytes(content)
    else:
        np.save(made / name, content)
    with pytest.raises(ValueError, match="remove it") as error:
        data.load_own(file, tmp_path)
    assert "\n" not in str(error.value) and str(made.parent) in str(error.value)


def test_what_is_neither_file_nor_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mine.npz")
    with pytest.raises(ValueError, match="mine.npz: not there; expected a folder"):
        data.load(str(tmp_path / "mine.npz"), tmp_path)
