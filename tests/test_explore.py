"""lvae_min/explore/: runs explored, latents moved, and the page in a real browser."""

import base64
import fcntl
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import small_dsprites

import lvae_min.train
from lvae_min import data, latents, load, model
from lvae_min.datasets import specs
from lvae_min.explore import gallery, page
from lvae_min.explore import server as explore
from lvae_min.explore.gallery import FINISHED, STOPPED, TRAINING, Explorer, Gallery, View, open_folder
from lvae_min.io.checkpoints import load_checkpoint

HERE = Path(__file__).resolve().parent
ITERATIONS = 30


def train(folder: Path, *more: str) -> None:
    command = [sys.executable, str(HERE / "small_run.py"), "--model", "lvae", "--iterations", str(ITERATIONS)]
    command += ["--threads", "1", "--loss", "torch", "--out", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of one finished run and one unfinished one."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder)
    (run,) = folder.iterdir()
    half = folder / "half"
    half.mkdir()
    for name in ("config.json", "log.jsonl", "last.pt", "lock"):
        shutil.copy(run / name, half / name)
    log = (half / "log.jsonl").read_bytes().splitlines(keepends=True)
    (half / "log.jsonl").write_bytes(b"".join(log[:4]) + log[4][:20])  # half a line: it is being written
    run.rename(folder / "whole")
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A copy of these runs, with the small data set and the small network."""
    monkeypatch.setattr(model, "HIDDEN", 32)
    monkeypatch.setattr(data, "load", small_dsprites)
    shutil.copytree(trained, tmp_path / "runs")
    return Gallery(tmp_path / "runs", tmp_path / "data")


def blobs(channels: int) -> data.Dataset:
    """200 images without factors."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 64, 64, channels), np.uint8)
    return data.Dataset("own", "", specs.Spec((channels, 64, 64), {}), data.Pixels(pixels))


# The network and its images --------------------------------------------------------------------------------


def test_latents_are_ordered_by_kl_and_labelled_with_it_and_a_factor(runs):
    explorer = runs.explorer("whole")
    split = data.Split.of(1920)
    index = np.concatenate([split.test, split.validation, split.training])
    mu, logvar = load(runs.folder / "whole").encode(explorer.dataset.batch(torch.from_numpy(index)))
    kl = (0.5 * (mu**2 + logvar.exp() - 1 - logvar)).mean(0)
    assert explorer.kl == pytest.approx(kl.tolist(), rel=1e-3)
    assert explorer.order == kl.argsort(descending=True).tolist()
    names = explorer.dataset.factor_names
    for latent in np.flatnonzero(kl > 0.1):
        assert explorer.titles[latent].startswith(f"z{latent}, KL {kl[latent]:.2f} nats: ")
        assert explorer.titles[latent].split(": ")[1] in names
    assert explorer.limit >= mu.abs().max() and explorer.limit >= 3


def test_the_code_of_an_image_decodes_to_its_reconstruction(runs):
    explorer, vae = runs.explorer("whole"), load(runs.folder / "whole")
    index = int(explorer.images[3])
    x = small_dsprites().batch(torch.tensor([index]))
    assert np.array_equal(explorer.image(index), x[0, 0, :, :, None].numpy() * 255)
    expected = (vae.decode(vae.encode(x)[0]) * 255).round().byte()[0, 0, :, :, None].numpy()
    assert np.array_equal(explorer.decode(explorer.code(index)[None])[0], expected)
    images, reconstructions = explorer.reconstructions(5)
    assert np.array_equal(images[3], explorer.image(index))
    assert np.abs(reconstructions[3].astype(int) - expected).max() <= 1  # a batch of another size rounds


def test_shown_images_are_not_of_the_training_part(runs):
    training = data.Split.of(1920).training
    assert not np.isin(runs.explorer("whole").images, training).any()


def test_a_traversal_moves_one_latent_of_the_present_code(runs):
    explorer, z = runs.explorer("whole"), np.arange(5, dtype=np.float32) / 5
    images = explorer.traversal(z, 2)
    assert images.shape == (latents.STEPS, 64, 64, 1)
    for step, value in ((0, -latents.SPAN), (latents.STEPS - 1, latents.SPAN)):
        moved = z.copy()
        moved[2] = value
        assert np.abs(explorer.decode(moved[None])[0].astype(int) - images[step]).max() <= 1
    assert not np.array_equal(images[0], images[-1])
    assert z.tolist() == (np.arange(5, dtype=np.float32) / 5).tolist()


def test_a_walk_leads_from_one_code_to_the_other(runs):
    explorer = runs.explorer("whole")
    first, second = explorer.images[:2].tolist()
    assert np.array_equal(explorer.interpolate(first, second, 0), explorer.code(first))
    assert np.array_equal(explorer.interpolate(first, second, 1), explorer.code(second))
    middle = (explorer.code(first) + explorer.code(second)) / 2
    assert explorer.interpolate(first, second, 0.5) == pytest.approx(middle, abs=1e-6)
    images = explorer.walk(first, second)
    assert len(images) == gallery.WALK_STEPS
    assert np.abs(images[-1].astype(int) - explorer.decode(explorer.code(second)[None])[0]).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_images_without_factors_are_explored_in_grey_and_colour(channels):
    dataset = blobs(channels)
    explorer = Explorer(model.VAE(dataset.shape, 4).eval(), dataset, 7)
    assert explorer.image(5).tolist() == dataset.batch(torch.tensor([5]))[0].permute(1, 2, 0).tolist()
    assert explorer.decode(np.zeros((2, 4), np.float32)).shape == (2, 64, 64, channels)
    assert all(":" not in title and "nats" in title for title in explorer.titles)
    view = View(["own"], "own", None, explorer)
    assert page.pictures(view).count("<img") == 2 and page.walk(view).count("<img") == gallery.WALK_STEPS + 2


def test_a_network_without_its_images_decodes_codes(runs, monkeypatch):
    def missing(*_):
        raise ValueError("data/mpi3d: <b>not there")

    monkeypatch.setattr(data, "load", missing)
    view = View(runs.names(), "whole", None, runs.explorer("whole"))
    assert view.first is None and not view.z.any()
    view.move(1, 2.0)
    assert page.pictures(view).count("<img") == 1
    assert "data/mpi3d: &lt;b&gt;not there" in page.pictures(view)
    assert page.strip(view).count("<img") == latents.STEPS
    assert page.walk(view) == page.samples(view.explorer) == ""


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"takes images \(1, 64, 64\), own has \(3, 64, 64\)"):
        Explorer(model.VAE((1, 64, 64), 4), blobs(3), 1)


# What a visitor does ---------------------------------------------------------------------------------------


@pytest.fixture
def view(runs):
    return View(runs.names(), "whole", None, runs.explorer("whole"))


def test_a_slider_moves_the_latent_of_its_rank(view):
    latent, before = view.explorer.order[1], view.z
    view.move(1, 1.5)
    assert view.z[latent] == 1.5 and view.touched == latent
    assert np.array_equal(np.delete(view.z, latent), np.delete(before, latent))
    assert view.traversal()[1] == 8  # of -2.5, -2.0, ..., 2.5


def test_back_returns_to_the_code_of_the_image(view):
    code = view.explorer.code(view.first)
    for change in (view.prior, lambda: view.move(0, 3.0), lambda: view.walk_to(0.5)):
        change()
        assert not np.array_equal(view.z, code)
        view.back()
        assert np.array_equal(view.z, code) and view.share == 0


def test_random_codes_are_from_the_prior(view):
    view.random, codes = np.random.default_rng(0), []
    for _ in range(2000):
        view.prior()
        codes.append(view.z)
    assert np.mean(codes, 0) == pytest.approx(0, abs=0.1) and np.std(codes, 0) == pytest.approx(1, abs=0.1)


def test_another_image_brings_its_code(view):
    seen = set()
    for _ in range(20):
        view.another_first()
        seen.add(view.first)
        assert np.array_equal(view.z, view.explorer.code(view.first))
    assert len(seen) > 5 and seen <= set(view.explorer.images.tolist())


def test_a_walk_is_drawn_anew_for_another_image(view):
    before = view.walk()
    assert view.walk() is before
    view.second = int(view.explorer.images[7])
    assert not np.array_equal(view.walk(), before)


def test_a_set_of_one_image_can_be_explored():
    dataset = blobs(1)
    explorer = Explorer(model.VAE(dataset.shape, 2).eval(), dataset, 1)
    explorer.images = explorer.images[:1]
    view = View([], "own", None, explorer)
    assert view.first == view.second == explorer.images[0]


# How runs stand --------------------------------------------------------------------------------------------


def test_a_finished_run_shows_its_results(runs):
    status = runs.status("whole")
    results = json.loads((runs.folder / "whole/results.json").read_bytes())
    assert (status.phase, status.iteration, status.iterations) == (FINISHED, ITERATIONS, ITERATIONS)
    assert status.scores == {**results["scores"], "rec_mean": results["rec_mean"]}
    assert runs.explorer("whole").iteration == results["selected"]["iteration"]
    shown = page.facts(status)
    assert f"<small>MIG</small>{results['scores']['mig']:.3f}" in shown
    assert f"<small>SAP</small>{results['scores']['sap_classification']:.3f}" in shown
    assert f"<small>SAP (regression)</small>{results['scores']['sap']:.3f}" in shown
    assert f"<small>rec (z = mu)</small>{results['rec_mean']:.2f}<" in shown
    assert f"<small>rec (sampled z)</small>{results['scores']['rec']:.2f}<" in shown
    assert f"test images, iteration {results['selected']['iteration']} (selected)<" in shown


def test_a_finished_run_shows_the_results_of_the_network_that_is_shown(runs):
    file = runs.folder / "whole/results.json"
    results = json.loads(file.read_bytes())
    for which, shown in ((gallery.SELECTED, results["scores"]), (gallery.LATEST, results["last"])):
        status = runs.status("whole", which)
        assert status.scores["rec"] == shown["rec"] and status.scored.endswith(f"({which})")
    results["last"] = {"iteration": 7, "kl": 1.0, "mig": 0.25}
    file.write_text(json.dumps(results))
    status = runs.status("whole", gallery.LATEST)
    assert status.scores["mig"] == 0.25 and status.scored == "test images, iteration 7 (latest)"
    del results["last"]  # as runs of former versions
    file.write_text(json.dumps(results))
    assert runs.status("whole", gallery.LATEST) == runs.status("whole")


def test_an_unfinished_run_shows_its_last_evaluation_and_its_latest_network(runs):
    status = runs.status("half")
    last = json.loads((runs.folder / "half/log.jsonl").read_bytes().splitlines()[3])
    assert (status.phase, status.iteration) == (STOPPED, last["step"])  # not the half line
    assert status.scores["rec"] == last["validation"]["rec"] and status.scores["beta"] == last["beta"]
    assert f"{last['step']} of {ITERATIONS} iterations" in page.facts(status)
    state = torch.load(runs.folder / "half/last.pt", "cpu", weights_only=True)
    explorer = runs.explorer("half")
    assert explorer.iteration == state["iteration"]
    for name, weights in explorer.vae.state_dict().items():
        assert torch.equal(weights, state["vae"][name])


def test_a_network_and_its_iteration_are_read_at_one_time(runs, monkeypatch):
    seen = []

    def watched(file):
        seen.append(file)
        return load_checkpoint(file)

    for module in (gallery, lvae_min.train):
        monkeypatch.setattr(module, "load_checkpoint", watched)
    runs.explorer("whole")
    assert seen == [runs.folder / "whole/best.pt"]


def test_the_latest_network_of_a_finished_run_is_available_too(runs):
    selected, latest = (runs.explorer("whole", which) for which in (gallery.SELECTED, gallery.LATEST))
    assert (selected.which, latest.which) == (gallery.SELECTED, gallery.LATEST)
    assert latest.iteration == ITERATIONS
    assert runs.explorer("whole").which == gallery.SELECTED and runs.explorer("half").which == gallery.LATEST
    state = torch.load(runs.folder / "whole/last.pt", "cpu", weights_only=True)["vae"]
    assert all(torch.equal(weights, state[name]) for name, weights in latest.vae.state_dict().items())


def test_a_run_is_in_training_while_a_process_holds_its_lock(runs):
    before = runs.stamps("half")
    with open(runs.folder / "half/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert runs.status("half").phase == TRAINING
        assert runs.stamps("half") != before
    assert runs.status("half").phase == STOPPED
    with open(runs.folder / "half/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nor does a check keep it


def test_the_time_left_follows_from_the_rate_that_was_seen(runs, monkeypatch):
    monkeypatch.setattr(gallery.time, "monotonic", iter([100.0, 104.0]).__next__)
    assert runs.left("half", 10, 30) is None
    assert runs.left("half", 20, 30) == pytest.approx(4.0)
    assert runs.status("half").phase == STOPPED and not runs.seen  # a pause is no training time


def test_a_network_that_was_written_again_is_read_again(runs):
    before = runs.explorer("half")
    assert runs.explorer("half") is before
    state = torch.load(runs.folder / "half/last.pt", "cpu", weights_only=True)
    torch.save({**state, "iteration": 29}, runs.folder / "half/last.pt")
    os.utime(runs.folder / "half/last.pt", (9e9, 9e9))
    assert runs.explorer("half").iteration == 29


def test_a_renewed_network_keeps_the_image_and_the_latent(runs, view):
    view.another_first()
    view.move(2, 1.0)
    first, touched, later = view.first, view.touched, runs.explorer("half")
    view.renew(later)
    assert (view.first, view.touched) == (first, touched)
    assert np.array_equal(view.z, later.code(first))


def test_few_networks_are_kept_in_memory(runs):
    for number in range(6):
        shutil.copytree(runs.folder / "whole", runs.folder / f"copy{number}")
        runs.explorer(f"copy{number}")
    assert len(runs.explorers) == gallery.KEPT


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", b"{", "config.json: not the settings of a run"),
        ("config.json", b'{"settings": {}}', "config.json: not the settings of a run"),
        ("results.json", b"{}", "results.json: damaged"),
        ("log.jsonl", b"{}\n", "log.jsonl: line 1 is damaged"),
    ],
)
def test_damaged_files_are_named(runs, file, content, message):
    (runs.folder / "whole" / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        runs.status("whole")


@pytest.mark.parametrize("run, file", [("whole", "best.pt"), ("half", "last.pt")])
def test_a_damaged_network_is_named(runs, run, file):
    torch.save({"iteration": 1, "vae": {}}, runs.folder / run / file)
    with pytest.raises(ValueError, match=f"{file}: not "):
        runs.explorer(run)


def test_a_name_does_not_lead_out_of_the_folder(runs):
    shutil.copytree(runs.folder / "whole", runs.folder.parent / "outside")
    with pytest.raises(ValueError, match="is no run"):
        runs.explorer("../outside")


def test_text_of_a_run_is_no_markup(runs):
    (runs.folder / "<i>").mkdir()
    content = json.loads((runs.folder / "half/config.json").read_bytes())
    content["settings"]["dataset"] = "<script>"
    (runs.folder / "<i>/config.json").write_text(json.dumps(content))
    shown = page.facts(runs.status("<i>"))
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_a_picture_is_the_image_itself():
    for channels in (1, 3):
        image = np.random.default_rng(0).integers(0, 256, (64, 64, channels), np.uint8)
        kind, content = page.source(image).split(",")
        assert kind == "data:image/png;base64"
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert np.array_equal(found.reshape(image.shape), image)


# The command -----------------------------------------------------------------------------------------------


class Part:
    """Anything of gradio's: a component, a context, or an event, whose function is kept by its name."""

    def __init__(self, functions):
        self.functions = functions

    def __call__(self, *_, **__):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def load(self, function, *_, **__):
        self.functions["load"] = function

    def tick(self, function, *_, **__):
        self.functions["tick"] = function

    def input(self, *_, **__):
        pass

    click = input


class NoGradio(Part):
    def __getattr__(self, _):
        return self

    def update(self, **what):
        return what

    def skip(self):
        return None


def test_a_page_that_is_loaded_again_lists_a_run_that_has_come(runs, monkeypatch):
    functions = {}
    page.page(NoGradio(functions), runs, None, SimpleNamespace(message=lambda: ""))
    shutil.copytree(runs.folder / "half", runs.folder / "newest")
    view = functions["load"]("whole")[1]
    choices, *_ = functions["tick"](view, "whole")
    assert choices == {"choices": runs.names()} and "newest" in runs.names()
    assert functions["tick"](view, "whole")[0] is None  # told once


def test_a_run_whose_images_have_another_shape_now_still_decodes(runs, monkeypatch):
    settings = json.loads((runs.folder / "whole/config.json").read_bytes())
    settings["settings"]["dataset"] = "photos/"
    (runs.folder / "whole/config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(data, "load", lambda *_: blobs(3))
    explorer = runs.explorer("whole")
    assert explorer.dataset is None and explorer.missing.startswith("they have the shape (3, 64, 64) now")
    assert explorer.decode(np.zeros((1, 5), np.float32)).shape == (1, 64, 64, 1)
    (runs.folder / "whole/best.pt").write_bytes(b"damaged")
    monkeypatch.setattr(data, "load", small_dsprites)
    runs.datasets.clear()
    assert runs.explorer("whole", gallery.LATEST).which == gallery.LATEST  # another network is there


def test_images_that_have_changed_since_the_run_began_are_marked(runs, monkeypatch):
    assert not runs.explorer("whole").changed
    assert "have changed" not in page.samples(runs.explorer("whole"))
    settings = json.loads((runs.folder / "half/config.json").read_bytes())
    settings["content"] = {"pixels": 1, "labels": None}
    (runs.folder / "half/config.json").write_text(json.dumps(settings))
    explorer = runs.explorer("half")
    for pixels, changed in ((1, False), (2, True)):
        explorer.dataset.content |= {"pixels": pixels, "labels": 5}  # other labels move no image
        runs.explorers.clear()
        found = runs.explorer("half")
        assert found.changed == changed == ("have changed" in page.samples(found))


@pytest.fixture
def served(monkeypatch):
    """The command up to where it would serve: what it would show."""
    shown = []
    monkeypatch.setattr(explore, "import_gradio", lambda: None)
    monkeypatch.setattr(page, "page", lambda _, runs, first, training: shown.append((runs.folder, first)))
    monkeypatch.setattr(explore, "serve", lambda *_: None)
    monkeypatch.setattr(explore.signal, "signal", lambda *_: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return shown


def error_line(arguments, capsys) -> str:
    """The error message of a command: one line."""
    assert explore.command([*map(str, arguments), "--no-browser"]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and "Traceback" not in output
    return output


def test_a_folder_of_runs_or_one_run_is_shown(runs, served, capsys):
    assert explore.command([str(runs.folder), "--port", "0", "--no-browser"]) == 0
    assert explore.command([str(runs.folder / "half"), "--port", "0", "--no-browser"]) == 0
    assert served == [(runs.folder, None), (runs.folder, "half")]
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_without_runs_the_default_folder_is_made_later(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert explore.command(["--port", "0", "--no-browser"]) == 0
    assert served == [(Path("runs"), None)]


def test_what_is_no_run_is_refused(runs, served, tmp_path, capsys):
    port = ["--port", "0"]
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/notes.txt").touch()
    assert "strange: is no run and holds none" in error_line([tmp_path / "strange", *port], capsys)
    assert "nowhere: not there" in error_line([tmp_path / "nowhere", *port], capsys)
    assert "notes.txt: not a folder" in error_line([tmp_path / "strange/notes.txt", *port], capsys)


def test_a_run_without_a_network_is_refused_unless_it_trains(runs, served, capsys):
    (runs.folder / "half/last.pt").unlink()
    assert "half: has no network yet; the first is saved within about five minutes" in error_line(
        [runs.folder / "half", "--port", "0"], capsys
    )
    with open(runs.folder / "half/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert open_folder(runs.folder / "half", runs.archives)[1] == "half"


def test_a_busy_port_is_reported(served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port {port}: is in use; give another" in error_line(["--port", port], capsys)
    assert "--port 70000: expected 0 to 65535" in error_line(["--port", 70000], capsys)


def test_a_missing_gradio_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install -e ".[explore]"' in error_line([], capsys)


@pytest.fixture
def training(tmp_path, monkeypatch):
    """The run of the quick start, on the small data set."""
    monkeypatch.setattr(explore, "RUN", [str(HERE / "small_run.py")])
    monkeypatch.setattr(explore, "QUICK_START", ["--model", "lvae", "--loss", "torch", "--threads", "1"])
    training = explore.Training(Gallery(tmp_path / "runs", tmp_path / "data"))
    yield training
    training.stop()
    training.output.close()


def test_the_first_run_is_started_once_and_stopped_with_a_checkpoint(training, tmp_path, capsys):
    assert training.message() == ""
    training.start()
    process = training.process
    training.start()
    assert training.process is process and training.message().startswith("Starting")
    until((tmp_path / "runs/dsprites-lvae/config.json").exists)
    training.stop()
    assert process.returncode == 130 and (tmp_path / "runs/dsprites-lvae/last.pt").exists()
    assert "continue it with" in capsys.readouterr().out


def test_a_first_run_that_fails_is_reported(training):
    training.command[training.command.index("lvae")] = "nonsense"
    training.start()
    until(lambda: training.process.poll() is not None)
    assert training.message().startswith("The training failed: run.py: --model nonsense: expected ")


def test_a_first_run_that_has_ended_can_be_started_again(training):
    training.command = [sys.executable, "-c", ""]
    training.start()
    first = training.process
    until(lambda: first.poll() is not None)
    assert training.message() == ""
    training.start()
    assert training.process is not first


def until(holds, seconds: float = 120.0):
    """What `holds()` returns once it is true."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.05)
    return found


# The page in a browser -------------------------------------------------------------------------------------

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = [name for name in ("gradio", "selenium") if util.find_spec(name) is None]
MISSING += [name for name, found in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if not found]


def in_browser(test):
    why = f"needs {', '.join(MISSING)}"
    return pytest.mark.browser(pytest.mark.skipif(bool(MISSING), reason=why)(test))


# The command on the small data set; each address that its process connects to or asks for is written down.
SERVER = """
import json, sys
sys.path[:0] = sys.argv[1:3]
output = open(sys.argv[3], "a", buffering=1)
def note(event, details):
    if event in ("socket.connect", "socket.sendto"):
        output.write(json.dumps(str(details[1])) + "\\n")
    elif event == "socket.getaddrinfo":
        output.write(json.dumps(str(details[0])) + "\\n")
sys.addaudithook(note)
import small_run
from lvae_min import data, model
from lvae_min.explore import server as explore
model.HIDDEN, data.load = 32, small_run.small_dsprites
explore.RUN = [small_run.__file__]
explore.QUICK_START = ["--model", "lvae", "--loss", "torch", "--iterations", "3000", "--threads", "1"]
sys.exit(explore.command(sys.argv[4:]))
"""
MOVE = """
const slider = document.querySelector(arguments[0] + " input[type=range]");
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(slider, arguments[1]);
slider.dispatchEvent(new Event("input", {bubbles: true}));
"""


@pytest.fixture
def open_pages():
    """What is closed after the command has ended."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(tmp_path, open_pages):
    """Start the command on a folder; its address."""
    processes = []

    def start(folder: Path) -> str:
        command = [sys.executable, "-c", SERVER, str(HERE.parent), str(HERE), str(tmp_path / "connections")]
        command += [str(folder), "--port", "0", "--no-browser", "--data", str(tmp_path)]
        with open(tmp_path / "output", "wb") as output:
            calm = {**os.environ, "PYTHONWARNINGS": "ignore"}  # gradio's own, an error where all are
            processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=calm))
        line = until(lambda: processes[-1].poll() is None and (tmp_path / "output").read_text())
        return next(word for word in line.split() if word.startswith("http"))

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    lines = (tmp_path / "output").read_text().splitlines()
    assert [line for line in lines if not line.startswith("explore: ")] == []
    hosts = (tmp_path / "connections").read_text().splitlines()
    assert [host for host in hosts if "127.0.0.1" not in host and "localhost" not in host] == []


@pytest.fixture
def browser(monkeypatch):
    """A headless Chromium that writes down what it fetches."""
    monkeypatch.setenv("SE_AVOID_STATS", "true")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1040"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield chromium
    chromium.quit()


@pytest.mark.skipif(not util.find_spec("gradio"), reason="needs gradio")
def test_ctrl_c_while_a_page_is_open_prints_no_error(runs, serve, open_pages):
    """`serve` interrupts the command while this connection is open, and looks at what it prints."""
    address = f"{serve(runs.folder)}/gradio_api/heartbeat/any"  # where an open page stays connected
    page = open_pages.enter_context(urlopen(address, timeout=60))
    assert page.readline() == b"data: ALIVE\n"


def element(browser, name: str):
    found = browser.find_elements("css selector", f"#{name}")
    return found[0] if found else None


def text(browser, name: str) -> str:
    found = element(browser, name)
    return found.text if found else ""


def click(browser, selector: str) -> None:
    """Click what a CSS selector finds, once it can be clicked: the parts of the page come one by one."""
    from selenium.common import exceptions as errors

    not_yet = (
        errors.NoSuchElementException,
        errors.ElementNotInteractableException,
        errors.ElementClickInterceptedException,
        errors.StaleElementReferenceException,
    )

    def clicked() -> bool:
        try:
            browser.find_element("css selector", selector).click()
        except not_yet:
            return False
        return True

    until(clicked)


def decoded(browser) -> str | None:
    """The picture that the present code decodes to."""
    return browser.execute_script("return document.getElementById('decoded')?.src")


def changes(browser, act) -> None:
    """Whether the decoded picture changes by an act."""
    before = until(lambda: decoded(browser))
    act()
    until(lambda: decoded(browser) != before)


def fetched(browser) -> list[str]:
    """Addresses of all that the page has asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


@in_browser
def test_in_a_browser_a_slider_moves_and_the_picture_changes(runs, serve, browser):
    address = serve(runs.folder / "whole")
    browser.get(address)
    until(lambda: decoded(browser))
    for act in (
        lambda: browser.execute_script(MOVE, "#latent-0", "2.4"),
        lambda: click(browser, "#back"),
        lambda: click(browser, "#prior"),
        lambda: click(browser, "#another"),
        lambda: browser.execute_script(MOVE, "#share", "1"),
    ):
        changes(browser, act)
    until(lambda: "decoded 100% of the way from A to B" in text(browser, "pictures"))
    assert len(browser.find_elements("css selector", "#strip img")) == latents.STEPS
    shown = [element(browser, f"latent-{rank}") is not None for rank in range(6)]
    assert shown == [True] * 5 + [False]
    height = browser.execute_script("return document.documentElement.scrollHeight")
    assert height <= 900
    with urlopen(address) as answer:
        assert answer.headers["Content-Security-Policy"] == explore.POLICY
    with pytest.raises(HTTPError, match="400"):  # another site's name for this address
        urlopen(Request(address, headers={"Host": "elsewhere.example"}))
    urls = fetched(browser)
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith((address, "data:", "blob:"))] == []


@in_browser
def test_in_a_browser_a_first_run_is_started_and_seen_to_learn(tmp_path, serve, browser):
    (tmp_path / "runs").mkdir()
    browser.get(serve(tmp_path / "runs"))
    click(browser, "#start")
    until(lambda: "in training" in text(browser, "about"))
    until(lambda: decoded(browser))
    changes(browser, lambda: None)  # by a later network


@in_browser
def test_in_a_browser_another_run_is_chosen_where_one_has_no_network(runs, serve, browser):
    (runs.folder / "half/last.pt").unlink()
    os.utime(runs.folder / "half/log.jsonl", (9e9, 9e9))  # the latest
    browser.get(serve(runs.folder))
    until(lambda: "half: has no network yet" in text(browser, "pictures"))
    until(lambda: "stopped" in text(browser, "about"))
    assert decoded(browser) is None
    click(browser, "#run input")
    click(browser, "[role=option][aria-label=whole]")
    until(lambda: decoded(browser) and "finished" in text(browser, "about"))
    click(browser, "#which input[value=latest]")
    until(lambda: f"iteration {ITERATIONS}" in text(browser, "more"))
    until(lambda: f"iteration {ITERATIONS} (latest)" in text(browser, "about"))
