"""The runs behind the default's learning rate and length, and the paper's setting to its end."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import common
import full
import keep
import numpy as np
import pytest
import rate
from paper import METHODS
from PIL import Image
from test_figures import make_run

from lvae_min.report import SCORES

ROOT = Path(__file__).resolve().parent.parent
PAPER = common.DATA / "paper"


def runs_of_the_paper() -> list[dict]:
    with (PAPER / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_no_run_stands_in_the_table_twice():
    rows = rate.kept()
    assert len(rows) == 78
    assert max(Counter(map(rate.identity, rows)).values()) == 1


def test_every_number_of_the_table_is_a_possible_one():
    for row in rate.kept():
        assert 0 <= min(row[name] for name in SCORES if row[name] is not None)
        assert max(row[name] for name in SCORES if row[name] is not None) <= 1
        assert 10 < row["rec"] < 160 and 0 <= row["kl"] < 65
        assert row["rec_mean"] is None or 10 < row["rec_mean"] <= row["rec"]
        assert row["beta"] is None or 0.004 < row["beta"] < 110
        assert 1e-4 <= row["peak_rate"] <= 4e-3 and row["batch"] in (32, 64, 128, 256)
        assert 1_000 <= row["network_iteration"] <= row["iterations"] <= row["schedule"] <= 300_000
        assert (row["network"] == "last") == (row["network_iteration"] == row["iterations"])
        assert row["images"] in ("validation", "test") and row["warmup"] in ("cosine", "linear")
        assert (row["method"] == "beta-vae") == (row["beta_given"] == 4)
        assert row["beta"] in (None, 4) or row["method"] != "beta-vae"
        assert row["beta"] == 1 or row["method"] != "vae"


def test_the_table_holds_the_runs_of_the_gpu_digit_by_digit():
    rows = {
        (row["method"], row["peak_rate"], row["iterations"], row["seed"]): row
        for row in rate.kept()
        if row["device"] == "NVIDIA H200"
    }
    runs = runs_of_the_paper()
    assert len(runs) == len(rows) == 30
    for run in runs:
        row = rows[run["method"], float(run["peak_rate"]), int(run["iterations"]), int(run["seed"])]
        for name in ("rec", "kl", "beta", *SCORES):
            assert row[name] == float(run[name])
        assert row["rec_mean"] == float(run["rec_of_mu"])


def test_the_table_holds_runs_of_figures_data_as_they_ended():
    folders = {run.folder.name: run for run in common.read(common.DATA)}
    rows = [row for row in rate.kept() if row["source"].startswith("finished runs: ")]
    assert len(rows) == 5
    for row in rows:
        run = folders[row["source"].removeprefix("finished runs: ")]
        assert rate.identity(row) == rate.identity(rate.row_of(run))
        ends = [{**run.log[-1]["validation"], "beta": run.log[-1]["beta"]}]
        if row["images"] == "test":
            assert run.results["selected"]["iteration"] == row["iterations"]
            ends = [run.results["scores"]]
        for name in ("rec", "kl", "beta", *SCORES):
            assert row[name] == pytest.approx(ends[0][name], abs=5.1e-5)


@pytest.mark.parametrize(
    "broken",
    [
        lambda cells: cells[:-1],
        lambda cells: [*cells, "1"],
        lambda cells: ["x" if cell == "20000" else cell for cell in cells],
        lambda cells: ["gan" if cell in METHODS else cell for cell in cells],
    ],
)
def test_a_damaged_line_of_the_table_is_named(tmp_path, monkeypatch, broken):
    lines = rate.TABLE.read_text().splitlines()
    place = next(place for place, line in enumerate(lines) if ",20000," in line)
    lines[place] = ",".join(broken(lines[place].split(",")))
    monkeypatch.setattr(rate, "TABLE", tmp_path / "rate.csv")
    rate.TABLE.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"rate\.csv: line {place + 1} is damaged"):
        rate.kept()


def test_the_summary_holds_the_means_of_the_table():
    rows = rate.kept()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in rate.table(rows).splitlines()]
    counted = 0
    for method, peak, length, batch, runs, seeds, *means, good in lines[2:]:
        peak, _, other = peak.partition(", ")
        iterations, _, schedule = length.replace(",", "").partition(" of ")
        same = [
            row
            for row in rows
            if row["network"] == "last"
            and METHODS[row["method"]] == method.removesuffix(", beta 4")
            and (row["peak_rate"], row["batch"]) == (float(peak), int(batch))
            and (row["iterations"], row["schedule"]) == (int(iterations), int(schedule or iterations))
            and (row["start_rate"] is not None) == other.startswith("start")
            and (row["warmup"] == "linear") == other.startswith("rise")
        ]
        assert (int(runs), int(seeds)) == (len(same), len({row["seed"] for row in same}))
        for mean, name, digits in zip(means, ("rec", "kl", "mig", "beta_vae"), (1, 1, 2, 2), strict=True):
            wanted = sum(row[name] for row in same) / len(same)
            assert float(mean) == pytest.approx(wanted, abs=0.5001 * 10**-digits)
        ended_well = sum(row["mig"] >= 0.15 for row in same)
        assert good == (f"{ended_well} of {len(same)}" if method == "beta-VAE, beta 4" else "")
        counted += len(same)
    assert counted == len(rows) - 1  # of one run only the selected network is known


def test_the_peaks_of_the_default():
    assert rate.default_rate(300_000) == pytest.approx(1e-4)
    assert rate.default_rate(10_000) == pytest.approx(5.4772e-4, rel=1e-4)


def test_peaks_of_one_thousandth_and_above_end_with_a_low_mig_as_the_title_says():
    rows = rate.comparable(rate.all_runs(None))
    high = [row["mig"] for row in rows if row["peak_rate"] >= 1e-3]
    assert len(high) > 20 and max(high) < rate.GOOD_MIG
    assert max(row["mig"] for row in rows if row["peak_rate"] < 1e-3) > rate.GOOD_MIG


@pytest.fixture
def more(tmp_path):
    """A folder for copies of a kept run, and how to make one with other settings or another device."""

    def copy(name, device="a new CPU", of="vae-iterations20000-threads1", **settings):
        shutil.copytree(common.DATA / f"dsprites-{of}", tmp_path / name)
        file = tmp_path / name / "results.json"
        results = json.loads(file.read_text())
        results["settings"] |= settings
        results["device"] = device or results["device"]
        file.write_text(json.dumps(results))

    return tmp_path, copy


def test_a_finished_run_is_added_once_at_the_peak_of_its_rate(more):
    folder, copy = more
    known = rate.all_runs(None)
    copy("again", device=None)  # the one of figures/data
    copy("new", rate=7e-4, seed=5)
    copy("wider", latents=10)
    copy("held", of="lvae-iterations20000", sigma_freeze=0.5)
    copy("images", dataset="my images.npz")
    copy("constant", rate_form="constant")
    (row,) = [row for row in rate.all_runs(folder) if row not in known]
    assert (row["peak_rate"], row["seed"], row["batch"], row["images"]) == (7e-4, 5, 64, "test")
    assert row in rate.comparable([row]) and "| VAE | 7e-4 | 20,000 | 64 | 1 | 1 | 25.1 |" in rate.table(
        [row]
    )


def test_a_run_whose_last_network_was_not_selected_counts_with_its_last_validation(more):
    folder, copy = more
    copy("new", seed=5)
    file = folder / "new" / "results.json"
    results = json.loads(file.read_text())
    results["selected"]["iteration"] = 2000
    file.write_text(json.dumps(results))
    (run,) = common.read(folder)
    row, last = rate.row_of(run), run.log[-1]["validation"]
    assert row["images"] == "validation" and row["rec"] == last["rec"] != results["scores"]["rec"]
    assert all(row[name] == last[name] for name in SCORES) and row["beta"] == 1


def test_no_point_of_the_figure_covers_another():
    figure = rate.picture(rate.all_runs(None))
    figure.draw_without_rendering()
    for cell in figure.axes:
        points = [line for line in cell.lines if line.get_marker() not in ("None", "")]
        assert len(points) == len(rate.comparable(rate.all_runs(None)))
        middles = np.array([cell.transData.transform(line.get_xydata()[0]) for line in points])
        sizes = np.array([line.get_markersize() for line in points])
        distances = np.hypot(*(middles[:, None] - middles[None]).T)
        least = 0.45 * (sizes[:, None] + sizes[None]) * 100 / 72
        assert (distances >= least)[~np.eye(len(points), dtype=bool)].all()


def test_a_rec_beyond_the_panel_is_written_next_to_its_point():
    figure = rate.picture(rate.kept())
    assert [text.get_text() for text in figure.axes[0].texts] == ["132 ↑"]
    assert figure.axes[0].get_ylim()[1] < 50


@pytest.mark.parametrize("method", METHODS)
def test_a_log_of_full_length_has_a_line_every_thousand_iterations_and_thirty_validations(method):
    log = full.full_length()[method]
    assert [line["step"] for line in log] == list(range(1_000, 300_001, 1_000))
    found = full.validations(log)
    assert [line["step"] for line in found] == list(range(10_000, 300_001, 10_000))
    assert all(set(SCORES) < set(line["validation"]) for line in found)


def doctored(scores: dict[int, float]) -> list[dict]:
    """A log of 100,000 iterations with these validation scores."""
    lines = [{"step": step} for step in range(1_000, 100_001, 1_000)]
    for line in lines:
        if line["step"] in scores:
            line["validation"] = {"mig": scores[line["step"]], "sap": -scores[line["step"]]}
    return lines


def test_the_best_validation_is_selected_the_first_of_equal_ones_and_never_the_early_evaluation_or_nan():
    log = doctored({1_000: 0.9, 10_000: 0.2, 20_000: math.nan, 30_000: 0.4, 50_000: 0.4, 60_000: 0.1})
    assert full.selected(log, "mig")["step"] == 30_000
    assert full.selected(log, "sap")["step"] == 60_000


def test_each_run_selected_what_its_log_says():
    chosen = {
        run["method"]: int(run["selected_iteration"])
        for run in runs_of_the_paper()
        if run["iterations"] == "300000"
    }
    assert chosen == {
        method: full.selected(log, "beta_vae")["step"] for method, log in full.full_length().items()
    }


def test_the_logs_end_where_the_table_has_their_test_scores():
    ends = {row["method"]: row for row in rate.kept() if row["iterations"] == 300_000}
    for method, log in full.full_length().items():
        last = log[-1]
        assert last["beta"] == pytest.approx(ends[method]["beta"], abs=1e-4)
        assert last["validation"]["rec"] == pytest.approx(ends[method]["rec"], rel=0.02)
        assert last["validation"]["mig"] == pytest.approx(ends[method]["mig"], abs=0.02)


def test_the_table_of_full_length_sets_both_networks_beside_the_paper():
    lines = full.network_table()
    assert len(lines) == 2 + 2 * (len(METHODS) + len(full.more_runs()))
    assert lines[2].startswith(
        "| VAE | 0 | cosine | last | 13.32 / 15.83 (12.46) | 13.59 | 1 | 0.73 (0.91) |"
    )
    assert lines[2].endswith("| 0.16 / 0.39 (0.09) |")
    last = "| L-VAE | 0 | cosine | selected at 120,000 | - / 24.30 (21.14) | 10.80 | 1.49 |"
    assert sum(line.startswith(last) for line in lines) == 1
    assert lines[-1].startswith("| L-VAE | 1 | linear | selected at 280,000 | 14.56 / 17.48 (21.14) |")
    row = full.selection_table(full.full_length(), [])[-1]
    steps = [cell.split()[0] for cell in row.split("|")[3:-1]]
    assert steps == ["120,000", "100,000", "120,000", "20,000", "120,000", "130,000"]


@pytest.fixture
def another_seed(tmp_path, monkeypatch):
    """A run of full length of seed 1, kept as keep.py keeps it, with scores of both parts in its log."""
    folder = make_run(tmp_path / "runs", "lvae", seed=1, paper=True, iterations=300_000, schedule=300_000,
                      rate=1e-4, precision="tf32", select="beta_vae")  # fmt: skip
    results = json.loads((folder / "results.json").read_text())
    results["last"] = {**results["scores"], "rec_mean": 14.5, "mig": 0.22, "iteration": 300_000}
    (folder / "results.json").write_text(json.dumps(results))
    lines = []
    for step in range(500, 300_001, 500):
        line = {"step": step, "rec": 20.0, "kl": 10.0, "beta": 1.25, "sigma_0": 2.0, "sigma_1": 1.8}
        if step % 10_000 == 0:
            for part, start in (("validation", 0.5), ("test", 0.4)):
                scores = {
                    name: start + (0.2 if step == 90_000 else 0) for name in (*SCORES, "sap_classification")
                }
                scores["mig"] = start + (0.3 if step == 120_000 else 0)
                line[part] = {"rec": 19.0, "kl": 9.0, "rec_mean": 17.0, **scores}
        lines.append(json.dumps(line))
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copytree(PAPER, tmp_path / "paper")
    monkeypatch.setattr(full, "FOLDER", tmp_path / "paper")
    monkeypatch.setattr(keep, "DATA", tmp_path)
    monkeypatch.setattr(keep, "TABLE", tmp_path / "runs.csv")
    monkeypatch.setattr("sys.argv", ["keep.py", str(tmp_path / "runs"), "--table"])
    keep.main()
    return tmp_path


def test_the_log_of_another_seed_is_kept_gzipped_beside_the_six(another_seed):
    file = another_seed / "paper" / "lvae-linear-batch64-tf32-seed1.jsonl.gz"
    log = common.read_gzipped(file)
    assert [line["step"] for line in log] == list(range(1_000, 300_001, 1_000))
    before = file.read_bytes()
    keep.main()
    assert file.read_bytes() == before  # no time of writing in it
    file.write_bytes(before[:-20])
    with pytest.raises(ValueError, match="seed1.jsonl.gz: damaged"):
        full.text(full.full_length())


def test_another_seed_has_rows_of_its_own_with_its_rise(another_seed):
    text = full.text(full.full_length())
    lines = [line for line in text.splitlines() if line.startswith("| L-VAE | 1 |")]
    assert lines[0].startswith("| L-VAE | 1 | linear | last | 14.50 / 23.00 (21.14) |")
    assert lines[1].startswith("| L-VAE | 1 | linear | selected at 1,000 | 20.00 / 23.00 (21.14) |")
    assert "| L-VAE | 0 | cosine | last | 13.98 / 16.81 (21.14) |" in text
    assert lines[2].startswith("| L-VAE | 1 | 90,000 (19.0, 1.25) | 90,000 (19.0, 1.25) |")
    assert "The others, tf32 products: 1 run (commit abc;" in text


def test_a_selection_is_replayed_on_test_images_where_the_log_has_them(another_seed):
    line = full.text(full.full_length()).splitlines()[-5]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:3] == ["L-VAE", "1", "90,000: rec 17.0, beta 1.25<br>0.70 / 0.60 (0.97)"]
    assert cells[6] == "120,000: rec 17.0, beta 1.25<br>0.80 / 0.70 (0.30)"
    assert cells[7].endswith("0.70 / 0.60 (0.29)")
    assert full.tested_table([]) == []


def test_a_short_run_has_no_log_beside_the_six(tmp_path):
    make_run(tmp_path / "runs", "lvae")
    (run,) = common.read(tmp_path / "runs")
    keep.keep_log(run, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()


def test_a_beta_passes_a_value_where_it_is_on_its_other_side():
    log = [{"step": step, "beta": beta} for step, beta in enumerate((1.0, 1.3, 1.5, 1.4, 1.2), 1)]
    assert full.crossings(log, 1.39) == ["3", "5"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The scripts and what they read, in a folder of their own, since they write beside themselves."""
    folder = tmp_path_factory.mktemp("scripts") / "figures"
    shutil.copytree(ROOT / "figures", folder, ignore=shutil.ignore_patterns("data", "*.md", "__pycache__"))
    shutil.copytree(PAPER, folder / "data" / "paper")
    shutil.copy(rate.TABLE, folder / "data")
    return folder


def call(copied, script, *arguments):
    return subprocess.run(
        [sys.executable, copied / f"{script}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )


@pytest.mark.parametrize("script, pictures", [("rate", ["rate"]), ("full", ["full", "fig3-full"])])
def test_a_script_writes_its_table_and_pictures_of_at_most_300_kb(copied, script, pictures):
    done = call(copied, script)
    assert done.returncode == 0 and done.stderr == ""
    assert (copied / f"{script}.md").read_text() in done.stdout
    for name in pictures:
        file = copied / "data" / f"{name}.png"
        assert file.stat().st_size < 300_000
        with Image.open(file) as picture:
            assert picture.width >= 1100 and len(picture.convert("RGB").getcolors(10**6)) > 100


@pytest.mark.parametrize(
    "script, given, message", [("rate", "nowhere", "no such folder"), ("full", "--x", "--x")]
)
def test_a_wrong_argument_is_reported_in_one_line(copied, script, given, message):
    done = call(copied, script, given)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_table_that_is_not_there_is_reported_in_one_line(copied, tmp_path):
    shutil.copytree(copied, tmp_path / "figures")
    (tmp_path / "figures" / "data" / "rate.csv").unlink()
    done = call(tmp_path / "figures", "rate")
    assert done.returncode == 2 and "rate.csv" in done.stderr and done.stderr.count("\n") == 1
