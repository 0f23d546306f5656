"""Fig. 4: latent traversals of L-VAE; the paper shows CelebA, this shows each data set that was trained on.

    python figures/fig4.py [runs]       writes fig4-DATASET-1.png ... -3.png beside this file

As in the paper each latent has a range of its own, in brackets: here that of 99 % of the test images' codes.

Needs the networks (best.pt), which figures/data does not hold, and the data set of each.
"""

from collections import Counter

import numpy as np
import torch
from common import arguments, missing, protocol_title, provenance, rank, read, save, script, unusual

import lvae_min
from lvae_min import data, latents, plots
from lvae_min.datasets import specs
from lvae_min.evaluation import evaluate

IMAGES = 3  # that are traversed


def main() -> None:
    given = arguments(__doc__, networks=True)
    runs = [run for run in read(given.folder) if run["model"] == "lvae" and (run.folder / "best.pt").exists()]
    runs.sort(key=lambda run: (-run["iterations"], run["schedule"], len(unusual(run.protocol)), *rank(run)))
    longest = {}
    for run in runs:
        longest.setdefault(run["dataset"], run)
    if not longest:
        missing("an L-VAE and its network", "--model lvae --iterations 50000", given.folder)
    short = {name: specs.own_name(name) if specs.is_path(name) else name for name in longest}
    count = Counter(short.values())
    for name, run in longest.items():
        file = short[name] if count[short[name]] == 1 else run.folder.name
        try:
            dataset, vae = data.load(name, given.data), lvae_min.load(run.folder)
        except ValueError as error:
            print(f"left out: {error}")
            continue
        index = data.Split.of(len(dataset)).test[:2000]
        _, codes = evaluate(vae, dataset, index)
        ranges = np.quantile(codes, [0.005, 0.995], axis=0).T
        titles = latents.latent_titles(dataset, index, codes, latents.mean_kl(vae, dataset, index))
        for number, image in enumerate(index[:IMAGES], 1):
            images = latents.traversal(vae, dataset.batch(torch.from_numpy(np.array([image]))), ranges)
            heading = (
                f"Paper's Fig. 4, L-VAE{run.variant}, {protocol_title(run.protocol)}: each row moves one "
                f"latent of test image {number}\n{provenance([run])}"
            )
            figure = plots.traversal_figure(images.numpy(), titles, heading, ranges)
            save(figure, f"fig4-{file}-{number}.png")


script(main)
