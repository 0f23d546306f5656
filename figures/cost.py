"""How cost grows: time of an iteration over batch size and width, memory over the size of a data set.

python -m bench --json figures/data/bench.json
python figures/cost.py [figures/data/bench.json]       writes cost.png beside this file
"""

from pathlib import Path

from common import DATA, save, script
from matplotlib.figure import Figure

from lvae_min.io.records import check, commit, count, number, parse, text
from lvae_min.io.text import Parser, one_line
from lvae_min.plots import new_figure

FORM = {"device": text, "threads": count, "versions": {"torch": text}, "commit": commit}
ROW = {"over": text, "value": number, "ms or GB": number}


def measured(file: Path) -> dict:
    """What bench measured. Raises ValueError if the file is not there or holds something else."""
    again = f"make it with python -m bench --json {file}"
    if not file.exists():
        raise ValueError(f"{file}: not there; {again}")
    try:
        found = parse(file.read_bytes())
        check(found, FORM, "it")
        if not found.get("growth"):
            raise ValueError("growth is missing")
        for row in found["growth"]:
            check(row, ROW, "a measurement of growth")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: no measurement of growth ({one_line(error)[:200]}); {again}") from None
    return found


def picture(found: dict) -> Figure:
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
    return figure


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=DATA / "bench.json")
    save(picture(measured(parser.parse_args().file)), "cost.png")


if __name__ == "__main__":
    script(main)
