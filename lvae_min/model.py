"""The networks of Table 1: an MLP for binary images (dSprites) and a CNN for all others.

Images are (N, C, H, W). Floats are in [0, 1]; uint8 counts up to 1 in a binary set and up to 255 otherwise.
`logits` is the decoder's output before the sigmoid.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from lvae_min.products import Conv, ConvTransposed, Linear, PixelLinear

HIDDEN = 1200  # units of both hidden layers of the MLP, Table 1

# MKL detects the processor in the first call of any of its vector functions, and other threads must not call
# one at that moment: exp may have four correct digits for them (PyTorch 2.13,
# github.com/pytorch/pytorch/issues/188792). All functions and types share what was detected, so that one call
# is enough. It is made here, before threads train.
torch.ones(1, device="cpu").exp()


def mlp(shape: tuple[int, int, int], latents: int, binary: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of Table 1, upper half; 12,737,306 weights for dSprites with five latents."""
    pixels = math.prod(shape)
    first = PixelLinear(pixels, HIDDEN) if binary else Linear(pixels, HIDDEN)
    encoder = nn.Sequential(
        nn.Flatten(), first, nn.ReLU(), Linear(HIDDEN, HIDDEN), nn.ReLU(), Linear(HIDDEN, 2 * latents)
    )
    decoder = nn.Sequential(
        Linear(latents, HIDDEN),
        nn.ReLU(),
        Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        Linear(HIDDEN, pixels),
        nn.Unflatten(1, shape),
    )
    return encoder, decoder


def cnn(shape: tuple[int, int, int], latents: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of Table 1, lower half, for images of 64 x 64 or 128 x 128.

    Differs from the paper, which gives neither padding nor the decoder's first shape: padding is 1, but 0 in
    the encoder's last convolution. The decoder's FC(256) is 256 x 1 x 1 for 64 x 64 (first padding 0, as in
    the public beta-VAE and ControlVAE code) and 16 x 4 x 4 for 128 x 128.
    """
    channels, height, _ = shape
    side = 1 if height == 64 else height // 32  # of the decoder's first map
    widths = [256 // side**2, 64, 64, 32, 32, channels]
    encoder, decoder = [], [Linear(latents, 256), nn.ReLU(), nn.Unflatten(1, (widths[0], side, side))]
    for wide_in, wide_out in zip((channels, 32, 32, 64), (32, 32, 64, 64), strict=True):
        encoder += [Conv(wide_in, wide_out, 4, 2, 1), nn.ReLU()]
    encoder += [
        Conv(64, 32, 4, 1, 0),
        nn.ReLU(),
        nn.Flatten(),
        Linear(32 * (height // 16 - 3) ** 2, 2 * latents),
    ]
    for layer, (wide_in, wide_out) in enumerate(zip(widths, widths[1:], strict=False)):
        padding = 0 if side == 1 and layer == 0 else 1
        decoder += [ConvTransposed(wide_in, wide_out, 4, 2, padding), nn.ReLU()]
    return nn.Sequential(*encoder), nn.Sequential(*decoder[:-1])  # no ReLU on the logits


def layers(
    shape: tuple[int, int, int], latents: int, network: str = "cnn", binary: bool = False
) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of a `VAE`, of which the shapes alone are there: nothing is allocated."""
    if network not in ("mlp", "cnn"):
        raise ValueError(f"network {network!r}: expected mlp or cnn")
    if len(shape) != 3 or shape[1] != shape[2] or (network == "cnn" and shape[1] not in (64, 128)):
        raise ValueError(
            f"image shape {tuple(shape)}: the {network} takes (C, H, W) with H = W"
            + (", 64 or 128" if network == "cnn" else "")
        )
    if latents < 1 or min(shape) < 1:
        raise ValueError(f"latents {latents}, image shape {tuple(shape)}: at least 1")
    with torch.device("meta"):
        encoder, decoder = mlp(shape, latents, binary) if network == "mlp" else cnn(shape, latents)
        return encoder.float(), decoder.float()


class VAE(nn.Module):
    """Encoder q(z|x) = N(mu, diag(exp(logvar))) and decoder of Table 1, on the CPU until it is moved.

    shape    (C, H, W)  H = W, 64 or 128 for the cnn, any for the mlp
    latents             dimensions of z
    network             "mlp" or "cnn"
    binary              uint8 images are 0/1, not 0 to 255
    seed                of the weights
    Raises ValueError for a shape that the network does not have.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latents: int,
        network: str = "cnn",
        binary: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.encoder, self.decoder = layers(shape, latents, network, binary)  # no random numbers yet
        self.settings = {"shape": list(shape), "latents": latents, "network": network, "binary": binary}
        self.shape = shape[0], shape[1], shape[2]  # a tuple of three, as hints have it
        self.latents, self.scale = latents, 1.0 if binary else 1 / 255
        for layer in self.modules():
            for name, weight in list(layer.named_parameters(recurse=False)):
                # Not by to_empty(), which imports sympy (0.3 s).
                empty = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device="cpu")
                setattr(layer, name, nn.Parameter(empty))
        self.reset(torch.Generator().manual_seed(seed))
        self.lay_out("cpu")

    def lay_out(self, device: torch.device | str) -> None:
        """Move to a device, with channels last: the CNN is the fastest so (on a CPU 99 ms against 105)."""
        self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's hints lack it

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights as PyTorch does by default, from U(-b, b) with b = 1 / sqrt(fan in)."""
        for layer in self.modules():
            own = list(layer.parameters(recurse=False))  # weight, bias
            if own:
                transposed = isinstance(layer, PixelLinear)
                bound = 1 / math.sqrt(len(own[0]) if transposed else own[0][0].numel())
                for weights in own:
                    drawn = torch.empty(weights.shape, dtype=weights.dtype, device="cpu")
                    weights.copy_(drawn.uniform_(-bound, bound, generator=generator))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar, (N, L) each, of images (N, C, H, W) as the data set stores them; no checks."""
        first = next(self.encoder.parameters())
        sparse = isinstance(self.encoder[1], PixelLinear)
        if not sparse and not x.is_floating_point():
            x = x.to(first.dtype, memory_format=torch.channels_last) * self.scale
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """logits (N, C, H, W), mu, logvar (N, L) of images x, with z = mu + exp(logvar / 2) noise.

        noise  (N, L) from N(0, 1); drawn where it is not given
        """
        mu, logvar = self.posterior(x)
        noise = torch.randn_like(mu) if noise is None else noise
        return self.decoder(mu + (logvar / 2).exp() * noise), mu, logvar

    @torch.no_grad()
    def encode(self, images: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """mu and logvar, (N, L) each, of images (N, C, H, W): uint8, or any other type in [0, 1].

        Raises ValueError for another shape or for values out of range.
        """
        first = next(self.parameters())
        images = torch.as_tensor(images, device=first.device)
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"images of shape {tuple(images.shape)}: expected (N, {expected})")
        if images.dtype != torch.uint8:
            images = images.to(first.dtype)
        top = round(1 / self.scale) if images.dtype == torch.uint8 else 1
        if images.numel() and not (images.min() >= 0 and images.max() <= top):
            low, high = images.min().item(), images.max().item()
            raise ValueError(f"images from {low:g} to {high:g}: expected 0 to {top}")
        return self.posterior(images)

    @torch.no_grad()
    def decode(self, z: Tensor | np.ndarray) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes z (N, L)."""
        first = next(self.parameters())
        z = torch.as_tensor(z, device=first.device)
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise ValueError(f"codes of shape {tuple(z.shape)}: expected (N, {self.latents})")
        return self.decoder(z.to(first.dtype)).sigmoid()
