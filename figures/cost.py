"""How cost grows: time of an iteration over batch size and width, memory over the size of a data set.

python bench.py --json figures/data/bench.json
python figures/cost.py [figures/data/bench.json]       writes cost.png beside this file
"""

import json
import sys
from pathlib import Path

from common import DATA, save, script

from lvae_min.plots import new_figure


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "bench.json"
    if not file.exists():
        raise ValueError(f"{file}: not there; make it with python bench.py --json {file}")
    found = json.loads(file.read_text())
    if not found.get("growth"):
        raise ValueError(f"{file}: holds no measurement of growth; python bench.py --json {file}")
    figure, ((batch, width, memory),) = new_figure(11, 3.6, 1, 3)

    def line(axes, over, label=None):
        rows = [row for row in found["growth"] if row["over"] == over]
        axes.plot(
            [row["value"] for row in rows], [row["ms or GB"] for row in rows], "o-", label=label or over
        )

    line(batch, "batch size")
    batch.set(xlabel="batch size (images)", ylabel="time of an iteration (ms)", title="MLP, dSprites", ylim=0)
    line(width, "hidden units")
    width.set(xlabel="hidden units", ylabel="time of an iteration (ms)", title="MLP, batch 64", ylim=0)
    for over in ("images, bits in memory", "images, RGB in a file"):
        line(memory, over, over.removeprefix("images, "))
    memory.set(xlabel="images of 64 x 64", ylabel="memory (GB)", title="data set while it is trained on")
    memory.legend(fontsize=8)
    figure.suptitle(
        f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}, "
        f"commit {found['commit']}",
        fontsize=7,
    )
    save(figure, "cost.png")


script(main)
