"""One evaluation against the 10,000 iterations between two."""

import torch

from bench import common
from lvae_min import data
from lvae_min.data import SCORED, Split
from lvae_min.evaluation import evaluate


def measure(device: torch.device) -> list[dict]:
    """One evaluation of 10,000 images beside the 10,000 iterations of 64 images between two (Sec. 6.3)."""
    rows = []
    for name in ("dsprites", "arm3d"):
        dataset = data.load(name).to(device)
        step = common.make_step(dataset, 64, device)
        index = Split.of(len(dataset)).validation[:SCORED]
        x = dataset.batch(torch.from_numpy(index[:1000]).to(device))

        @torch.no_grad()
        def encode(step=step, x=x):
            step.vae.posterior(x)

        def whole(step=step, dataset=dataset, index=index):
            evaluate(step.vae, dataset, index)

        evaluate(step.vae, dataset, index[:1000])  # warms up
        seconds = common.least({"evaluation": whole}, rounds=0, device=device)
        seconds |= common.least({"encode": encode, "step": step}, rounds=4, calls=3, device=device)
        rows.append(
            {
                "network": common.NETWORKS[name],
                "encoded images/s": len(x) / seconds["encode"],
                "evaluation, s": seconds["evaluation"],
                "step, ms": 1e3 * seconds["step"],
                "evaluation / 10,000 steps, %": seconds["evaluation"] / (1e2 * seconds["step"]),
            }
        )
    return rows
