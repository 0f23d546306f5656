"""The loss of every method of the paper: two terms (Eq. 1-3), and six ways to weigh them (Eq. 1, 3, 5, Sec. 6.2).

`elbo_terms` and `lvae_loss` are the definitions in plain PyTorch; `lvae_min.fused` has the same two functions
in C++ and CUDA. An `Objective` is a method: it gets `(logits, x, mu, logvar)`, asks for the terms and weighs
them. Learned weights are parameters, controller state is buffers, and nothing here waits for the device.
"""

import math

import torch
from torch import Tensor, nn

PAPER_ITERATIONS = 300_000      # Sec. 6.3: the longest run, and the length of its learning-rate schedule
MIN_SIGMA_SQ = 0.01             # weights are 1 / max(sigma^2, 0.01): never reached in a healthy run


def elbo_terms(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL terms of Eq. 3: two scalars, each a mean over the batch.

    logits      (N, ...)  decoder output before the sigmoid
    x           (N, ...)  image, uint8 or float; `scale * x` is in [0, 1]
    mu, logvar  (N, L)    parameters of q(z|x) = N(mu, diag(exp(logvar)))
    scale                 None: 1/255 for uint8, 1 for floats
    rec                   squared error summed over C*H*W (no unit)
    kl                    nats, summed over L
    """
    if scale is None:
        scale = 1 / 255 if x.dtype == torch.uint8 else 1.0
    wide = torch.promote_types(logits.dtype, torch.float32)                          # sums never run in half precision
    logits, x, mu, logvar = logits.to(wide), x.to(wide), mu.to(wide), logvar.to(wide)
    rec = (logits.sigmoid() - scale * x).square().flatten(1).sum(1)                  # (N,)
    kl = 0.5 * (mu.square() + (logvar.expm1() - logvar)).clamp(min=0).sum(1)         # (N,), expm1: exact near a collapse
    return rec.mean(), kl.mean()


def lvae_loss(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, sigma: Tensor,
              scale: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of Eq. 5 and its two terms: L = rec / s0^2 + kl / s1^2 + s0^2 + s1^2, three scalars.

    sigma  (2,)  s0 and s1; the other arguments and the terms are those of `elbo_terms`.
    """
    rec, kl = elbo_terms(logits, x, mu, logvar, scale)
    sigma_sq = sigma.square()
    weight = 1 / sigma_sq.clamp(min=MIN_SIGMA_SQ)
    return weight[0] * rec + weight[1] * kl + sigma_sq.sum(), rec, kl
