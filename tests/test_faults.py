"""A run that is killed, starved or robbed continues with the same command, bit for bit."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import faults
import pytest
import torch

from lvae_min.io.checkpoints import load_checkpoint

SMALL = [sys.executable, str(Path(__file__).parent / "small_run.py"), *faults.ARGUMENTS, "--threads", "1"]
WHOLE = {
    "config.json",
    "log.jsonl",
    "last.pt",
    "best.pt",
    "results.json",
    "lock",
    "curves.png",
    "reconstructions.png",
    "traversal.png",
    "traversal.gif",
}


def carry_out(out, *fault):
    """Exit code and words of a small run in `out`."""
    output = out.with_name(out.name + ".txt")
    process = faults.start(out, output, *fault)
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still at work after 300 s: {output.read_text()}")
    return process.exitcode, output.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "runs"
    code, output = carry_out(out)
    assert code == 0, output
    return out / faults.NAME


def assert_equal(folder, whole):
    """A finished run has the numbers of `whole`, to the bit, and no file but those of a run."""
    assert {path.name for path in folder.iterdir()} == WHOLE
    assert (folder / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    ours, theirs = (json.loads((each / "results.json").read_text()) for each in (folder, whole))
    for results in (ours, theirs):
        results["settings"].pop("threads")  # given or not, as many were used
        results.pop("seconds"), results.pop("commit")  # which has a + while the code is edited
    assert ours == theirs
    for name in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(each / name)["vae"] for each in (folder, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("moment", faults.MOMENTS, ids=lambda moment: moment.__name__)
def test_a_run_killed_at_any_moment_ends_with_the_numbers_of_one_that_was_not(whole, tmp_path, moment):
    out = tmp_path / "runs"
    code, output = carry_out(out, moment)
    assert code == -9 and not (out / faults.NAME / "results.json").exists()
    torn = [part.stat().st_size for part in (out / faults.NAME).glob("*.pt.part")]
    assert len(torn) == (moment in faults.TEARING) and min(torn, default=10_000) >= 10_000
    code, output = carry_out(out)
    assert code == 0, output
    assert_equal(out / faults.NAME, whole)


def test_the_readme_says_at_how_many_moments():
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    assert f"tested at {len(faults.MOMENTS)} chosen and 50 random moments" in readme


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_no_number(whole, tmp_path):
    out, moments = tmp_path / "runs", random.Random(0)
    began = time.monotonic()
    carry_out(tmp_path / "timed")
    taken, kills, finished = time.monotonic() - began, 0, 0
    while kills < 50:
        process = faults.start(out, tmp_path / "output.txt")
        process.join(moments.uniform(0, taken))
        process.kill()
        process.join()
        if process.exitcode == -9:
            kills += 1
        else:
            assert process.exitcode == 0, (tmp_path / "output.txt").read_text()
            assert_equal(out / faults.NAME, whole)
            finished += 1
            shutil.rmtree(out)
    code, output = carry_out(out)
    assert code == 0 and finished >= 1, (output, finished)
    assert_equal(out / faults.NAME, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("moment", ["write_log", "checkpoint", "validate", "draw", "finish"])
def test_a_full_disk_is_reported_in_one_line_and_nothing_is_lost(whole, small_disk, tmp_path, moment):
    out = small_disk / "runs"
    code, output = carry_out(out, faults.full_at, moment)
    error = output.splitlines()[-1]
    assert code == 2 and "Traceback" not in output
    assert error.startswith(f"run.py: {out / faults.NAME}/") and "No space left on device; existing" in error
    assert not list((out / faults.NAME).glob("*.part"))
    if moment != "draw":  # there the first checkpoint is still to come
        assert load_checkpoint(out / faults.NAME / "last.pt")["iteration"] >= 12
    (out / "filler").unlink()
    assert carry_out(out)[0] == 0
    assert_equal(out / faults.NAME, whole)


def test_a_read_only_folder_is_reported_in_one_line(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = subprocess.run([*SMALL, "--out", small_disk / "runs"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot be written (Read-only file system); name another folder with --out" in done.stderr


@pytest.mark.parametrize("number", [1, 11, 60])
def test_a_folder_that_is_removed_while_a_run_works_in_it_is_reported_and_not_half_made_again(
    tmp_path, number
):
    out = tmp_path / "runs"
    code, output = carry_out(out, faults.removed_at, number)
    assert code == 2 and "Traceback" not in output
    assert output.splitlines()[-1] == (
        f"run.py: {out / faults.NAME}: was removed while the run worked in it; "
        "the same command starts it again"
    )
    assert list(out.iterdir()) == []


def test_a_machine_with_one_core_gives_the_same_numbers(whole, tmp_path):
    code, output = carry_out(tmp_path / "runs", faults.one_core)
    assert code == 0 and "cpu, 1 threads" in output  # one that nobody asked for
    assert_equal(tmp_path / "runs" / faults.NAME, whole)


@pytest.mark.parametrize("home", [{}, {"HOME": "/dev/null/home"}], ids=["none", "impossible"])
def test_without_a_home_folder_or_a_screen_a_run_is_whole(tmp_path, home):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **home}
    environment["MPLBACKEND"] = "nonsense"
    done = subprocess.run(
        [*SMALL, "--out", tmp_path / "runs"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert {path.name for path in (tmp_path / "runs" / faults.NAME).iterdir()} == WHOLE


def test_a_run_whose_output_pipe_is_closed_stops_with_one_line_and_continues(whole, tmp_path):
    with subprocess.Popen(
        [*SMALL, "--out", tmp_path / "runs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()  # its next line, of the first evaluation, fails
        error = process.stderr.read()
    assert process.returncode == 2 and error.count("\n") == 1 and "its output pipe was closed" in error
    assert carry_out(tmp_path / "runs")[0] == 0
    assert (tmp_path / "runs" / faults.NAME / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


def test_a_clock_that_jumps_moves_no_number(small, tmp_path, monkeypatch):
    from lvae_min import train

    monkeypatch.setattr(train.Run, "draw", lambda *_: None)
    logs = []
    for name, moments in (("steady", [0.0] * 4), ("jumping", [0.0, 1e6, 5.0, 1e9])):
        turns = iter(moments * 10_000)
        monkeypatch.setattr(time, "time", lambda turns=turns: 1e9 - next(turns))  # backwards
        monkeypatch.setattr(time, "monotonic", lambda turns=turns: next(turns))
        config = train.Config(iterations=30, batch_size=8, threads=1, device="cpu")
        run = train.Run(config, tmp_path / name, small)
        assert run.train()
        run.finish()
        run.close()
        logs.append((tmp_path / name / "log.jsonl").read_bytes())
        assert run.kept == 30 and run.seconds >= 0  # it wrote its checkpoints all the same
    assert logs[0] == logs[1]
