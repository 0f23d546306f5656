"""What the latents of a network do: images of moved latents (Fig. 4), and what each knows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lvae_min import metrics
from lvae_min.data import Dataset
from lvae_min.losses import kl_terms
from lvae_min.model import VAE

PART = 500  # images
SPAN, STEPS = 2.5, 11  # a traversal goes from -2.5 to 2.5 standard deviations of the prior, in 11 images
MOST_SHOWN = 32  # latents in the pictures of a run: a GIF is at most 65,535 pixels wide


def posteriors(vae: VAE, dataset: Dataset, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """mu and logvar (M, L) of images `index`, PART at a time: a batch of large images needs much memory."""
    parts = torch.from_numpy(index).to(dataset.device).split(PART)
    mu, logvar = zip(*(vae.encode(dataset.batch(part)) for part in parts), strict=True)
    return torch.cat(mu), torch.cat(logvar)


def mean_kl(vae: VAE, dataset: Dataset, index: np.ndarray) -> np.ndarray:
    """KL of each latent in nats, (L,), a mean over the first 2,000 of images `index`."""
    return kl_terms(*posteriors(vae, dataset, index[:2000])).mean(0).cpu().numpy()


def best_factors(dataset: Dataset, index: np.ndarray, codes: np.ndarray, kl: np.ndarray) -> list[str]:
    """For each latent which of several factors it knows most about, "-" for none; "" where there are none.

    codes (M, L) are those of images `index`, kl (L,) is in nats: a latent without KL tells nothing.
    """
    if len(dataset.factor_names) < 2:
        return [""] * len(kl)
    shared = metrics.mutual_information(dataset.factors(index), codes)  # (K, L)
    known = (shared.max(0) > 0.01) & (kl > 0.05)
    return [
        dataset.factor_names[factor] if knows else "-"
        for factor, knows in zip(shared.argmax(0), known, strict=True)
    ]


def latent_titles(dataset: Dataset, index: np.ndarray, codes: np.ndarray, kl: np.ndarray) -> list[str]:
    """Name, KL and factor of each latent, in lines; the arguments are those of `best_factors`."""
    factors = best_factors(dataset, index, codes, kl)
    return [
        f"z{latent}\nKL {value:.1f}" + f"\n{name}" * bool(name)
        for latent, (value, name) in enumerate(zip(kl, factors, strict=True))
    ]


def traversal(
    vae: VAE, image: Tensor, ranges: np.ndarray | None = None, which: Sequence[int] | None = None
) -> Tensor:
    """Decoded images (L, STEPS, C, H, W): the code of `image` (1, C, H, W), one latent at a time moved.

    ranges  (L, 2)  from where to where each latent moves; None: from -SPAN to SPAN
    which   the latents that are moved; None: all
    """
    mu, _ = vae.encode(image)
    which = range(vae.latents) if which is None else which
    z = mu.expand(len(which), STEPS, -1).clone()  # (L, STEPS, latents)
    for place, latent in enumerate(which):
        low, high = (-SPAN, SPAN) if ranges is None else ranges[place]
        z[place, :, latent] = torch.linspace(float(low), float(high), STEPS, device=z.device)
    return vae.decode(z.flatten(0, 1)).unflatten(0, (len(which), STEPS))


def shown(
    vae: VAE, dataset: Dataset, index: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str], float]:
    """What plots.draw draws: pairs, moved, titles and the span of the traversal.

    Ten of the images `index` above their reconstructions from z = mu, (2, N, C, H, W), and the latents of the
    first moved, (L, STEPS, C, H, W), of more than MOST_SHOWN those with the largest KL; codes (M, latents)
    are those of images `index`.
    """
    some = dataset.batch(torch.from_numpy(index[:10]).to(dataset.device))
    pairs = torch.stack([some * dataset.scale, vae.decode(vae.encode(some)[0])])
    kl = mean_kl(vae, dataset, index)
    which = np.sort(np.argsort(-kl, kind="stable")[:MOST_SHOWN]).tolist()
    moved = traversal(vae, some[:1], which=which)
    titles = latent_titles(dataset, index, codes, kl)
    return pairs.cpu().numpy(), moved.cpu().numpy(), [titles[latent] for latent in which], SPAN
