"""Bad input at every public door: it is refused in one line, and nothing else happens.

What "nothing else" means is in hostile.py: `outcome` and `watched`. LVAE_FUZZ=10 searches ten times as long.
"""

import dataclasses
import io
import json
import math
import pickle
import shutil
import struct
import warnings
import zlib
from types import SimpleNamespace

import common
import h5py
import hostile
import numpy as np
import pytest
import torch
from hostile import (
    NASTY,
    archive,
    array,
    changed,
    check_line,
    fuzz,
    mutated,
    npy,
    outcome,
    place,
    spoilt,
    watched,
)
from PIL import Image

import lvae_min
from lvae_min import cli, data, metrics, model, plots, report, runs, stored
from lvae_min.config import Config
from lvae_min.datasets import dsprites, prepare, specs
from lvae_min.datasets import prepared as images
from lvae_min.train import Run


def captured(capsys, call):
    """The exit code of a command, and its stderr."""
    try:
        code = call()
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    return code, output.err


# Settings ---------------------------------------------------------------------------------------------------

FIELDS = [field.name for field in dataclasses.fields(Config)]
FLAGS = [f"--{name.replace('_', '-')}" for name in FIELDS] * 2 + [
    "--jobs",
    "--out",
    "--data",
    "--s",
    "-h",
    "x",
]
WORDS = ["0", "1", "-1", "1e400", "nan", "inf", "9" * 30, "9" * 5000, "1_0", "", " ", "-", "--", "vae", "cpu"]
WORDS += [
    "auto",
    "a/\0",
    "/",
    "..",
    "x" * 300 + "/",
    "\udcff/",
    "a\nb/",
    "\x1b[2J",
    "٣",
    "1 x",
    "=",
    "@x",
    "%s",
]
BAD = [
    ["--jobs", "0"],
    ["--seed", "1", "x"],
    ["--iterations", "nan"],
    ["--model", "a\nb"],
    ["--latents", "1e3"],
]
BAD += [["--seed", *map(str, range(101)), "--latents", *map(str, range(1, 101))], ["--schedule", "1" * 400]]


def arguments(random):
    words = []
    for _ in range(random.randint(0, 4)):
        words += [random.choice(FLAGS), *random.choices(WORDS, k=random.choice([0, 1, 1, 1, 2, 3]))]
    return words


@fuzz(300)
def test_any_command_line_is_parsed_or_refused_in_one_line(capsys, random):
    with place() as folder, pytest.MonkeyPatch.context() as patch, watched(folder):
        patch.setattr(cli, "main", lambda given, called: [config.name for config in cli.parse(given)[0]])
        code, message = captured(capsys, lambda: cli.command(arguments(random)))
    assert code in (0, 2) or isinstance(code, list) and message == ""
    if code == 2:
        assert message.endswith("\n")
        check_line(message[:-1], "run.py: ")


@fuzz(60)
def test_the_command_ends_with_2_and_one_line_that_names_the_setting(capsys, random):
    words = [word for word in arguments(random) if word != "-h"] + random.choice(BAD)
    with place() as folder, watched(folder):
        code, message = captured(capsys, lambda: cli.command(words))
    assert code == 2 and message.endswith("\n")
    check_line(message[:-1], "--", "File name too long", "unrecognized arguments", "a grid")


@fuzz(200)
def test_any_settings_are_taken_or_refused_by_their_name(random):
    settings = {random.choice(FIELDS): random.choice(NASTY + WORDS) for _ in range(random.randint(1, 2))}
    with place() as folder:
        named = [f"--{name.replace('_', '-')} " for name in settings] + ["File name too long"]
        config, message = outcome(folder, lambda: Config(**settings), *named)
    assert message or math.isfinite(config.beta) and isinstance(config.seed, int)


# A run's own files ------------------------------------------------------------------------------------------

SETTINGS = {"iterations": 24, "batch_size": 8, "threads": 1, "device": "cpu"}
MADE = {}


@pytest.fixture
def made(small, tmp_path_factory, monkeypatch):
    """Folders of a run: stopped after 20 of 24 iterations, and finished. Its scores are given."""
    monkeypatch.setattr(metrics, "score", lambda *_, **__: dict.fromkeys(report.SCORES, 0.5))
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    monkeypatch.setattr(model, "HIDDEN", 8)
    monkeypatch.setattr(report, "commit", lambda: "0123456789")
    if not MADE:
        for name, end in (("stopped", 19), ("finished", 99)):
            one = Run(Config(**SETTINGS), tmp_path_factory.mktemp("made") / name, small)
            if one.train(SimpleNamespace(is_set=lambda one=one, end=end: one.iteration >= end)):
                one.finish()
            one.close()
            MADE[name] = one.folder
    return MADE


def resume(folder, small):
    """Continue a run to its end, or find it finished, as run.py does."""
    config = Config(**SETTINGS)
    results = stored.finished(config, folder)
    if results is None:
        one = Run(config, folder, small)
        try:
            results = one.finish() if one.train() else None
        finally:
            one.close()
    return runs.summary(results)


def check_run(made, small, name, content):
    """A run of which one file has another content is refused and left alone, or it ends with its numbers."""
    with place() as folder:
        shutil.copytree(made["finished" if name == "results.json" else "stopped"], folder / "run")
        (folder / "run" / name).write_bytes(content)
        value, message = outcome(folder, lambda: resume(folder / "run", small), folder / "run")
        assert message or "beta" in value
        return message


DEEP = b"[" * 100_000
ODD_JSON = [DEEP, b"", b"[]", b"NaN", b"\xff", b"{}", b"1" * 9000]


def json_of(random, content):
    """JSON with another content, or text that is no JSON."""
    other = json.dumps(changed(random, json.loads(content), NASTY)).encode()
    return random.choice([other, other, other, mutated(random, content), random.choice(ODD_JSON)])


@fuzz(200)
def test_a_run_survives_any_settings_and_results(made, small, random):
    name = random.choice(["config.json", "results.json"])
    check_run(made, small, name, json_of(random, (made["finished"] / name).read_bytes()))


@fuzz(80)
def test_a_run_survives_any_log(made, small, random):
    lines = (made["stopped"] / "log.jsonl").read_bytes().splitlines()
    at = random.randrange(len(lines))
    lines[at] = json_of(random, lines[at]).ljust(len(lines[at]))
    content = b"\n".join(lines) + b"\n"
    check_run(made, small, "log.jsonl", content)
    with place() as folder:
        shutil.copytree(made["finished"], folder / "run")
        (folder / "run" / "log.jsonl").write_bytes(content)
        runs, message = outcome(folder, lambda: common.read(folder), folder / "run")
        assert message or len(runs) == 1
        if message is None and random.random() < 0.7:
            return  # 0.3 s for a picture
        drawn = outcome(folder, lambda: plots.curves(folder / "run"), folder / "run")[1]
        assert (drawn is None) == (message is None)


@fuzz(60)
def test_results_are_read_for_figures_or_refused(made, random):
    with place() as folder:
        shutil.copytree(made["finished"], folder / "run")
        content = json_of(random, (made["finished"] / "results.json").read_bytes())
        (folder / "run" / "results.json").write_bytes(content)
        runs, message = outcome(folder, lambda: common.read(folder), folder / "run")
        assert message or common.provenance(common.selected(runs)).startswith("1 run")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


TENSORS = [
    torch.zeros(0),
    torch.zeros(3, dtype=torch.int64),
    torch.zeros(3, dtype=torch.complex64),
    torch.ones(()),
]
TENSORS += [torch.zeros(1).expand(10**9), torch.full((3,), math.nan), torch.zeros(5056, dtype=torch.uint8)]
TENSORS += [torch.eye(3).to_sparse(), torch.zeros(3, device="meta"), torch.nn.Parameter(torch.zeros(3))]
TENSORS += [torch.zeros(3, dtype=torch.float64), torch.Size([3]), bytearray(9), {1, 2}, torch.zeros(3).bool()]


def saved(document):
    content = io.BytesIO()
    torch.save(document, content)
    return content.getvalue()


@fuzz(160)
def test_a_run_survives_any_checkpoint(made, small, random):
    name = random.choice(["last.pt", "last.pt", "best.pt"])
    content = (made["stopped"] / name).read_bytes()
    if random.random() < 0.6:
        document = torch.load(io.BytesIO(content), weights_only=True)
        content = saved(
            changed(random, document, NASTY[:-1] + TENSORS) if random.random() < 0.95 else TENSORS[0]
        )
    else:
        content = random.choice([mutated, hostile.lying])(random, content)
    check_run(made, small, name, content)
    with place() as folder:
        (folder / "best.pt").write_bytes(content)
        vae, message = outcome(folder, lambda: lvae_min.load(folder), folder / "best.pt")
        assert message or isinstance(vae, lvae_min.VAE)


NETWORK = {"shape": [1, 64, 64], "latents": 5, "network": "mlp", "binary": True}
HUGE = [{"latents": 10**9}, {"shape": [1, 60_000, 60_000]}, {"shape": [0, 64, 64]}, {"network": "cnn"}, {}]


@fuzz(60)
def test_a_network_of_any_size_or_with_code_in_it_is_not_made(made, random):
    best, kind = (
        torch.load(made["finished"] / "best.pt", weights_only=True),
        random.choice(["zip", "old", "pickle"]),
    )
    with place() as folder:
        evil = {"evil": Evil(folder / "hacked")} if random.random() < 0.5 else {}
        best["network"] = (
            random.choice([changed(random, NETWORK, NASTY), NETWORK | random.choice(HUGE)]) | evil
        )
        content = io.BytesIO(pickle.dumps(best["network"])) if kind == "pickle" else io.BytesIO()
        if kind != "pickle":
            torch.save(best, content, _use_new_zipfile_serialization=kind == "zip")
        (folder / "best.pt").write_bytes(content.getvalue())
        vae, message = outcome(folder, lambda: lvae_min.load(folder), folder / "best.pt")
        assert not (folder / "hacked").exists() and (message or vae.latents == 5)


# Images of the user's own -----------------------------------------------------------------------------------

BATCH = torch.arange(1)


def check_set(folder, path):
    """Images that are refused, or of which a batch can be had, as often as it is asked for."""
    for _ in range(2):  # the second time the prepared set is there
        dataset, message = outcome(folder, lambda: data.load(str(path), folder / "data"), path)
        assert message or dataset.batch(BATCH).shape[1] in (1, 3)
        assert (
            message or dataset.labels is None or dataset.factors([0]).shape == (1, len(dataset.factor_names))
        )
        made = {file.parent.parent for file in folder.glob("data/own/*/*")}
        assert made <= {folder / "data" / "own"} and not list(folder.glob("data/own/*.part"))
    return message


PIXELS = np.arange(1024, dtype=np.uint8).reshape(4, 16, 16)


@fuzz(300)
def test_any_npz_is_read_or_refused(random):
    with place() as folder:
        (folder / "mine.npz").write_bytes(archive(random, "images.npy", npy(payload=PIXELS.tobytes())))
        check_set(folder, folder / "mine.npz")


def h5(*makers):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for make in makers:
            make(file)
    return content.getvalue()


SPACE = h5py.h5s.create_simple((4, 16, 16))
KINDS = {
    "images": lambda file: file.create_dataset("images", data=PIXELS, chunks=(2, 16, 16), compression="gzip"),
    "factors": lambda file: file.create_dataset("factors", data=np.arange(8.0).reshape(4, 2)),
    "names": lambda file: file.create_dataset("factor_names", data=["a\nb", "\x1b[2J$\\frac$"]),
    "huge": lambda file: file.create_dataset("images", (10**12, 64, 64), "u1", chunks=(1, 64, 64)),
    "huge row": lambda file: file.create_dataset("images", (4, 10**6, 10**6), "u1", chunks=(1, 64, 64)),
    "huge chunk": lambda file: file.create_dataset("big", (4, 2**14, 2**15), "u1", chunks=(1, 2**14, 2**15)),
    "huge factors": lambda file: file.create_dataset("factors", (4, 10**12), "f8", chunks=(1, 64)),
    "empty": lambda file: file.create_dataset("images", (0, 16, 16), "u1"),
    "null": lambda file: file.create_dataset("images", data=h5py.Empty("f4")),
    "scalar": lambda file: file.create_dataset("factors", data=3),
    "text": lambda file: file.create_dataset("images", (2, 2, 2), h5py.string_dtype()),
    "compound": lambda file: file.create_dataset("x", (4, 16, 16), np.dtype([("a", "u1"), ("b", "f4")])),
    "array": lambda file: file.create_dataset("x", (4, 16), np.dtype(("u1", (16,)))),
    "ragged": lambda file: file.create_dataset("x", (4, 16, 16), h5py.vlen_dtype(np.uint8)),
    "reference": lambda file: file.create_dataset("factor_names", (2,), h5py.ref_dtype),
    "half": lambda file: file.create_dataset("x", data=np.full((4, 16, 16), 65504, np.float16)),
    "nan": lambda file: file.create_dataset("x", data=np.full((4, 16, 16), np.nan, ">f8")),
    "group": lambda file: file.create_group("images"),
    "soft": lambda file: file.__setitem__("soft", h5py.SoftLink("/images")),
    "link": lambda file: file.__setitem__("link", h5py.ExternalLink("/etc/passwd", "/")),
    "external": lambda file: file.create_dataset("e", (64, 64), "u1", external=[("/etc/passwd", 0, 4096)]),
    "virtual": lambda file: file.create_virtual_dataset("v", h5py.VirtualLayout((4, 16, 16), "u1")),
    "time": lambda file: h5py.h5d.create(file.id, b"t", h5py.h5t.UNIX_D32LE, SPACE),
    "odd name": lambda file: h5py.h5d.create(file.id, b"\xff\n", h5py.h5t.STD_U8LE, SPACE),
}  # fmt: skip
WHOLE = h5(KINDS["images"], KINDS["factors"], KINDS["names"])


@fuzz(250)
def test_any_h5_is_read_or_refused(random):
    kinds = random.sample(list(KINDS), random.randint(1, 3))
    try:
        content = h5(*(KINDS[kind] for kind in kinds))
    except (ValueError, OSError):  # two of one name
        content = WHOLE
    with place() as folder:
        (folder / "mine.h5").write_bytes(
            random.choice([content, mutated(random, content), mutated(random, WHOLE)])
        )
        check_set(folder, folder / "mine.h5")


def picture(mode="RGB", kind="PNG", size=(20, 16), **options):
    content = io.BytesIO()
    with Image.new(mode, size) as image:
        image.save(content, kind, **options)
    return content.getvalue()


def huge_png(width, height, size=1000):
    """A PNG of bits and two colors that claims its size, and has so many bytes of that."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    chunks = (header, b"PLTE" + bytes(6), b"IDAT" + zlib.compress(bytes(size), 1), b"IEND")
    parts = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PICTURES = [picture(), picture("L", "JPEG"), picture("P"), picture("RGBA", "WEBP"), picture("CMYK", "TIFF")]
PICTURES += [picture("L", "BMP"), picture("P", "GIF"), picture("P", transparency=bytes(256)), picture("1")]
PICTURES += [picture("P", "GIF", save_all=True, append_images=[Image.new("P", (20, 16), 7)]), picture("LA")]
ODD = [
    b"",
    huge_png(60_000, 60_000),
    huge_png(10_000, 10_000),
    huge_png(13_000, 13_000, 13_000 * 1626),
    huge_png(9000, 9000),
    huge_png(0, 9),
    b"hello",
]
ODD += [
    picture("I;16"),
    picture("F", "TIFF"),
    b"P6 99999 99999 255\n",
    b"P5 4 4 255\n" + bytes(16),
    b"GIF89a",
]
LIE = npy("'<i8'", "(4, 99999999999)", bytes(64))
NAMES = ["a.png", "b.jpg", "c.gif", "d.tif", "e.webp", "f.bmp", "g.pgm", "a\nb.png", "\udcff.png"]
LINKS = ["/etc/passwd", "/", "link.png", "/dev/zero", "/proc/self/mem"]


def image_file(random):
    return random.choice(
        [random.choice(PICTURES), mutated(random, random.choice(PICTURES)), random.choice(ODD)]
    )


@fuzz(200)
def test_any_folder_is_read_or_refused(quiet_pillow, random):
    with place() as folder:
        (folder / "cats").mkdir()
        found = random.sample(NAMES, random.randint(0, 3))
        for name in found:
            (folder / "cats" / name).write_bytes(image_file(random))
        if random.random() < 0.4:
            rows = npy("'<i8'", f"({len(found)}, 1)", bytes(8 * len(found)))
            (folder / "cats" / "factors.npy").write_bytes(
                random.choice([array(random), rows, LIE, hostile.zipped([])])
            )
        if random.random() < 0.2:
            (folder / "cats" / "link.png").symlink_to(random.choice(LINKS))
        check_set(folder, folder / "cats")


@pytest.fixture
def quiet_pillow():
    images.quiet()  # pytest has set filters of its own


# Prepared sets and archives ---------------------------------------------------------------------------------

ABOUT = {"fingerprint": [1, 2, 3], "names": ["a", "b"], "source": "here", "content": 123}
IMAGES = npy(shape="(4, 64, 64, 3)", payload=bytes(4 * 64 * 64 * 3))
FACTORS = npy("'<i8'", "(4, 2)", bytes(64))
SET = {"images.npy": IMAGES, "factors.npy": FACTORS, "about.json": json.dumps(ABOUT).encode()}


@fuzz(250)
def test_any_prepared_set_is_read_or_refused(random):
    with place() as folder, pytest.MonkeyPatch.context() as patch:
        (folder / "mpi3d").mkdir()
        for name, content in SET.items():
            if random.random() < 0.4:
                odd = LIE, LIE, hostile.zipped([("x.npy", IMAGES)]), npy("'<i8'", "(4, 2)", b"\xff" * 64)
                content = random.choice([mutated(random, content), array(random), random.choice(odd)])
                content = json_of(random, SET[name]) if name == "about.json" else content
            (folder / "mpi3d" / name).write_bytes(content)
        spec = dataclasses.replace(specs.SPECS["mpi3d"], factors={"a": 2, "b": 2}, images=4)
        patch.setitem(specs.SPECS, "mpi3d", spec)
        patch.setattr("lvae_min.datasets.own.prepared", lambda *_: images.open_set(folder / "mpi3d"))
        for call in (lambda: data.load("mpi3d", folder), lambda: data.load_own(folder / "mine.npz", folder)):
            dataset, message = outcome(folder, call, folder)
            assert message or dataset.batch(BATCH).shape[2:] == (64, 64) and len(dataset.factors([0])[0]) == 2


SIZES = {"mpi3d": (2, 2, 1, 1, 1, 1, 1), "isaac3d": (2, 1, 1, 2, 1, 1, 1, 1, 1)}
GRID = np.stack(np.unravel_index(np.arange(4), SIZES["isaac3d"]), 1).astype("<f4")
PNG = picture(size=(128, 128))
LABELS = ("Isaac3D/labels.npy", npy("'<f4'", "(4, 9)", GRID.tobytes()))
PNGS = [(f"Isaac3D/images/{number:06d}.png", PNG) for number in range(4)]
OUTSIDE = {"../labels.npy", "/etc/labels.npy"}
PLACES = [
    "images.npy",
    "Isaac3D/images/000001.png",
    "../labels.npy",
    "x/labels.npy",
    "/etc/labels.npy",
    "a\n000002.png",
]


@fuzz(250)
def test_any_archive_is_prepared_or_refused(capsys, quiet_pillow, random):
    name = random.choice(list(SIZES))
    members = [("images.npy", IMAGES)] if name == "mpi3d" else [LABELS, *PNGS]
    at = random.randrange(len(members))
    content = random.choice(
        [members[at][1], array(random), mutated(random, members[at][1]), image_file(random)]
    )
    members[at] = members[at][0], content
    members += [(random.choice(PLACES), image_file(random)) for _ in range(random.randint(0, 2))]
    with place() as folder, pytest.MonkeyPatch.context() as patch:
        for each, sizes in SIZES.items():
            factors = dict(zip(specs.SPECS[each].factors, sizes, strict=True))
            patch.setitem(specs.SPECS, each, dataclasses.replace(specs.SPECS[each], factors=factors))
        file = folder / "archive"
        content = hostile.zipped(members, random.choice(hostile.METHODS))
        file.write_bytes(spoilt(random, content))
        _, message = outcome(folder, lambda: prepare.prepare(name, file, folder / "data"), file)
        assert message or len(data.load(name, folder / "data")) == 4
        if name == "isaac3d" and file.read_bytes() == content and OUTSIDE & {name for name, _ in members}:
            assert "lies outside it" in message
        there = {path.name for path in folder.rglob("*")} - {"archive", "data", f"{name}.lock"}
        assert there == (set() if message else {name, "images.npy", "about.json"})
        with watched(folder):
            words = ["prepare", name, "--from", str(file), "--data", str(folder / "data")]
            code, heard = captured(capsys, lambda: prepare.command(words))
        assert (code, heard.count("\n")) == ((2, 1) if message else (0, 0))


@fuzz(100)
def test_any_dsprites_archive_is_read_or_refused(random):
    with place() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(dsprites, "SIZES", (2, 1, 1, 1, 1))
        whole = npy(shape="(2, 64, 64)", payload=bytes(8192))
        (folder / dsprites.ARCHIVE).write_bytes(
            archive(random, "imgs.npy", whole, ["imgs.npy", "latents.npy"])
        )
        dataset, message = outcome(folder, lambda: data.load_dsprites(folder), folder / dsprites.ARCHIVE)
        assert message or len(dataset) == 2


# Scores -----------------------------------------------------------------------------------------------------

TYPES = ["f8", "f4", "f2", ">f8", "g", "i8", "u8", "i1", "?", "c16", "U3", "O", "M8[s]", "V4"]
EXTREME = [np.nan, np.inf, -np.inf, 1e300, 1e30, 9e29, -9e29, 1e-300, 0, 2**63, -(2**63), 1e-16]


def table(random, rows):
    """A table of any type and shape, mostly one that can be scored."""
    odd = [(rows, 1), (1, 2), (rows + 1, 2), (0, 2), (rows,), (), (3, 0), (rows, 2, 2)]
    shape = random.choice([(rows, 2), (rows, 3), (rows, 9), random.choice(odd)])
    numbers = np.random.default_rng(random.getrandbits(32))
    found = random.choice([numbers.integers(0, 3, shape), numbers.normal(size=shape), np.zeros(shape)])
    found = np.array(found, float) * random.choice([1, 1, 1, 1e-20, 1e20, 1e29])
    for _ in range(random.choice([0, 0, 0, 1, 3])):
        if found.size:
            found.flat[random.randrange(found.size)] = random.choice(EXTREME)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex or infinite numbers as others
        found = np.asarray(found).astype(random.choice(["f8", "f8", "f8", "f8", *TYPES]), casting="unsafe")
    return random.choice(
        [found, found, np.asfortranarray(found), found[::-1] if found.ndim else found, found.tolist()]
    )


QUICK = {
    "beta_vae": {"batch": 5, "train": 50, "test": 20},
    "factor_vae": {"batch": 5, "train": 20, "test": 20},
}
SCORES = ["beta_vae", "factor_vae", "explicitness", "irs", "mig", "sap"]
LOWEST = {"explicitness": -1, "irs": 0, "mig": 0, "sap": 0}
WORDS_OF_REFUSAL = ["factor", "codes", "one row a sample", "samples", "setting an array", "inhomogeneous"]


@fuzz(400)
def test_any_codes_are_scored_or_refused(random):
    name, rows = random.choice(SCORES), random.choice([1, 2, 5, 30, 60])
    factors, codes, discrete = table(random, rows), table(random, rows), random.random() < 0.5
    with place() as folder:
        score = getattr(metrics, name)
        keywords = QUICK.get(name, {}) | {"discrete": discrete and name != "sap"}
        found, message = outcome(folder, lambda: score(factors, codes, **keywords), *WORDS_OF_REFUSAL)
    assert message or isinstance(found, float) and LOWEST.get(name, -9) - 1e-9 <= found <= 1 + 1e-9


@fuzz(200)
def test_any_npz_of_codes_is_scored_or_refused_in_one_line(capsys, random):
    whole = npy("'<f8'", "(4, 2)", np.arange(8.0).tobytes())
    parts = [(name, random.choice([whole, whole, array(random)])) for name in ("factors.npy", "codes.npy")]
    parts += [(random.choice(["codes.npy", "../x.npy"]), array(random))] * random.choice([0, 0, 1])
    with place() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "beta_vae", lambda *_: 0.5)  # 0.3 s
        file = folder / "codes.npz"
        file.write_bytes(spoilt(random, hostile.zipped(parts, random.choice(hostile.METHODS))))
        with watched(folder):
            code, message = captured(
                capsys, lambda: metrics.main([str(file), *random.choice([[], ["--discrete"]])])
            )
        assert code == 0 and message == "" or code == 2 and message.endswith("\n")
        if code:
            check_line(message[:-1], file)


def test_at_least_2000_cases_ran():
    """Of each test that ran, as many as it has; of all together, 2,000."""
    short = {
        name: (hostile.RAN[name], cases)
        for name, cases in hostile.PLANNED.items()
        if hostile.RAN[name] < cases
    }
    assert all(hostile.RAN[name] == 0 for name in short), short
    assert hostile.PLANNED.total() >= 2000
