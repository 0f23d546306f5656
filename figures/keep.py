"""Copy results.json and log.jsonl of finished runs to figures/data, for all figures but Fig. 4.

python figures/keep.py [runs]
"""

import shutil

from common import DATA, arguments, missing, read, script


def main() -> None:
    folder = arguments(__doc__).folder
    if folder.resolve() == DATA.resolve():
        raise ValueError(f"{folder}: holds what was kept; name the folder of the runs")
    runs = read(folder)
    if not runs:
        missing("a finished run", "--iterations 20000", folder)
    for run in runs:
        kept = DATA / run.folder.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "log.jsonl"):
            shutil.copy(run.folder / name, kept / name)
        print(f"kept: {kept}")


script(main)
