"""Which form of sigma-VAE would have the paper's reconstruction loss: three others, trained as ours is.

    python figures/sigma.py [--iterations 4000] [--out runs/sigma]     trains them, writes data/sigma.json

A run that is finished is skipped, one that was stopped is resumed.
"""

import json
import math
from pathlib import Path
from unittest import mock

from common import DATA, script
from paper import TABLE_2

import lvae_min
from lvae_min import losses
from lvae_min.io.text import Parser

FILE = DATA / "sigma.json"
D = 64 * 64  # pixels


class Optimal(losses.SigmaVAE):
    """s^2 = rec / D of the batch instead of a parameter (Rybkin et al. 2021, Sec. 3)."""

    def combine(self, rec, kl, pixels):
        self.rec = rec.detach()
        return pixels / 2 * (rec / pixels).log() + kl + 0 * self.log_sigma

    def beta(self):
        return 2 * self.rec / D if hasattr(self, "rec") else super().beta()


class Averaged(losses.SigmaVAE):
    """The log-likelihood is a mean over pixels, KL a sum over latents."""

    def combine(self, rec, kl, pixels):
        log_s = self.log_scale()
        return rec / pixels / (2 * (2 * log_s).exp()) + log_s + kl

    def beta(self):
        return D * super().beta()


class OneLogarithm(losses.SigmaVAE):
    """rec is weighed as a single number, with log s once, as in Eq. 4 (Kendall et al. 2018)."""

    def combine(self, rec, kl, pixels):
        log_s = self.log_scale()
        return rec / (2 * (2 * log_s).exp()) + log_s + kl


FORMS = {
    "one scale, D log s (ours)": losses.SigmaVAE,
    "s^2 = rec / D of each batch": Optimal,
    "mean over pixels": Averaged,
    "log s once": OneLogarithm,
}


def train(iterations: int, out: Path) -> dict:
    """What each form ends with, and where that was."""
    rows, commits = [], set()
    for number, (form, objective) in enumerate(FORMS.items()):
        with mock.patch.dict(losses.OBJECTIVES, {"sigma-vae": objective}):
            found = lvae_min.fit(model="sigma-vae", iterations=iterations, out=out / str(number))
        rows.append(
            {"form": form, **{name: found["last"][name] for name in ("rec_mean", "rec", "kl", "beta")}}
        )
        commits.add(found["commit"])
    made = {name: found[name] for name in ("device", "threads", "versions")}
    return {"iterations": iterations, "commit": ", ".join(sorted(commits)), **made, "rows": rows}


def text(found: dict) -> str:
    """A table: each form, with the paper's rec."""
    lines = ["| form | rec of mu | rec, sampled z | KL | beta |", "|---|--:|--:|--:|--:|"]
    for row in found["rows"]:
        beta = f"{row['beta']:.3g}" if math.isfinite(row["beta"]) else "-"
        lines.append(
            f"| {row['form']} | {row['rec_mean']:.1f} | {row['rec']:.1f} | {row['kl']:.2f} | {beta} |"
        )
    note = (
        f"Test images, {found['iterations']:,} iterations, seed 0; the paper's rec is "
        f"{TABLE_2['dsprites', 'sigma-vae'][0]:.2f}. Commit {found['commit']}, {found['device']}."
    )
    return "\n".join([*lines, "", note])


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=4000, help="of each run (default: 4000)")
    parser.add_argument("--out", type=Path, default=Path("runs/sigma"), help="folder of the runs")
    given = parser.parse_args()
    found = train(given.iterations, given.out)
    FILE.write_text(json.dumps(found, indent=1))
    print(text(found))


if __name__ == "__main__":
    script(main)
