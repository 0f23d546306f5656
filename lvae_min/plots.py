"""Pictures of one run: its curves (Fig. 1 and 3), reconstructions, and latent traversals (Fig. 4).

matplotlib's object interface throughout: runs may share a process, and pyplot keeps a global state.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor, nn

from lvae_min import metrics
from lvae_min.data import Dataset
from lvae_min.io.atomic import write_whole
from lvae_min.io.records import read_log
from lvae_min.model import VAE
from lvae_min.report import SCORES

GAP = 4  # pixels between images
SPAN, STEPS = 2.5, 11  # a traversal goes from -2.5 to 2.5 standard deviations of the prior, in 11 images


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid):
    """A figure of width x height inches and its axes (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def keep(figure, file: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, dpi=100, format="png")
    write_whole(file, content.getbuffer())


def show_images(axes, images: Tensor, rows: list[str], columns: Sequence[str] = ()) -> None:
    """Show images (R, S, C, H, W) in [0, 1], grey if C is 1, as R named rows of S.

    As one picture: axes for each of 55 images would take 2 s to lay out instead of 0.1.
    """
    height, width = images.shape[-2] + GAP, images.shape[-1] + GAP
    framed = nn.functional.pad(images, (0, GAP, 0, GAP), value=1.0)  # white between them
    canvas = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (R * H, S * W, C)
    axes.imshow(canvas.squeeze(-1).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * height, rows, parse_math=False)
    axes.set_xticks((np.arange(len(columns)) + 0.5) * width, columns)
    axes.tick_params(length=0, labelsize=8, labelbottom=False, labeltop=True)
    axes.set_frame_on(False)


def curves(folder: Path) -> None:
    """curves.png: terms, beta, validation scores and learned scales over iterations (Fig. 1 and 3)."""
    lines = read_log(folder / "log.jsonl")
    steps = [line["step"] for line in lines]
    evaluations = [line for line in lines if "validation" in line]
    at = [line["step"] for line in evaluations]
    learned = {
        name: title
        for name, title in (("sigma_0", "sigma_0 (rec)"), ("sigma_1", "sigma_1 (kl)"))
        if lines and lines[0][name] is not None
    }
    scored = bool(evaluations) and "beta_vae" in evaluations[0]["validation"]
    panels = 2 + scored + bool(learned)
    columns = 2 if panels == 4 else panels
    figure, axes = new_figure(4.5 * columns, 3 * panels // columns, panels // columns, columns, sharex=True)
    panels = iter(axes.flat)
    terms = next(panels)
    for name in ("rec", "kl"):
        terms.plot(steps, [line[name] for line in lines], label=f"{name}, training")
        terms.plot(at, [line["validation"][name] for line in evaluations], "k.", ms=3)
    terms.set(yscale="log", ylabel="rec (squared error), kl (nats)", title="terms (Fig. 1; dots: validation)")
    if learned:
        scales = next(panels)
        for name, title in learned.items():
            scales.plot(steps, [line[name] for line in lines], label=title)
        scales.set(ylabel="learned scale", title="sigma (Fig. 3)")
    weight = next(panels)
    name = "beta_hat" if len(learned) == 2 else "beta"
    weight.plot(steps, [line["beta"] for line in lines], "C2", label=name)
    weight.set(ylabel="weight of kl relative to rec", title="beta")
    if scored:
        score = next(panels)
        for name, style in (("beta_vae", "C3.-"), ("mig", "C4.-")):
            found = [line["validation"].get(name, math.nan) for line in evaluations]
            score.plot(at, found, style, label=SCORES[name])
        score.set(ylabel="score", title="validation scores (Fig. 3)", ylim=(-0.05, 1.05))
    for panel in axes[-1]:
        panel.set_xlabel("iterations")
    weight.xaxis.set_major_locator(MaxNLocator(5))
    for panel in axes.flat:
        panel.legend(fontsize=8)
    figure.suptitle(folder.name, fontsize=10, parse_math=False)
    keep(figure, folder / "curves.png")


def reconstructions(folder: Path, vae: VAE, images: Tensor, scale: float, heading: str) -> None:
    """reconstructions.png: images (N, C, H, W) above their reconstructions from z = mu."""
    figure, ((axes,),) = new_figure(len(images) * 0.9, 2.2)
    pair = torch.stack([images * scale, vae.decode(vae.encode(images)[0])])
    show_images(axes, pair, ["image", "from mu"])
    figure.suptitle(heading, fontsize=9, parse_math=False)
    keep(figure, folder / "reconstructions.png")


def latent_titles(vae: VAE, dataset: Dataset, index: np.ndarray, codes: np.ndarray) -> list[str]:
    """For each latent its KL in nats, a mean over some images, and the factor it knows most about."""
    mu, logvar = vae.encode(dataset.batch(torch.from_numpy(index[:2000]).to(dataset.device)))
    kl = (0.5 * (mu.square() + logvar.expm1() - logvar)).mean(0)
    titles = [f"z{latent}\nKL {value:.1f}" for latent, value in enumerate(kl.tolist())]
    if dataset.factor_names:
        shared = metrics.mutual_information(dataset.factors(index), codes)  # (K, L)
        known = (shared.max(0) > 0.01) & (kl.cpu().numpy() > 0.05)  # a latent without KL tells nothing
        names = [
            dataset.factor_names[factor] if knows else "-"
            for factor, knows in zip(shared.argmax(0), known, strict=True)
        ]
        titles = [f"{title}\n{name}" for title, name in zip(titles, names, strict=True)]
    return titles


def traversal(vae: VAE, image: Tensor, ranges: np.ndarray | None = None) -> Tensor:
    """Decoded images (L, STEPS, C, H, W): the code of `image` (1, C, H, W), one latent at a time moved.

    ranges  (L, 2)  from where to where each latent moves; None: from -SPAN to SPAN
    """
    mu, _ = vae.encode(image)
    z = mu.expand(vae.latents, STEPS, -1).clone()  # (L, STEPS, L)
    for latent in range(vae.latents):
        low, high = (-SPAN, SPAN) if ranges is None else ranges[latent]
        z[latent, :, latent] = torch.linspace(float(low), float(high), STEPS)
    return vae.decode(z.flatten(0, 1)).unflatten(0, (vae.latents, STEPS))


def traversal_figure(images: Tensor, titles: list[str], heading: str, ranges: np.ndarray | None = None):
    """A figure of traversed images (L, STEPS, C, H, W), one row a latent (Fig. 4)."""
    figure, ((axes,),) = new_figure(STEPS * 0.8 + 1.2, len(images) * 0.85 + 0.6)
    if ranges is None:
        columns = [f"{value:+.1f}" for value in np.linspace(-SPAN, SPAN, STEPS)]
    else:
        columns = ["lowest", *[""] * (STEPS - 2), "highest"]
        titles = [
            f"{title}\n[{low:.1f}, {high:.1f}]" for title, (low, high) in zip(titles, ranges, strict=True)
        ]
    show_images(axes, images, titles, columns)
    figure.suptitle(heading, fontsize=8, parse_math=False)
    return figure


def traversals(folder: Path, vae: VAE, image: Tensor, titles: list[str], heading: str) -> None:
    """traversal.png, one row a latent, and traversal.gif, which moves all latents to and fro (Fig. 4)."""
    images = traversal(vae, image)
    figure = traversal_figure(images, titles, heading)
    keep(figure, folder / "traversal.png")
    frames = (images * 255).round().byte().permute(1, 3, 0, 4, 2).flatten(2, 3).cpu()  # (STEPS, H, L * W, C)
    larger = frames.repeat_interleave(2, 2).repeat_interleave(2, 1)
    pictures = [Image.fromarray(frame.squeeze(-1).numpy()) for frame in larger]
    content = io.BytesIO()
    pictures[0].save(
        content,
        format="GIF",
        save_all=True,
        append_images=pictures[1:] + pictures[-2:0:-1],
        duration=120,
        loop=0,
    )
    write_whole(folder / "traversal.gif", content.getbuffer())


def draw(
    folder: Path, vae: VAE, dataset: Dataset, index: np.ndarray, codes: np.ndarray, note: str = ""
) -> None:
    """All pictures of a run so far; codes (M, L) are of images `index`, `note` a warning below titles."""
    curves(folder)
    below = f"\n{note}" * bool(note)
    some = dataset.batch(torch.from_numpy(index[:10]).to(dataset.device))
    reconstructions(folder, vae, some, dataset.scale, folder.name + below)
    heading = f"{folder.name}: each row moves one latent, z from {-SPAN} to {SPAN}{below}"
    traversals(folder, vae, some[:1], latent_titles(vae, dataset, index, codes), heading)
