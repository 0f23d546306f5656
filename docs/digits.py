"""The loss of L-VAE in a VAE of your own: the 1,797 handwritten digits of scikit-learn, as 32 x 32 pixels."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import lvae_min

torch.manual_seed(0), torch.set_num_threads(1)
small = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]  # (1797, 1, 8, 8) in [0, 1]
images = nn.functional.interpolate(small, size=32, mode="bilinear").flatten(1)  # (1797, 1024)


class MyVAE(nn.Module):
    def __init__(self, latents=6):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, 256), nn.ReLU(), nn.Linear(256, 1024))

    def forward(self, x):
        mu, logvar = self.encoder(x).chunk(2, 1)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        return self.decoder(z), mu, logvar  # logits: the criterion applies the sigmoid


model, criterion = MyVAE(), lvae_min.LVAE()
scales = {"params": criterion.parameters(), "lr": 3e-3}  # a short run: let the scales converge in time
optimizer = torch.optim.Adam([{"params": model.parameters()}, scales], lr=1e-3)
curve = []
for step in range(1, 2001):
    x = images[torch.randint(len(images), (128,))]
    logits, mu, logvar = model(x)
    loss, rec, kl = criterion(logits, x, mu, logvar)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append((rec.item(), kl.item(), criterion.beta().item()))
    if step % 500 == 0:
        rec, kl, beta = torch.tensor(curve[-500:]).mean(0).tolist()
        settled = (rec / kl) ** 0.5
        print(f"step {step}  rec {rec:.1f}  kl {kl:.2f}  beta_hat {beta:.2f}  sqrt(rec / kl) {settled:.2f}")

if sys.argv[1:]:  # a file for the curves
    from matplotlib import pyplot

    for values, name in zip(zip(*curve, strict=True), ("rec", "kl (nats)", "beta_hat"), strict=True):
        pyplot.semilogy(values, label=name, lw=0.7)
    pyplot.xlabel("step"), pyplot.legend(), pyplot.title("L-VAE on scikit-learn's digits")
    pyplot.savefig(sys.argv[1], dpi=80)
