"""What the latents of a network do: images of moved latents (Fig. 4), and what each knows."""

import numpy as np
import torch
from torch import Tensor

from lvae_min import metrics
from lvae_min.data import Dataset
from lvae_min.model import VAE

SPAN, STEPS = 2.5, 11  # a traversal goes from -2.5 to 2.5 standard deviations of the prior, in 11 images


def latent_titles(vae: VAE, dataset: Dataset, index: np.ndarray, codes: np.ndarray) -> list[str]:
    """For each latent its KL in nats, a mean over some images, and which of several factors it knows best."""
    mu, logvar = vae.encode(dataset.batch(torch.from_numpy(index[:2000]).to(dataset.device)))
    kl = (0.5 * (mu.square() + logvar.expm1() - logvar)).mean(0)
    titles = [f"z{latent}\nKL {value:.1f}" for latent, value in enumerate(kl.tolist())]
    if len(dataset.factor_names) > 1:
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
        z[latent, :, latent] = torch.linspace(float(low), float(high), STEPS, device=z.device)
    return vae.decode(z.flatten(0, 1)).unflatten(0, (vae.latents, STEPS))


def shown(
    vae: VAE, dataset: Dataset, index: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str], float]:
    """What plots.draw draws: pairs, moved, titles and the span of the traversal.

    Ten of the images `index` above their reconstructions from z = mu, (2, N, C, H, W), and the latents of the
    first moved, (L, STEPS, C, H, W); codes (M, L) are those of images `index`.
    """
    some = dataset.batch(torch.from_numpy(index[:10]).to(dataset.device))
    pairs = torch.stack([some * dataset.scale, vae.decode(vae.encode(some)[0])])
    moved = traversal(vae, some[:1])
    return pairs.cpu().numpy(), moved.cpu().numpy(), latent_titles(vae, dataset, index, codes), SPAN
