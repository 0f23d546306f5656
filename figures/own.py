"""The example of docs/data.md, real images of one's own: its commands, what they print, and its pictures.

    python figures/own.py [FOLDER]     writes data/own/ beside this file

It writes the images, trains, encodes and scores in FOLDER (default: runs/own), which takes minutes.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from common import DATA, HERE, Finished, provenance, script
from PIL import Image

from lvae_min.io.text import Parser

ROOT = HERE.parent
KEPT = DATA / "own"
RUN = "runs/digits-lvae-iterations1500-batch-size16"
COMMANDS = (
    "python docs/own.py",
    "python run.py --dataset digits.npz --model lvae --batch-size 16 --iterations 1500",
    f"python -m lvae_min.encode {RUN} digits.npz -o codes.npz",
    "python -m lvae_min.metrics codes.npz",
    f"python -m lvae_min.decode {RUN} codes.npz -o decoded.npz",
)
PICTURES = ("reconstructions", "traversal")
GREYS = 24  # of the kept pictures
LAST = 5  # lines of the training's output that are shown, beside its first


def printed(command: str, folder: Path) -> str:
    """What a command prints in `folder`. Raises ValueError if it fails."""
    program, *words = shlex.split(command)
    words = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"{command}: {done.stderr[-300:]}")
    return done.stdout


def text(kept: Path = KEPT) -> str:
    """The script, the commands with what they printed, and where that was."""
    lines = []
    for command, output in json.loads((kept / "output.json").read_text()).items():
        shown = output.splitlines()
        lines += [f"$ {command}", *([shown[0], "...", *shown[-LAST:]] if len(shown) > 2 * LAST else shown)]
    run = Finished(kept, json.loads((kept / "run.json").read_text()), [])
    source = (ROOT / "docs" / "own.py").read_text().strip()
    return "\n".join([f"```python\n{source}\n```", "", "```text", *lines, "```", "", f"{provenance([run])}."])


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/own"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    output = {command: printed(command, folder) for command in COMMANDS}
    KEPT.mkdir(exist_ok=True)
    (KEPT / "output.json").write_text(json.dumps(output, indent=1) + "\n")
    shutil.copy(folder / RUN / "results.json", KEPT / "run.json")  # not results.json: no run of the study
    for name in PICTURES:
        with Image.open(folder / RUN / f"{name}.png") as picture:
            picture.convert("L").quantize(GREYS).save(KEPT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    script(main)
