"""Fig. 3: the learned scales sigma_0, sigma_1 of L-VAE and the validation score over iterations.

    python figures/fig3.py [runs]       writes fig3.png beside this file

The red line is the selected iteration. One panel for each data set and schedule, of the first seed.
"""

import math
from textwrap import fill

from common import Finished, arguments, missing, protocol_title, provenance, rank, read, save, script
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lvae_min.plots import new_figure


def picture(found: list[Finished]) -> Figure:
    """A panel for each protocol of L-VAE runs."""
    runs = {}
    for run in found:
        first = runs.setdefault(run.protocol, run)
        runs[run.protocol] = min(first, run, key=rank)
    columns = min(len(runs), 3)
    rows = math.ceil(len(runs) / columns)
    figure, axes = new_figure(5 * columns, 4 * rows, rows, columns)
    for cell in axes.flat[len(runs) :]:
        cell.axis("off")
    for cell, (protocol, run) in zip(axes.flat[: len(runs)], runs.items(), strict=True):
        steps = [line["step"] for line in run.log]
        for name, title in (("sigma_0", "sigma_0 (rec)"), ("sigma_1", "sigma_1 (kl)")):
            cell.plot(steps, [line[name] for line in run.log], label=title)
        cell.axvline(run.results["selected"]["iteration"], color="C3", lw=1, label="selected")
        cell.set(xlabel="iterations", ylabel="learned scale")
        other = f", batch {run['batch_size']}" * (run["batch_size"] != 64)
        cell.set_title(fill(protocol_title(protocol) + other + run.variant, 48), fontsize=10)
        cell.xaxis.set_major_locator(MaxNLocator(5))
        scored = [line for line in run.evaluations if "beta_vae" in line["validation"]]
        score = cell.twinx()
        score.plot(
            [line["step"] for line in scored],
            [line["validation"]["beta_vae"] for line in scored],
            "C2.-",
            label="beta-VAE score",
        )
        score.set(ylabel="beta-VAE score, validation (0 to 1)", ylim=(0, 1.05))
        lines = [*cell.get_lines(), *score.get_lines()]
        score.legend(lines, [line.get_label() for line in lines], fontsize=8, loc="lower right", framealpha=1)
    made = fill(provenance(list(runs.values())), 90 * len(runs))
    figure.suptitle(f"Paper's Fig. 3\n{made}", fontsize=7)
    return figure


def main() -> None:
    folder = arguments(__doc__).folder
    runs = [run for run in read(folder) if run["model"] == "lvae"]
    if not runs:
        missing("L-VAE", "--model lvae --iterations 50000 --schedule 300000", folder)
        return
    save(picture(runs), "fig3.png")


if __name__ == "__main__":
    script(main)
