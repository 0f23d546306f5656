"""Fig. 2: reconstruction loss against the beta-VAE score of many networks, coloured by beta.

    python figures/fig2.py [runs]       writes fig2.png beside this file

A point is a network of a VAE (beta = 1) or beta-VAE run at one evaluation, on validation images.
"""

from textwrap import fill

from common import Finished, arguments, missing, protocol_title, provenance, read, save, script

from lvae_min.plots import new_figure


def weight(run: Finished) -> float:
    """beta of a run; a VAE's is 1."""
    return 1.0 if run["model"] == "vae" else run["beta"]


def main() -> None:
    folder = arguments(__doc__).folder
    runs = [run for run in read(folder) if run["model"] in ("vae", "beta-vae")]
    runs = [run for run in runs if any("beta_vae" in line["validation"] for line in run.evaluations)]
    if not runs:
        search = "--model vae beta-vae --beta 2 4 --batch-size 32 64 128 256 --jobs 2"
        missing("VAE and beta-VAE", search, folder)
        return
    panels = sorted({run.protocol for run in runs}, key=str)
    figure, axes = new_figure(4.6 * len(panels), 4, 1, len(panels))
    for cell, protocol in zip(axes[0], panels, strict=True):
        here = [run for run in runs if run.protocol == protocol]
        values = sorted({weight(run) for run in here})
        for beta in values:
            scored = [line["validation"] for run in here if weight(run) == beta for line in run.evaluations]
            cell.scatter(
                [line["beta_vae"] for line in scored],
                [line.get("rec_mean", line["rec"]) for line in scored],
                s=14,
                color=f"C{values.index(beta)}",
                label=f"beta = {beta:g}",
            )
        cell.set(
            title=protocol_title(protocol),
            xlabel="beta-VAE score (0 to 1)",
            ylabel="reconstruction loss of z = mu (squared error)",
        )
        cell.legend(fontsize=8)
    figure.suptitle(f"Paper's Fig. 2\n{fill(provenance(runs), 90 * len(panels))}", fontsize=7)
    save(figure, "fig2.png")


script(main)
