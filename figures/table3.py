"""Table 3: beta-VAE trained with the beta that L-VAE learned, beside that L-VAE; the paper's in brackets.

python figures/table3.py [runs]     writes table3.md beside this file
"""

from common import Finished, arguments, cut, flags, missing, provenance, read, script, write
from paper import BETA_HAT, COLUMNS, TABLE_2, TABLE_3
from table2 import TITLES

NEAR = 0.01  # a beta counts as the learned one if it is that near: run.py is given two digits


def pairs(runs: list[Finished]) -> list[tuple[Finished, Finished | None]]:
    """Each L-VAE run, and the beta-VAE run with its beta_hat and all else the same, if there is one."""
    found = []
    for run in runs:
        if run["model"] == "lvae" and "beta_vae" in run.results["scores"]:
            beta = run.results["scores"]["beta"]
            same = [
                other
                for other in runs
                if other["model"] == "beta-vae"
                and other.protocol == run.protocol
                and other["seed"] == run["seed"]
                and other["batch_size"] == run["batch_size"]
                and abs(other["beta"] - beta) <= NEAR
            ]
            found.append((run, same[0] if same else None))
    return found


def row(title: str, beta: float, run: Finished, paper: tuple | None) -> str:
    cells = [
        f"{run.results['scores'][name]:.2f}" + (f" ({paper[column]:.2f})" if paper else "")
        for column, name in enumerate(COLUMNS)
    ]
    return (
        f"| {run['dataset']} | {cut(run.protocol)} | {run['seed']} | {title} | {beta:.2f} | "
        + " | ".join(cells)
        + " |"
    )


def text(found: list[tuple[Finished, Finished]]) -> str:
    heads = ["data set", "iterations", "seed", "method", "beta", *TITLES.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|--:|---|" + "--:|" * (len(heads) - 4)]
    for learned, given in found:
        dataset = learned["dataset"]
        lines.append(row("beta-VAE, beta = beta_hat", given["beta"], given, TABLE_3.get(dataset)))
        lines.append(row("L-VAE", learned.results["scores"]["beta"], learned, TABLE_2.get((dataset, "lvae"))))
    made = [run for pair in found for run in pair]
    named = ", ".join(f"{dataset} {beta}" for dataset, beta in BETA_HAT.items())
    return "\n".join(
        [*lines, "", f"{provenance(made)}. In brackets: the paper's Table 3, whose beta_hat are {named}."]
    )


def main() -> None:
    found = pairs(read(arguments(__doc__).folder))
    if not found:
        missing("L-VAE", "--model lvae --iterations 50000 --schedule 300000")
    for run, other in found:
        if other is None:
            missing(
                f"beta-VAE with the beta of {run.folder.name}",
                f"--model beta-vae --beta {run.results['scores']['beta']:.2f} {flags(run.protocol)} "
                f"--batch-size {run['batch_size']} --seed {run['seed']}",
            )
    whole = [(run, other) for run, other in found if other is not None]
    if whole:
        print(text(whole))
        write("table3.md", text(whole))


if __name__ == "__main__":
    script(main)
