"""The fixed point that Eq. 5 implies, compared with the paper's Table 2 and these runs.

python figures/fixed_point.py [runs]        writes fixed_point.md beside this file

dL/ds_i = 0:  s_i^4 = L_i,   beta_hat = s_0^2 / s_1^2 = sqrt(rec / kl),   L = 2 (sqrt(rec) + sqrt(kl))
"""

from math import inf, sqrt

from common import arguments, missing, protocol_title, provenance, read, script, write
from paper import BETA_HAT, COLUMNS, SELECTED_ITERATION, TABLE_2

from lvae_min.config import one_cycle
from lvae_min.losses import PAPER_ITERATIONS


def paper_table() -> list[str]:
    """The KL that rec and beta_hat of each L-VAE row of Table 2 imply, if it is at its fixed point."""
    lines = [
        "| data set | rec (paper) | beta_hat (paper) | KL implied, rec / beta_hat^2 | loss implied |",
        "|---|--:|--:|--:|--:|",
    ]
    for dataset, beta in BETA_HAT.items():
        rec = TABLE_2[dataset, "lvae"][COLUMNS.index("rec_mean")]
        kl = rec / beta**2
        lines.append(f"| {dataset} | {rec:.2f} | {beta:.2f} | {kl:.2f} | {2 * (sqrt(rec) + sqrt(kl)):.2f} |")
    return lines


def reach_table() -> list[str]:
    """How far s_0 comes by the iteration of the paper's dSprites row, and where that row's fixed point is.

    Adam moves a scale by at most the learning rate an iteration as long as its gradient does not grow: then
    s_0 <= 1 + sum of the rates.
    """
    rec = TABLE_2["dsprites", "lvae"][COLUMNS.index("rec_mean")]
    rises = {
        "a line, as here": one_cycle(PAPER_ITERATIONS, SELECTED_ITERATION),
        "a cosine, PyTorch's default (`--warmup cosine`)": one_cycle(
            PAPER_ITERATIONS, SELECTED_ITERATION, "cosine"
        ),
        f"a line, in a schedule of {SELECTED_ITERATION:,}": one_cycle(SELECTED_ITERATION, SELECTED_ITERATION),
    }
    return [
        f"| learning rate rises along | sum of the first {SELECTED_ITERATION:,} rates | s_0 at most "
        f"| s_0 at the fixed point, {rec}^(1/4) |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | {rates.sum():.2f} | {1 + rates.sum():.2f} | {rec**0.25:.2f} |"
            for name, rates in rises.items()
        ),
    ]


def run_table(runs: list) -> list[str]:
    """Scales at the end of each run, and the fourth roots of its terms over its last 1,000 iterations."""
    lines = [
        "| run | batch | seed | rec | KL | beta_hat | sqrt(rec / KL) | s_0^4 / rec - 1 | s_1^4 / KL - 1 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        end, last = run.results["equilibrium"], run.log[-1]
        first, second = end["residuals"].values()
        implied = sqrt(end["rec"] / end["kl"]) if end["kl"] else inf
        lines.append(
            f"| {protocol_title(run.protocol)}{run.variant} | {run['batch_size']} | {run['seed']} "
            f"| {end['rec']:.2f} | {end['kl']:.2f} | {last['beta']:.3f} "
            f"| {implied:.3f} | {first:+.3f} | {second:+.3f} |"
        )
    return lines


def text(runs: list) -> str:
    lines = [*paper_table(), "", *reach_table()]
    if runs:
        lines += [
            "",
            *run_table(runs),
            "",
            f"{provenance(runs)}. In a run whose schedule was cut short the scales have not converged: "
            "its scales are still on their way.",
        ]
    return "\n".join(lines)


def main() -> None:
    folder = arguments(__doc__).folder
    runs = [run for run in read(folder) if run["model"] == "lvae"]
    if not runs:
        missing("L-VAE", "--model lvae --iterations 50000", folder)
    write("fixed_point.md", text(runs))
    print(text(runs))


if __name__ == "__main__":
    script(main)
