"""Runs of the paper's setting that were stopped, each beside seed 0 at the same iteration."""

import gzip
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "figures"))

import stopped
from paper import METHODS

from lvae_min.report import SCORES


def log(end: int, score: float, beta: float = 1.0) -> list[dict]:
    """Lines of every 1,000th iteration, evaluated at 1,000 and each 10,000th, where `score` is the score."""
    lines = []
    for step in range(1000, end + 1, 1000):
        line = {"step": step, "rec": 9.0, "kl": 2.0, "beta": beta, "sigma_0": None, "sigma_1": None}
        if step % 10_000 == 0 or step == 1000:
            found = dict.fromkeys(SCORES, score + step / 1e6)
            line["validation"] = {"rec": 8.0, "rec_mean": 7.0, "kl": 2.0, **found}
        lines.append(line)
    return lines


def write(folder: Path, name: str, lines: list[dict]) -> None:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(content))


@pytest.fixture
def runs(tmp_path):
    write(tmp_path, "vae-linear-batch64-tf32-seed1.jsonl.gz", log(33_000, 0.5))
    write(tmp_path, "beta-vae-beta2-linear-batch64-tf32-seed2.jsonl.gz", log(20_000, 0.6, 2.0))
    return stopped.logs(tmp_path)


def test_a_stopped_run_stands_beside_seed_0_at_its_last_evaluation(runs):
    first = {method: log(300_000, 0.1) for method in METHODS}
    rows = [line for line in stopped.text(first, runs).splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:4] for row in cells] == [
        ["VAE", "0", "cosine", "30,000"],
        ["VAE", "1", "linear", "30,000"],
        ["beta-VAE, beta 1", "0", "cosine", "20,000"],
        ["beta-VAE, beta 2", "2", "linear", "20,000"],
    ]
    assert [row[7] for row in cells] == ["0.13", "0.53", "0.12", "0.62"]
    assert all(row[4:6] == ["7.00", "2.00"] for row in cells)


def test_the_picture_has_a_line_a_method_and_seed_up_to_where_it_came(runs):
    first = {method: log(300_000, 0.1) for method in METHODS}
    (axes, _) = stopped.picture(first, runs).axes
    lines = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert {name: (steps[0], steps[-1]) for name, steps in lines.items()} == {
        "VAE, seed 0": (10_000, 300_000),
        "L-VAE, seed 0": (10_000, 300_000),
        "VAE, seed 1": (10_000, 30_000),
    }


def test_a_log_of_another_name_is_refused(tmp_path):
    write(tmp_path, "some-vae.jsonl.gz", log(10_000, 0.5))
    with pytest.raises(ValueError, match="named otherwise"):
        stopped.logs(tmp_path)
