"""How a loss of small scale drives L-VAE into a collapse, and what `--sigma-freeze` does about it.

    python figures/collapse.py [FOLDER]     writes collapse.md and data/collapse.json beside this file

It trains three small runs in FOLDER (default: runs/collapse), which takes minutes.

The images are soft grey dots of 32 x 32 pixels, whose variance is a 23rd of dSprites'. As long as KL is
small, sigma_1 falls towards its fourth root, which makes KL dearer and smaller still (docs/theory.md).
"""

import json
from pathlib import Path
from unittest import mock

import numpy as np
from common import DATA, script, write

from lvae_min import model, report
from lvae_min.config import Config
from lvae_min.data import Dataset
from lvae_min.datasets.specs import Spec
from lvae_min.datasets.stores import Pixels
from lvae_min.io.text import Parser
from lvae_min.stored import finished
from lvae_min.train import Run

ITERATIONS, HIDDEN, CONTRAST = 6000, 400, 0.4
RUNS = (("vae", 0.0), ("lvae", 0.05), ("lvae", 0.5))


def dots() -> Dataset:
    """Dots of 4 sizes at 32 x 32 places: 4,096 grey images of 32 x 32, of which white is CONTRAST."""
    width, y, x = np.meshgrid([3.0, 4.0, 5.0, 6.0], *[np.linspace(6, 24, 32)] * 2, indexing="ij")
    pixel = np.arange(32)
    square = (pixel[:, None] - y[..., None, None]) ** 2 + (pixel - x[..., None, None]) ** 2
    grey = np.exp(-square / (2 * width[..., None, None] ** 2)).reshape(-1, 32, 32, 1)
    spec = Spec((1, 32, 32), {"size": 4, "y": 32, "x": 32}, network="mlp")
    dataset = Dataset("dots", "drawn", spec, Pixels((255 * grey).round().astype(np.uint8)))
    dataset.scale *= CONTRAST
    return dataset


def trained(method: str, freeze: float, folder: Path) -> dict:
    """The last line of the log of one of the runs, trained if it is not there, and what it was."""
    config = Config(
        "dots.npz",
        method,
        iterations=ITERATIONS,
        latents=5,
        sigma_freeze=freeze,
        threads=1,
        device="cpu",
    )
    folder = folder / f"dots-{method}-{freeze:g}"
    with mock.patch.object(model, "HIDDEN", HIDDEN), mock.patch.object(Run, "draw", lambda *_: None):
        if finished(config, folder) is None:
            run = Run(config, folder, dots())
            run.train()
            run.finish()
            run.close()
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    return {"method": method, "sigma_freeze": freeze, **last}


def table(rows: list[dict]) -> str:
    lines = [
        "| method | `--sigma-freeze` | rec | KL | sigma_0 | sigma_1 | sigma_1^4 / KL - 1 | collapsed |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        scales = [f"{row[name]:.3f}" if row[name] is not None else "" for name in ("sigma_0", "sigma_1")]
        residual = f"{row['sigma_1'] ** 4 / row['kl'] - 1:+.3f}" if row["sigma_1"] is not None else ""
        lines.append(
            f"| {row['method']} | {row['sigma_freeze'] or ''} | {row['rec']:.2f} | {row['kl']:.3f} "
            f"| {' | '.join(scales)} | {residual} | {'yes' if row['collapsed'] else 'no'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/collapse"))
    folder = parser.parse_args().folder
    rows = [trained(method, freeze, folder) for method, freeze in RUNS]
    (DATA / "collapse.json").write_text(json.dumps({"rows": rows, "commit": report.commit()}, indent=1))
    write("collapse.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    script(main)
