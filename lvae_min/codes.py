"""A trained network on whole sets of images: to their codes, back to images, and out of this package."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lvae_min.data import Dataset
from lvae_min.io import npy
from lvae_min.io.atomic import whole, write_whole
from lvae_min.model import VAE
from lvae_min.train import load

ROWS = 500  # images in memory at a time
PARTS = ("encoder", "decoder")


def encode(vae: VAE, dataset: Dataset, progress: Callable = iter) -> dict[str, np.ndarray]:
    """Codes of all images of a set, in the arrays that `python -m lvae_min.metrics` reads.

    mu, logvar (M, L) float32; `codes` is mu again. There are `factors` (M, K) if the set has some, and for a
    folder of images `files` (M,), the path of each image from the folder.

    progress  wraps the iterator over chunks, as tqdm does
    Raises ValueError if the images have another shape than the network's.
    """
    if tuple(dataset.shape) != tuple(vae.shape):
        raise ValueError(
            f"images of shape {tuple(dataset.shape)}: the run's network takes {tuple(vae.shape)}"
        )
    mu, logvar = np.empty((2, len(dataset), vae.latents), np.float32)
    for start in progress(range(0, len(dataset), ROWS)):
        index = torch.arange(start, min(start + ROWS, len(dataset)), device=dataset.device)
        rows = vae.encode(dataset.batch(index) * dataset.scale)
        mu[start : start + ROWS], logvar[start : start + ROWS] = (part.cpu().numpy() for part in rows)
    found = {"codes": mu, "mu": mu, "logvar": logvar}
    if dataset.factor_names:
        found["factors"] = dataset.factors(np.arange(len(dataset)))
    if dataset.files:
        found["files"] = np.array(dataset.files)
    return found


def decode(vae: VAE, codes: np.ndarray, file: Path, progress: Callable = iter) -> tuple[int, ...]:
    """Write the images of codes (M, L) to an .npz as `images`, uint8, (M, H, W) or (M, H, W, 3); their shape.

    They are written as they are decoded, so that there may be more than the memory holds. Raises ValueError
    for codes of another width, or that are not finite, or so large that their images are not.
    """
    if codes.ndim != 2 or codes.shape[1] != vae.latents or codes.dtype.kind not in "iuf":
        raise ValueError(f"codes are {codes.dtype} {codes.shape}, expected numbers (M, {vae.latents})")
    if not (np.abs(codes) <= np.finfo(np.float32).max).all():  # false for NaN
        raise ValueError("codes are not all finite numbers of float32")
    channels, *sides = vae.shape
    shape = (len(codes), *sides, *([channels] if channels > 1 else []))

    def images():
        for start in progress(range(0, len(codes), ROWS)):
            part = vae.decode(torch.from_numpy(codes[start : start + ROWS].astype(np.float32)))
            if not part.isfinite().all():
                raise ValueError(f"codes {start} to {start + len(part) - 1}: too large for this network")
            pixels = (part * 255).round().byte().permute(0, 2, 3, 1)
            yield pixels.cpu().numpy().reshape(-1, *shape[1:])

    with whole(file) as stream:
        npy.write_npz_rows(stream, "images", shape, np.uint8, images())
    return shape


class Encoder(nn.Module):
    """Images (N, C, H, W) in [0, 1] to mu and logvar (N, L)."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, images):
        return self.vae.posterior(images)


class Decoder(nn.Module):
    """Codes (N, L) to images (N, C, H, W) in [0, 1]."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, z):
        return self.decoder(z).sigmoid()


def export(run: Path | str, file: Path | str, part: str = "decoder") -> Path:
    """Write half of a run's network as a program of torch.export, for use without this package.

        decode = torch.export.load("decoder.pt2").module();   images = decode(torch.randn(8, 5))

    part  "decoder": codes (N, L) to images (N, C, H, W) in [0, 1]; "encoder": such images to mu and logvar
    Any N from 1 on. Raises ValueError for a folder that is no run, another part or another ending than .pt2.
    """
    file = Path(file)
    if part not in PARTS:
        raise ValueError(f"part {part!r}: expected encoder or decoder")
    if file.suffix != ".pt2":
        raise ValueError(f"{file}: expected a name that ends in .pt2")
    vae = load(run)
    if part == "encoder":
        del vae.decoder  # it would be written, too
    module, example = (
        (Decoder(vae), torch.zeros(2, vae.latents, device="cpu"))
        if part == "decoder"
        else (Encoder(vae), torch.zeros(2, *vae.shape, device="cpu"))
    )
    for weights in module.parameters():
        weights.data = weights.contiguous()  # torch warns when it saves those of channels_last
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: rows},))
    content = io.BytesIO()
    torch.export.save(program, content)
    write_whole(file, content.getbuffer())
    return file
