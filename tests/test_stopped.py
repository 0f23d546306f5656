"""Runs of the paper's setting over seeds, and those that were stopped on the way."""

import gzip
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "figures"))

import full
import stopped
from paper import METHODS
from test_study import row

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


@pytest.fixture
def complete():
    """One run of each method, L-VAE's a second time."""
    logs = {method: log(300_000, 0.1) for method in METHODS}
    return full.every(logs, [({**row("lvae", seed=1), "warmup": "linear"}, log(300_000, 0.2))])


def test_a_stopped_run_stands_beside_those_of_its_method_and_of_l_vae(runs, complete):
    rows = [line for line in stopped.text(complete, runs).splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:4] for row in cells] == [
        ["VAE", "1", "linear", "30,000"],
        ["VAE", "0", "cosine", "30,000"],
        ["L-VAE", "0", "cosine", "30,000"],
        ["L-VAE", "1", "linear", "30,000"],
        ["beta-VAE, beta 2", "2", "linear", "20,000"],
        ["beta-VAE, beta 4", "0", "cosine", "20,000"],
        ["L-VAE", "0", "cosine", "20,000"],
        ["L-VAE", "1", "linear", "20,000"],
    ]
    assert [row[7] for row in cells] == ["0.53", "0.13", "0.13", "0.23", "0.62", "0.12", "0.12", "0.22"]
    assert all(row[4:6] == ["7.00", "2.00"] for row in cells)


def test_the_picture_over_seeds_has_a_line_a_method_and_seed(complete):
    (axes, _) = full.over_seeds(complete).axes
    assert {line.get_label(): line.get_linestyle() for line in axes.lines} == {
        "VAE, seed 0": "--",
        "beta-VAE, beta 4, seed 0": "--",
        "ControlVAE, seed 0": "--",
        "L-VAE, seed 0": "--",
        "L-VAE, seed 1": "-",
    }
    assert all((line.get_xdata()[0], line.get_xdata()[-1]) == (10_000, 300_000) for line in axes.lines)


def test_a_log_of_another_name_is_refused(tmp_path):
    write(tmp_path, "some-vae.jsonl.gz", log(10_000, 0.5))
    with pytest.raises(ValueError, match="named otherwise"):
        stopped.logs(tmp_path)
