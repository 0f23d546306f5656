"""encode, decode and export: a run's network on whole sets, from the shell, and out of this package."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import default_device
from PIL import Image

import lvae_min
from lvae_min import codes, data, decode, encode, latents, metrics, plots
from lvae_min.config import Config
from lvae_min.io import npy
from lvae_min.io.text import carry_out
from lvae_min.model import VAE
from lvae_min.train import Run

LOAD = data.load
# torch 2.10's own, when it loads an exported half.
BUFFER = pytest.mark.filterwarnings("ignore:The given buffer is not writable")


@pytest.fixture
def run(small, tmp_path, monkeypatch):
    """The folder of a run of 12 iterations on the small set."""
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "score", lambda factors, codes, **_: {"beta_vae": 0.5})
        config = Config(iterations=12, batch_size=8, device="cpu")
        one = Run(config, tmp_path / "run", small)
        one.train()
        one.finish()
        one.close()
    monkeypatch.setattr(data, "load", lambda *_: small)
    return tmp_path / "run"


def test_encode_writes_what_the_scores_read(run, small, tmp_path, capsys):
    file = tmp_path / "codes.npz"
    assert carry_out(encode.main, [str(run), "dsprites", "-o", str(file)], "encode") == 0
    found = np.load(file)
    mu, logvar = lvae_min.load(run).encode(small.batch(torch.arange(len(small))).float())
    assert found["mu"] == pytest.approx(mu.numpy(), abs=1e-5) and (found["codes"] == found["mu"]).all()
    assert found["logvar"] == pytest.approx(logvar.numpy(), abs=1e-5)
    assert (found["factors"] == small.factors(np.arange(len(small)))).all()
    assert metrics.main([str(file)]) == 0 and "beta_vae" in capsys.readouterr().out


def test_codes_of_a_folder_name_the_files_of_their_rows(run, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", LOAD)
    names = [f"{kind}/{number}.png" for kind in ("cats", "dogs") for number in range(2)]
    for name, value in zip(names, (0, 255, 0, 255), strict=True):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), value).save(tmp_path / "photos" / name)
    words = [str(run), str(tmp_path / "photos"), "-o", str(tmp_path / "codes.npz"), "--data", str(tmp_path)]
    assert carry_out(encode.main, words, "encode") == 0
    found = np.load(tmp_path / "codes.npz")
    white = np.array([name.endswith("1.png") for name in found["files"]])
    assert found["files"].tolist() == names and found["factors"].ravel().tolist() == [0, 0, 1, 1]
    distance = np.abs(found["codes"] - found["codes"][1]).max(1)
    assert (distance[white] < 1e-5).all() and (distance[~white] > 1e-3).all()
    assert (npy.read_npz(tmp_path / "codes.npz", ("factors", "codes"))["codes"] == found["codes"]).all()


@BUFFER
def test_codes_and_images_are_the_same_whatever_the_default_device(run, small, tmp_path):
    def found():
        vae, images = lvae_min.load(run), small.batch(torch.arange(3, device="cpu"))
        mu, _ = vae.encode(images)
        return [codes.encode(vae, small)["mu"], mu, vae.decode(mu), latents.traversal(vae, images[:1])]

    plain = found()
    with default_device("meta"):
        other = found()
        halves = [lvae_min.export(run, tmp_path / f"{part}.pt2", part) for part in codes.PARTS]
    encoder, decoder = (torch.export.load(half).module() for half in halves)
    mu = plain[1]
    other += [encoder(small.batch(torch.arange(3)).float())[0].detach(), decoder(mu).detach()]
    for one, two in zip([*plain, mu, plain[2]], other, strict=True):
        assert np.asarray(two) == pytest.approx(np.asarray(one), abs=1e-5)


@pytest.mark.cuda
def test_a_network_on_a_gpu_encodes_and_decodes(small, tmp_path):
    vae = VAE(small.shape, 5, "mlp", binary=True)
    on_cpu = codes.encode(vae, small)
    codes.decode(vae, on_cpu["mu"], tmp_path / "cpu.npz")
    vae.cuda()
    on_gpu = codes.encode(vae, small.to("cuda"))
    codes.decode(vae, on_cpu["mu"], tmp_path / "gpu.npz")
    assert on_gpu["mu"] == pytest.approx(on_cpu["mu"], abs=1e-4)
    images = [np.load(tmp_path / file)["images"].astype(int) for file in ("cpu.npz", "gpu.npz")]
    assert abs(images[0] - images[1]).max() <= 1


def test_encode_asks_for_images_in_the_shape_of_the_network(run, small, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(data, "load", lambda *given: asked.append(given[2:]) or small)
    assert carry_out(encode.main, [str(run), "photos/", "-o", str(tmp_path / "codes.npz")], "encode") == 0
    assert asked == [((1, 64, 64),)]


def test_decode_is_the_way_back(run, tmp_path):
    table = np.random.default_rng(0).standard_normal((codes.ROWS + 3, 5))
    np.savez(tmp_path / "codes.npz", codes=table)
    file = tmp_path / "images.npz"
    words = [str(run), str(tmp_path / "codes.npz"), "-o", str(file)]
    assert carry_out(decode.main, words, "decode") == 0
    images = np.load(file)["images"]
    expected = lvae_min.load(run).decode(torch.from_numpy(table).float())[:, 0] * 255
    assert images.shape == (len(table), 64, 64) and images.dtype == np.uint8
    assert np.abs(images - expected.numpy()).max() <= 0.51
    assert [file.name for file in tmp_path.glob("*.part")] == []


def test_images_in_color_have_their_channels_last(tmp_path):
    vae = lvae_min.VAE((3, 64, 64), 4, "cnn")
    vae.reset(torch.Generator().manual_seed(0))
    z = torch.randn(2, 4)
    assert codes.decode(vae, z.numpy(), tmp_path / "a.npz") == (2, 64, 64, 3)
    found, wanted = np.load(tmp_path / "a.npz")["images"], vae.decode(z).permute(0, 2, 3, 1) * 255
    assert np.abs(found - wanted.numpy()).max() <= 0.51


def test_codes_whose_images_are_not_numbers_are_refused_and_no_file_is_written(tmp_path):
    table = np.zeros((codes.ROWS + 3, 4))
    table[-1] = 3e38
    with pytest.raises(
        ValueError, match=f"codes {codes.ROWS} to {codes.ROWS + 2}: too large for this network"
    ):
        codes.decode(VAE((3, 64, 64), 4, "cnn"), table, tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "table, message",
    [
        (np.zeros((3, 4)), "expected numbers (M, 5)"),
        (np.zeros(5), "expected numbers (M, 5)"),
        (np.full((3, 5), np.nan), "not all finite"),
        (np.full((3, 5), 1e39), "not all finite numbers of float32"),
        (np.full((3, 5), 1j), "expected numbers (M, 5)"),
    ],
)
def test_codes_that_do_not_fit_are_refused_in_one_line(run, tmp_path, capsys, table, message):
    np.savez(tmp_path / "codes.npz", codes=table)
    out = tmp_path / "images.npz"
    assert carry_out(decode.main, [str(run), str(tmp_path / "codes.npz"), "-o", str(out)], "decode") == 2
    output = capsys.readouterr().err
    assert (
        output.startswith(f"decode: {tmp_path / 'codes.npz'}: ")
        and message in output
        and output.count("\n") == 1
    )
    assert not out.exists()


def test_what_is_no_run_or_no_archive_is_refused_in_one_line(run, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "codes.npz").write_bytes(b"no archive")
    for name, command, arguments in (
        ("encode", encode.main, [tmp_path / "other", "dsprites", "-o", tmp_path / "a.npz"]),
        ("encode", encode.main, [run, "dsprites", "-o", tmp_path / "a.txt"]),
        ("encode", encode.main, [run, "dsprites", "-o", tmp_path / "none" / "a.npz"]),
        ("decode", decode.main, [run, tmp_path / "codes.npz", "-o", tmp_path / "none" / "a.npz"]),
        ("decode", decode.main, [run, tmp_path / "codes.npz", "-o", tmp_path / "a.npz"]),
        ("decode", decode.main, [run, tmp_path / "none.npz", "-o", tmp_path / "a.npz"]),
    ):
        assert carry_out(command, [*map(str, arguments)], name) == 2
        output = capsys.readouterr().err
        assert "none/a.npz: there is no folder" in output or arguments[-1].parent != tmp_path / "none"
        assert output.startswith(f"{name}: ") and output.count("\n") == 1 and "Traceback" not in output


def test_an_input_is_never_overwritten(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", images=np.zeros((4, 64, 64), np.uint8), codes=np.zeros((4, 5)))
    before = (tmp_path / "mine.npz").read_bytes()
    for command, out in ((encode.main, tmp_path / "mine.npz"), (decode.main, "./mine.npz")):
        assert carry_out(command, [str(run), "mine.npz", "-o", str(out)], "it") == 2
        assert "mine.npz: is the input, which would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "mine.npz").read_bytes() == before


def test_images_of_another_shape_than_the_networks_are_refused(run, small):
    small.shape = (1, 32, 32)
    with pytest.raises(
        ValueError, match=r"images of shape \(1, 32, 32\): the run's network takes \(1, 64, 64\)"
    ):
        codes.encode(lvae_min.load(run), small)


@pytest.mark.parametrize("part", codes.PARTS)
def test_an_exported_half_runs_without_this_package_and_equals_it(run, small, tmp_path, part):
    file = lvae_min.export(run, tmp_path / f"{part}.pt2", part)
    vae = lvae_min.load(run)
    given = torch.randn(7, 5) if part == "decoder" else small.batch(torch.arange(7)).float()
    torch.save(given, tmp_path / "given.pt")
    half = sum(weights.nbytes for weights in getattr(vae, part).parameters())
    assert half < file.stat().st_size < 1.2 * half  # and nothing of the other
    program = (
        "import sys, torch\n"
        "found = torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2]))\n"
        "assert 'lvae_min' not in sys.modules\n"
        "torch.save(found, sys.argv[3])\n"
    )
    files = [file, tmp_path / "given.pt", tmp_path / "found.pt"]
    subprocess.run([sys.executable, "-c", program, *map(str, files)], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "found.pt")
    wanted = vae.decode(given) if part == "decoder" else vae.encode(given)
    for one, other in zip(
        [found] if part == "decoder" else found, [wanted] if part == "decoder" else wanted, strict=True
    ):
        assert one.shape == other.shape and (one - other).abs().max() < 1e-5


@BUFFER
@pytest.mark.parametrize("part", codes.PARTS)
def test_a_cnn_is_exported_without_a_warning(tmp_path, monkeypatch, part):
    vae = VAE((3, 64, 64), 7, "cnn")
    monkeypatch.setattr(codes, "load", lambda _: vae)
    given = {"decoder": torch.randn(3, 7), "encoder": torch.rand(3, 3, 64, 64)}[part]
    expected = vae.decode(given) if part == "decoder" else vae.encode(given)[0]
    found = torch.export.load(lvae_min.export(tmp_path, tmp_path / "half.pt2", part)).module()(given)
    assert torch.allclose(found if part == "decoder" else found[0], expected, atol=1e-5)


def test_export_says_which_names_it_takes(run, tmp_path):
    with pytest.raises(ValueError, match="expected a name that ends in .pt2"):
        lvae_min.export(run, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="part 'both': expected encoder or decoder"):
        lvae_min.export(run, tmp_path / "a.pt2", "both")


def test_rows_in_chunks_make_the_archive_that_numpy_reads(tmp_path):
    rows = np.arange(30, dtype=np.uint8).reshape(10, 3)
    with open(tmp_path / "a.npz", "wb") as stream:
        npy.write_npz_rows(stream, "images", rows.shape, np.uint8, [rows[:4], rows[4:]])
    assert (np.load(tmp_path / "a.npz")["images"] == rows).all()
    assert (npy.read_npz(tmp_path / "a.npz", ("images",))["images"] == rows).all()
    with open(tmp_path / "a.npz", "wb") as stream, pytest.raises(ValueError, match="4 rows of 10"):
        npy.write_npz_rows(stream, "images", rows.shape, np.uint8, [rows[:4]])


def test_latents_are_named_after_factors_where_there_are_several(small):
    vae, index = VAE(small.shape, small.latents, small.network, small.binary), np.arange(40)
    one = SimpleNamespace(
        batch=small.batch, device=small.device, factors=small.factors, factor_names=["digit"]
    )
    known = small.factors(index)[:, -1:] + np.zeros((1, small.latents))  # each knows the last factor
    for dataset, lines in ((small, 3), (one, 2)):
        titles = latents.latent_titles(dataset, index, known, latents.mean_kl(vae, dataset, index))
        assert [len(title.split("\n")) for title in titles] == [lines] * small.latents
    titles = latents.latent_titles(small, index, known, np.linspace(0, 1, small.latents))
    assert titles[0] == "z0\nKL 0.0\n-" and titles[-1] == f"z4\nKL 1.0\n{small.factor_names[-1]}"


def test_of_many_latents_those_with_the_largest_kl_are_drawn(small, tmp_path):
    """All of a thousand would make a GIF wider than the format admits."""
    vae, index = VAE(small.shape, 1000, "mlp", True), np.arange(40)
    kl = latents.mean_kl(vae, small, index)
    codes = np.zeros((40, 1000))
    pairs, moved, titles, span = latents.shown(vae, small, index, codes)
    largest = sorted(np.argsort(-kl)[: latents.MOST_SHOWN])
    assert [title.split("\n")[0] for title in titles] == [f"z{latent}" for latent in largest]
    image = small.batch(torch.from_numpy(index[:1]))
    alone = latents.traversal(vae, image, which=[largest[3]])
    torch.testing.assert_close(torch.from_numpy(moved[3]), alone[0], atol=1e-4, rtol=0)
    plots.traversals(tmp_path, np.zeros((latents.MOST_SHOWN, 3, 3, 128, 128)), titles, span, "")
    with Image.open(tmp_path / "traversal.gif") as image:
        assert image.size == (latents.MOST_SHOWN * (256 + plots.GAP) - plots.GAP, 256)
