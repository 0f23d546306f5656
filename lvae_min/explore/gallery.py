"""A folder of runs to explore: the state of each, and the images its network makes (Fig. 4, by hand).

What `explore` shows, as numpy arrays and text, without its page. An image is (H, W, C) uint8, C 1 or 3;
several are (S, H, W, C); a code is z (L,) float32.
"""

import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from lvae_min import data, latents
from lvae_min.io import records
from lvae_min.io.atomic import held
from lvae_min.io.checkpoints import check_tensors, load_checkpoint
from lvae_min.io.text import brief, one_line
from lvae_min.losses import kl_terms
from lvae_min.model import VAE
from lvae_min.stored import own_images, stored_content
from lvae_min.train import selected_network

SPAN, STEPS = latents.SPAN, latents.STEPS  # of a traversal
WALK_STEPS = 11  # images on the way from one to another
SAMPLE_SIZE = 2000  # images from which a latent's KL and factor are estimated
KEPT = 4  # networks in memory
FINISHED, TRAINING, STOPPED = "finished", "in training", "stopped"
SELECTED, LATEST = "selected", "latest"  # networks of a run: best.pt, last.pt
CONFIG = {"settings": {"dataset": records.text, "model": records.text, "iterations": records.count}}


@dataclass(frozen=True)
class Status:
    """How far a run is.

    phase       FINISHED, TRAINING or STOPPED
    iteration   of the log's last line, of `iterations`
    scores      the latest, in the order of results.json; `scored` names the images and the iteration
    left        seconds, while it trains and once its rate is known
    lines       the log
    """

    phase: str
    settings: dict
    iteration: int
    iterations: int
    scores: dict[str, float]
    scored: str
    left: float | None
    lines: list[dict]


class Explorer:
    """One network and the images it was trained on.

    vae        the network
    dataset    None where its images are not there: then only codes are decoded
    iteration  of the network
    which      SELECTED or LATEST
    missing    why there are no images
    changed    whether these are other images, or in another order, than those that the run began with
    """

    changed = False

    def __init__(
        self, vae: VAE, dataset: data.Dataset | None, iteration: int, which: str = LATEST, missing: str = ""
    ):
        self.vae, self.dataset, self.iteration = vae, dataset, iteration
        self.which, self.missing = which, missing
        self.latents, self.limit = vae.latents, 3
        self.kl: list[float] = []
        self.titles = [f"z{latent}" for latent in range(self.latents)]
        self.order = list(range(self.latents))
        self.images = np.zeros(0, np.int64)  # that are shown: those it was not trained on
        if dataset is None:
            return
        if tuple(dataset.shape) != vae.shape:
            raise ValueError(f"its network takes images {vae.shape}, {dataset.name} has {dataset.shape}")
        split = data.Split.of(len(dataset))
        self.images = split.test if len(split.test) else split.training
        self.scale = dataset.scale
        self.describe(dataset, np.concatenate([split.test, split.validation, split.training])[:SAMPLE_SIZE])

    def describe(self, dataset: data.Dataset, index: np.ndarray) -> None:
        """The KL of each latent in nats, a mean over images `index`, and the factor it knows most about."""
        mu, logvar = latents.posteriors(self.vae, dataset, index)
        kl = kl_terms(mu, logvar).mean(0).numpy()
        self.kl = kl.tolist()
        self.order = sorted(self.order, key=lambda latent: -self.kl[latent])
        self.limit = max(self.limit, math.ceil(mu.abs().max()))
        factors = latents.best_factors(dataset, index, mu.numpy(), kl)
        self.titles = [
            f"z{latent}, KL {value:.2f} nats" + f": {name}" * (name not in ("", "-"))
            for latent, (value, name) in enumerate(zip(self.kl, factors, strict=True))
        ]

    def batch(self, index: list[int]) -> torch.Tensor:
        if self.dataset is None:
            raise ValueError(f"there are no images: {self.missing}")
        return self.dataset.batch(torch.tensor(index, dtype=torch.int64, device=self.dataset.device))

    def image(self, index: int) -> np.ndarray:
        return self.pixels(self.batch([index]) * self.scale)[0]

    def code(self, index: int) -> np.ndarray:
        """The mean of the posterior of image `index`."""
        return self.vae.encode(self.batch([index]))[0][0].numpy()

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Images (S, H, W, C) of codes (S, L)."""
        return self.pixels(self.vae.decode(torch.from_numpy(codes)))

    def traversal(self, z: np.ndarray, latent: int) -> np.ndarray:
        """Images (STEPS, H, W, C): one latent of a code moved from -SPAN to SPAN."""
        codes = np.tile(z, (STEPS, 1))
        codes[:, latent] = np.linspace(-SPAN, SPAN, STEPS)
        return self.decode(codes)

    def interpolate(self, first: int, second: int, share: float) -> np.ndarray:
        """The code on the straight line from that of an image (share 0) to that of another (share 1)."""
        return (1 - np.float32(share)) * self.code(first) + np.float32(share) * self.code(second)

    def walk(self, first: int, second: int) -> np.ndarray:
        """Images (WALK_STEPS, H, W, C) on the way from one image to another."""
        shares = np.linspace(0, 1, WALK_STEPS)
        return self.decode(np.stack([self.interpolate(first, second, share) for share in shares]))

    def reconstructions(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` images and their reconstructions from z = mu, (S, H, W, C) each."""
        images = self.batch(self.images[:count].tolist())
        return self.pixels(images * self.scale), self.decode(self.vae.encode(images)[0].numpy())

    @staticmethod
    def pixels(images: torch.Tensor) -> np.ndarray:
        """Images (S, C, H, W) in [0, 1] as (S, H, W, C) uint8."""
        return (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


class View:
    """What one visitor sees: a network, two of its images A and B, a code, the latent last touched.

    name     of the run; None where there is none yet
    names    of the runs that the visitor can choose from
    stamps   of what is shown, see `Gallery.stamps`
    network  and its images; None where there is none yet
    which    network was asked for: SELECTED, LATEST, or None
    first    the number of A, None where there are no images; `second` that of B
    z        (L,), and `how` it came about, in words
    touched  the latent last touched
    share    of the way from A to B
    """

    def __init__(self, names=(), name=None, stamps=None, network: Explorer | None = None, which=None):
        self.names, self.name, self.stamps, self.network = list(names), name, stamps, network
        self.which = which
        self.random, self.share, self.how = np.random.default_rng(), 0.0, ""
        self.first: int | None = None
        self.second: int | None = None
        self.z, self.touched = np.zeros(0, np.float32), 0
        self.way: tuple[tuple, np.ndarray] | None = None  # walked last, and its images
        if network is not None:
            self.touched = network.order[0]
            if len(network.images):
                self.first, self.second = (int(image) for image in np.resize(network.images, 2))
            self.back()

    @property
    def explorer(self) -> Explorer:
        """The network and its images. Raises ValueError where there is none yet."""
        if self.network is None:
            raise ValueError("no network is chosen")
        return self.network

    @property
    def ends(self) -> tuple[int, int]:
        """The numbers of images A and B. Raises ValueError where there are no images."""
        if self.first is None or self.second is None:
            raise ValueError("there are no images")
        return self.first, self.second

    def renew(self, network: Explorer) -> None:
        """Take a later network of the same run, at the same images and the same latent."""
        self.network = network
        self.back()

    def back(self) -> None:
        """The code of image A; without images the mean of the prior."""
        self.share, self.how = 0.0, "its reconstruction"
        if self.first is None:
            self.z, self.how = np.zeros(self.explorer.latents, np.float32), "decoded from z = 0"
        else:
            self.z = self.explorer.code(self.first)

    def another_first(self) -> None:
        self.first = int(self.random.choice(self.explorer.images))
        self.back()

    def another_second(self) -> None:
        self.second = int(self.random.choice(self.explorer.images))
        self.back()

    def prior(self) -> None:
        """A code from N(0, I)."""
        self.share, self.how = 0.0, "decoded from a random z"
        self.z = self.random.standard_normal(self.explorer.latents, dtype=np.float32)

    def move(self, rank: int, value: float) -> None:
        """Set the latent of slider `rank`, counted by KL."""
        self.touched = self.explorer.order[rank]
        z = self.z.copy()
        z[self.touched], self.how = value, "decoded from the sliders"
        self.z = z

    def walk_to(self, share: float) -> None:
        """Walk from A to B."""
        self.share, self.how = share, f"decoded {share:.0%} of the way from A to B"
        self.z = self.explorer.interpolate(*self.ends, share)

    def walk(self) -> np.ndarray:
        """Images (WALK_STEPS, H, W, C) from A to B."""
        way = self.explorer, *self.ends
        if self.way is None or self.way[0] != way:  # the same for all steps on it
            self.way = way, self.explorer.walk(*self.ends)
        return self.way[1]

    def traversal(self) -> tuple[np.ndarray, int]:
        """Images (STEPS, H, W, C) of the latent last touched, and which is nearest to the code."""
        nearest = np.abs(np.linspace(-SPAN, SPAN, STEPS) - self.z[self.touched]).argmin()
        return self.explorer.traversal(self.z, self.touched), int(nearest)


class Gallery:
    """The runs in a folder; `archives` is the folder of archives and prepared data sets."""

    def __init__(self, folder: Path, archives: Path):
        self.folder, self.archives = folder, archives
        self.datasets: dict[str, data.Dataset] = {}
        self.explorers: dict[tuple, Explorer] = {}
        self.lock = Lock()
        # when a run in training was first seen, and its iteration then
        self.seen: dict[str, tuple[float, int]] = {}

    def names(self) -> list[str]:
        """The runs, the latest first."""
        if not self.folder.is_dir():
            return []
        found = [path.parent for path in self.folder.glob("*/config.json")]
        return [run.name for run in sorted(found, key=lambda run: (-stamp(run / "log.jsonl"), run.name))]

    def run(self, name: str) -> Path:
        """The folder of a run. Raises ValueError if there is none of that name."""
        if name not in self.names():
            raise ValueError(f"{self.folder / name}: is no run (a run has a config.json)")
        return self.folder / name

    def settings(self, name: str) -> dict:
        file = self.run(name) / "config.json"
        try:
            content = records.parse(file.read_bytes())
            records.check(content, CONFIG, "it")
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: not the settings of a run ({brief(error, file)})") from None
        return content["settings"]

    def status(self, name: str, which: str | None = None) -> Status:
        """How far a run is; once it is finished, with the scores of its SELECTED or its LATEST network.

        Raises ValueError where its files are damaged.
        """
        run, settings = self.run(name), self.settings(name)
        lines = log_so_far(run / "log.jsonl")
        iteration = lines[-1]["step"] if lines else 0
        evaluations = [line for line in lines if "validation" in line]
        scores = {**evaluations[-1]["validation"], "beta": evaluations[-1]["beta"]} if evaluations else {}
        scored = f"validation images, iteration {evaluations[-1]['step']:,}" if evaluations else ""
        phase = TRAINING if in_training(run) else STOPPED
        if (run / "results.json").exists():
            phase, results = FINISHED, results_of(run)
            iteration = settings["iterations"]
            scores = {**results["scores"], "rec_mean": results["rec_mean"]}
            at, last = results["selected"]["iteration"], results.get("last", {})
            if which == LATEST and "iteration" in last:
                scores, at = last, last["iteration"]
            scored = f"test images, iteration {at:,} ({LATEST if scores is last else SELECTED})"
        left = self.left(name, iteration, settings["iterations"]) if phase == TRAINING else None
        if phase != TRAINING:  # a pause counts for nothing
            self.seen.pop(name, None)
        return Status(phase, settings, iteration, settings["iterations"], scores, scored, left, lines)

    def left(self, name: str, iteration: int, iterations: int) -> float | None:
        """Seconds until a run's end, at its rate since it was first seen; None at that moment."""
        now = time.monotonic()
        since, first = self.seen.setdefault(name, (now, iteration))
        return (iterations - iteration) * (now - since) / (iteration - first) if iteration > first else None

    def stamps(self, name: str) -> tuple[float, float, bool]:
        """What changes with a run's network, with its log, and with its training's end."""
        run = self.run(name)
        network = max(stamp(run / file) for file in ("best.pt", "last.pt", "results.json"))
        return network, stamp(run / "log.jsonl"), in_training(run)

    def explorer(self, name: str, which: str | None = None) -> Explorer:
        """The SELECTED or the LATEST network of a run; by default the latest of a run that is not finished.

        Where only one of them is there, or its images are not, it is the one that can be had. Raises
        ValueError where there is none yet, or a damaged one.
        """
        with self.lock:
            key = name, which, self.stamps(name)[0]
            if key not in self.explorers:
                while len(self.explorers) >= KEPT:
                    del self.explorers[next(iter(self.explorers))]
                self.explorers[key] = self.load(name, which)
            return self.explorers[key]

    def load(self, name: str, which: str | None) -> Explorer:
        run, settings = self.run(name), self.settings(name)
        best, last = (run / file for file in ("best.pt", "last.pt"))
        if not best.exists() and not last.exists():
            raise ValueError(f"{run}: has no network yet; the first is saved within about five minutes")
        try:
            dataset, missing = self.dataset(settings["dataset"]), ""
        except (OSError, ValueError, MemoryError) as error:
            dataset, missing = None, one_line(error)[:300]
        selected = None
        if dataset is not None and own_images(settings["dataset"]) and best.exists():
            with suppress(ValueError):  # damaged: there may be another network
                selected = selected_network(run)
            if selected is not None and selected[0].shape != tuple(dataset.shape):
                missing = f"they have the shape {dataset.shape} now, the network takes {selected[0].shape}"
                dataset = None
        latest = which == LATEST if which else not (run / "results.json").exists()
        try:
            if dataset is None or not last.exists() or (best.exists() and not latest):
                (vae, iteration), which = selected or selected_network(run), SELECTED
            else:
                (vae, iteration), which = latest_network(last, settings, dataset), LATEST
            explorer = Explorer(vae, dataset, iteration, which, missing)
            stored = records.parse((run / "config.json").read_bytes()).get("content")
            if dataset is not None:
                pixels = stored_content(stored).get("pixels")
                explorer.changed = pixels not in (None, dataset.content["pixels"])
            return explorer
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{run}: its network cannot be used ({brief(error)})") from None

    def dataset(self, name: str) -> data.Dataset:
        if name not in self.datasets:
            self.datasets[name] = data.load(name, self.archives)
        return self.datasets[name]


def latest_network(file: Path, settings: dict, dataset: data.Dataset) -> tuple[VAE, int]:
    """The network in a run's last.pt and its iteration."""
    state = load_checkpoint(file)
    try:
        vae = VAE(dataset.shape, settings.get("latents") or dataset.latents, dataset.network, dataset.binary)
        records.check(state, {"vae": {}, "iteration": records.count}, "it")
        check_tensors(state["vae"], vae.state_dict())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: not a checkpoint of this run ({brief(error)})") from None
    vae.load_state_dict(state["vae"])
    return vae.eval(), state["iteration"]


def results_of(run: Path) -> dict:
    file = run / "results.json"
    try:
        return records.read_results(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: damaged ({brief(error, file)})") from None


def log_so_far(file: Path) -> list[dict]:
    """The whole lines of a log that may just be written to."""
    return records.read_log(file, file.read_bytes().rfind(b"\n") + 1) if file.exists() else []


def stamp(file: Path) -> float:
    """When a file was last written, 0 if it is not there."""
    try:
        return file.stat().st_mtime_ns / 1e9
    except OSError:
        return 0.0


def in_training(run: Path) -> bool:
    """Whether a process holds the run: it keeps its file `lock` locked as long as it works."""
    try:
        lock = os.open(run / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        return held(lock)
    finally:
        os.close(lock)


def open_folder(path: Path, archives: Path, wanted: bool = True) -> tuple[Gallery, str | None]:
    """The runs at `path`, a folder of runs or one run, and the run that was named.

    wanted  it was asked for: it has to be there
    Raises ValueError for what is neither, and for a run without a network that nothing trains.
    """
    if (path / "config.json").is_file():
        path = path.resolve()
        gallery = Gallery(path.parent, archives)
        if not in_training(path):
            gallery.explorer(path.name)
        return gallery, path.name
    if not path.is_dir():
        if wanted or path.exists():
            raise ValueError(
                f"{path}: {'not a folder' if path.exists() else 'not there'}; expected the "
                "folder of the runs, or one run"
            )
        return Gallery(path, archives), None
    gallery = Gallery(path, archives)
    if not gallery.names() and any(path.iterdir()):
        raise ValueError(
            f"{path}: is no run and holds none (a run has a config.json); expected the folder "
            "of the runs, or one run"
        )
    return gallery, None
