"""An iteration in stock PyTorch, in a process of its own: what ours sets for a process does not reach it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench import common
from lvae_min import data
from lvae_min.data import Dataset

STOCK = []  # in that process: the step, and its device


def networks(dataset: Dataset) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of Table 1 in PyTorch's own layers."""
    if dataset.network == "cnn":
        channels, latents = dataset.shape[0], dataset.latents
        encoder, decoder = [], [nn.Linear(latents, 256), nn.ReLU(), nn.Unflatten(1, (256, 1, 1))]
        for wide_in, wide_out in ((channels, 32), (32, 32), (32, 64), (64, 64)):
            encoder += [nn.Conv2d(wide_in, wide_out, 4, 2, 1), nn.ReLU()]
        encoder += [nn.Conv2d(64, 32, 4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2 * latents)]
        for wide_in, wide_out in ((256, 64), (64, 64), (64, 32), (32, 32), (32, channels)):
            decoder += [nn.ConvTranspose2d(wide_in, wide_out, 4, 2, int(wide_in < 256)), nn.ReLU()]
        return nn.Sequential(*encoder), nn.Sequential(*decoder[:-1])
    encoder = nn.Sequential(
        nn.Flatten(),
        nn.Linear(4096, 1200),
        nn.ReLU(),
        nn.Linear(1200, 1200),
        nn.ReLU(),
        nn.Linear(1200, 10),
    )
    decoder = nn.Sequential(
        nn.Linear(5, 1200),
        nn.ReLU(),
        nn.Linear(1200, 1200),
        nn.ReLU(),
        nn.Linear(1200, 4096),
        nn.Unflatten(1, (1, 64, 64)),
    )
    return encoder, decoder


def stock_step(dataset: Dataset, batch_size: int, device: torch.device) -> Callable[[], None]:
    """An iteration as tutorials write it: DataLoader, PyTorch's layers and Adam, Eq. 1 term by term."""
    images = dataset.batch(torch.arange(0, len(dataset), 40, device=device)).cpu()
    loader = DataLoader(TensorDataset(images), batch_size, shuffle=True, drop_last=True)
    encoder, decoder = networks(dataset)
    encoder, decoder = encoder.to(device), decoder.append(nn.Sigmoid()).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)
    batches = iter(loader)

    def step():
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        x = batch[0].to(device).float() * dataset.scale
        mu, logvar = encoder(x).chunk(2, 1)
        x_hat = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        rec = nn.functional.mse_loss(x_hat, x, reduction="sum") / len(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        optimizer.zero_grad()
        (rec + kl).backward()
        optimizer.step()

    return step


class Stock:
    """`stock_step` in a process of its own: seconds a call.

    The process starts while ours prepares; after `ready`, only one of the two works at a time.
    """

    def __init__(self, name: str, batch_size: int, device: torch.device):
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.begun = self.pool.submit(stock_begins, name, batch_size, str(device))

    def ready(self) -> None:
        self.begun.result()

    def seconds(self, calls: int) -> float:
        return self.pool.submit(stock_seconds, calls).result()

    def close(self) -> None:
        self.pool.shutdown()


def stock_begins(name: str, batch_size: int, device_name: str) -> None:
    device = torch.device(device_name)
    STOCK[:] = stock_step(data.load(name).to(device), batch_size, device), device


def stock_seconds(calls: int) -> float:
    step, device = STOCK
    return common.least({"": step}, rounds=0, calls=calls, device=device)[""]
