"""Pictures of one run, from arrays: its curves (Fig. 1 and 3), reconstructions, latent traversals (Fig. 4).

matplotlib's object interface throughout: runs may share a process, and pyplot keeps a global state. PyTorch
is not imported here, so that a process that only draws starts in less than a second.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from lvae_min.io.atomic import write_whole
from lvae_min.io.records import read_log
from lvae_min.report import SCORES

GAP, GREY = 4, 128  # pixels between images, and their colour in an animation
DRAWING = Lock()  # matplotlib is not made for threads: the parser of its labels is one for the whole process


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


def show_images(axes, images: np.ndarray, rows: list[str], columns: Sequence[str] = ()) -> None:
    """Show images (R, S, C, H, W) in [0, 1], grey if C is 1, as R named rows of S.

    As one picture: axes for each of 55 images would take 2 s to lay out instead of 0.1.
    """
    between = [(0, 0)] * 3 + [(0, GAP)] * 2
    framed = np.pad(images, between, constant_values=1)  # white
    height, width = framed.shape[-2:]
    canvas = framed.transpose(0, 3, 1, 4, 2).reshape(len(images) * height, -1, images.shape[2])
    axes.imshow(canvas.squeeze(-1) if images.shape[2] == 1 else canvas, cmap="gray", vmin=0, vmax=1)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * height, rows, parse_math=False)
    axes.set_xticks((np.arange(len(columns)) + 0.5) * width, columns)
    axes.tick_params(length=0, labelsize=8, labelbottom=False, labeltop=True)
    axes.set_frame_on(False)


def curves(folder: Path, log_bytes: int | None = None) -> None:
    """curves.png: terms, beta, validation scores and learned scales over iterations (Fig. 1 and 3).

    log_bytes  of log.jsonl that are read: a run may be adding to it
    """
    lines = read_log(folder / "log.jsonl", log_bytes)
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


def reconstructions(folder: Path, pairs: np.ndarray, heading: str) -> None:
    """reconstructions.png: images above their reconstructions from z = mu, pairs (2, N, C, H, W)."""
    figure, ((axes,),) = new_figure(pairs.shape[1] * 0.9, 2.2)
    show_images(axes, pairs, ["image", "from mu"])
    figure.suptitle(heading, fontsize=9, parse_math=False)
    keep(figure, folder / "reconstructions.png")


def traversal_figure(images: np.ndarray, titles: list[str], heading: str, ranges):
    """A figure of traversed images (L, S, C, H, W), one row a latent (Fig. 4).

    ranges  from where to where each latent moves, (L, 2), or (2,) if all move alike
    """
    steps, ranges = images.shape[1], np.asarray(ranges)
    figure, ((axes,),) = new_figure(steps * 0.8 + 1.2, len(images) * 0.85 + 0.6)
    if ranges.ndim == 1:
        columns = [f"{value:+.1f}" for value in np.linspace(ranges[0], ranges[1], steps)]
    else:
        columns = ["lowest", *[""] * (steps - 2), "highest"]
        titles = [
            f"{title}\n[{low:.1f}, {high:.1f}]" for title, (low, high) in zip(titles, ranges, strict=True)
        ]
    show_images(axes, images, titles, columns)
    figure.suptitle(heading, fontsize=8, parse_math=False)
    return figure


def traversals(folder: Path, moved: np.ndarray, titles: list[str], span: float, heading: str) -> None:
    """traversal.png, one row a latent, and traversal.gif, which moves all latents to and fro (Fig. 4).

    moved (L, S, C, H, W) in [0, 1], from -span to span; titles of the latents.
    """
    keep(traversal_figure(moved, titles, heading, (-span, span)), folder / "traversal.png")
    pixels = (moved * 255).round().astype(np.uint8).transpose(1, 3, 0, 4, 2)  # (S, H, L, W, C)
    pixels = np.pad(pixels, [(0, 0)] * 3 + [(0, GAP // 2), (0, 0)], constant_values=GREY)
    frames = (
        pixels.reshape(*pixels.shape[:2], -1, pixels.shape[-1])[:, :, : -GAP // 2].repeat(2, 1).repeat(2, 2)
    )
    shown = [Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame) for frame in frames]
    content = io.BytesIO()
    shown[0].save(
        content,
        format="GIF",
        save_all=True,
        append_images=shown[1:] + shown[-2:0:-1],
        duration=120,
        loop=0,
    )
    write_whole(folder / "traversal.gif", content.getbuffer())


def draw(
    folder: Path,
    pairs: np.ndarray,
    moved: np.ndarray,
    titles: list[str],
    span: float,
    note: str = "",
    log_bytes: int | None = None,
) -> None:
    """All pictures of a run so far: its curves, images and reconstructions, and latents that are moved.

    pairs (2, N, C, H, W), moved (L, S, C, H, W) from -span to span, titles of the L latents, see latents.py;
    `note` is a warning below the titles, `log_bytes` of the log are drawn.
    """
    curves(folder, log_bytes)
    below = f"\n{note}" * bool(note)
    reconstructions(folder, pairs, folder.name + below)
    heading = f"{folder.name}: each row moves one latent, z from {-span} to {span}{below}"
    traversals(folder, moved, titles, span, heading)
