"""docs/digits.py as it stands: it trains, does not collapse, and nears the fixed point of Eq. 5."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_script_of_the_page_trains_and_nears_the_fixed_point(tmp_path):
    command = [
        sys.executable,
        "-W",
        "default",
        str(ROOT / "docs" / "digits.py"),
        str(tmp_path / "digits.png"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [[*map(float, re.findall(r"[\d.]+", line))] for line in done.stdout.splitlines()]
    assert [step[0] for step in steps] == [500, 1000, 1500, 2000]
    (_, first, *_), (_, rec, kl, beta, settled) = steps[0], steps[-1]
    assert rec < first and kl > 5 and beta == pytest.approx(settled, rel=0.15)
    assert (tmp_path / "digits.png").stat().st_size > 5000
