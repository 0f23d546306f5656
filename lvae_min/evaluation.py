"""rec, kl, codes and scores of a network on some images (Sec. 6.4), here or with another process's help."""

from collections.abc import Callable

import numpy as np
import torch

from lvae_min import losses, metrics, workers
from lvae_min.data import Dataset
from lvae_min.model import VAE
from lvae_min.step import in_float32


@torch.no_grad()
@in_float32
def measure(
    vae: VAE, dataset: Dataset, index: np.ndarray, reconstructed: int | None = None
) -> tuple[dict[str, float], np.ndarray]:
    """rec, kl and rec_mean of a network on images `index`, and their codes mu (M, L); see `evaluate`."""
    noise, parts, sums, count = torch.Generator().manual_seed(0), [], np.zeros(2), len(index)
    decoded, kl_sum = min(reconstructed or count, count), 0.0
    for start in range(0, count, 1000):
        part = torch.from_numpy(index[start : start + 1000])
        x = dataset.batch(part.to(dataset.device))
        mu, logvar = vae.posterior(x)
        parts.append(mu.double().cpu().numpy())
        kl_sum += len(x) * losses.kl_term(mu, logvar).item()
        x, mu, logvar = (tensor[: max(decoded - start, 0)] for tensor in (x, mu, logvar))
        if len(x):
            z = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=noise).to(mu)
            recs = [losses.elbo_terms(vae.decoder(code), x, mu, logvar, dataset.scale)[0] for code in (z, mu)]
            sums += len(x) * np.array([rec.item() for rec in recs])
    rec, rec_mean = (sums / decoded).tolist()
    return {"rec": rec, "kl": kl_sum / count, "rec_mean": rec_mean}, np.concatenate(parts)


def evaluate(
    vae: VAE,
    dataset: Dataset,
    index: np.ndarray,
    reconstructed: int | None = None,
    quick: bool = False,
    call: workers.AtOnce = workers.AT_ONCE,
) -> tuple[dict[str, float], np.ndarray]:
    """Scores of a network on images `index`, and their codes (M, L).

    rec is with a sampled z, rec_mean with z = mu, both of the first `reconstructed` images (None: of all);
    the scores are those of mu (Sec. 6.4 does not say), in 10 bins. `quick` leaves out sap_classification;
    `call.later` begins the scoring, here or in another process.
    """
    _, codes, scored = begin_evaluation(vae, dataset, index, reconstructed, quick, call)
    return scored(), codes


def begin_evaluation(
    vae: VAE,
    dataset: Dataset,
    index: np.ndarray,
    reconstructed: int | None = None,
    quick: bool = False,
    call: workers.AtOnce = workers.AT_ONCE,
) -> tuple[dict[str, float], np.ndarray, Callable[[], dict[str, float]]]:
    """`evaluate` without waiting: rec and kl, the codes, and a function that waits for all scores."""
    terms, codes = measure(vae, dataset, index, reconstructed)
    if not dataset.factor_names:
        return terms, codes, lambda: terms
    found = call.later(metrics.score, dataset.factors(index), codes, quick=quick)
    return terms, codes, lambda: terms | found()
