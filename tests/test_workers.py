"""Scores and pictures made by other processes: the same as here, and nothing is lost if one is killed."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from lvae_min import metrics, runs, train
from lvae_min.config import Config
from lvae_min.io.atomic import naming
from lvae_min.io.checkpoints import load_checkpoint
from lvae_min.train import Run
from lvae_min.workers import AT_ONCE, AtOnce, Workers

PICTURES = ("curves.png", "reconstructions.png", "traversal.png", "traversal.gif")


@pytest.fixture
def workers():
    made = Workers(1)
    yield made
    made.close()


def no_space(file):
    with naming(file):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_worker_is_another_process_without_pytorch(workers):
    assert workers.later(os.getpid)() != os.getpid()
    assert workers.later(metrics.score, [[0], [1]] * 300, [[0.0], [1.0]] * 300)()["mig"] == pytest.approx(1)
    assert not workers.later(eval, "'torch' in __import__('sys').modules")()


def test_errors_of_a_worker_arrive_whole(workers):
    with pytest.raises(ValueError, match=r"^factors must be finite"):
        workers.later(metrics.score, [[np.nan]], [[0.0]])()
    with pytest.raises(OSError) as caught:
        workers.later(no_space, Path("last.pt"))()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "last.pt")
    assert str(caught.value) == "[Errno 28] No space left on device: 'last.pt'"


def test_where_a_worker_was_killed_the_work_is_done_here(workers):
    os.kill(workers.later(os.getpid)(), signal.SIGKILL)
    time.sleep(0.1)
    assert [workers.later(os.getpid)() for _ in range(2)] == [os.getpid()] * 2


def test_a_worker_leaves_ctrl_c_to_the_process_it_works_for(workers):
    other = workers.later(os.getpid)()
    os.kill(other, signal.SIGINT)
    assert workers.later(os.getpid)() == other


def test_workers_end_with_a_process_that_is_killed():
    code = """if __name__ == "__main__":
        import os, time
        from lvae_min.workers import Workers
        print(Workers(1).later(os.getpid)(), flush=True)
        time.sleep(60)"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_a_run_is_the_same_with_workers(small, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(train, "LOG_EVERY", 10)
    config = Config("dsprites", iterations=40, batch_size=32, device="cpu", threads=1)
    for name, call in (("here", AT_ONCE), ("there", workers)):
        folder = tmp_path / name / "run"
        run = Run(config, folder, small, call=call)
        run.train(quiet=True)
        run.finish()
        run.close()
    one, other = (tmp_path / name / "run" for name in ("here", "there"))
    for name in PICTURES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert (one / "log.jsonl").read_bytes() == (other / "log.jsonl").read_bytes()
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert results[0]["scores"] == results[1]["scores"] and "mig" in results[0]["scores"]


def test_a_grid_on_a_gpu_has_workers_and_short_turns(monkeypatch):
    monkeypatch.setattr(runs.torch.cuda, "is_available", lambda: True)
    configs = [Config(seed=seed) for seed in range(2)]
    before = sys.getswitchinterval()
    seen = []

    def one(runs, config):
        workers = runs.call.count if isinstance(runs.call, Workers) else 0
        seen.append((workers, sys.getswitchinterval()))

    monkeypatch.setattr(runs.Runs, "run_one", one)
    monkeypatch.setattr(Workers, "warm_up", lambda _: None)
    for jobs, device, cores, share in (
        (2, "auto", 16, 1),
        (2, "auto", 16, 4),
        (2, "auto", 4, 1),
        (2, "auto", 1, 1),
        (2, "cpu", 16, 1),
        (1, "auto", 16, 1),
    ):
        monkeypatch.setattr(runs, "cores", lambda cores=cores: cores)
        monkeypatch.setattr(runs, "LOCAL_WORLD", share)
        given = Namespace(jobs=jobs, out=Path(), data=Path())
        runs.Runs(
            [dataclasses.replace(config, device=device) for config in configs], given, Event()
        ).run_all()
    assert [workers for workers, _ in seen] == [4] * 2 + [3] * 4 + [1] * 2 + [0] * 4
    assert [turn for _, turn in seen] == pytest.approx([runs.SHORT_TURN] * 8 + [before] * 4)
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("select", ["last", "beta_vae"])
@pytest.mark.parametrize("beside", [True, False])
def test_at_the_end_scores_pictures_and_the_checkpoint_are_made_at_once(
    small, tmp_path, monkeypatch, select, beside
):
    """Where others score and draw; the last network and, if that is another, the selected one."""
    seen = []

    class Recording(AtOnce):
        def later(self, function, *given, **named):
            seen.append(function.__name__)
            return lambda: (seen.append(f"{function.__name__} ended"), function(*given, **named))[1]

    scores = iter([0.9, *[0.5] * 9])
    monkeypatch.setattr(Recording, "beside", beside)
    monkeypatch.setattr(train, "EVALUATED_SECONDS", 3600)
    monkeypatch.setattr(metrics, "score", lambda *_, **__: {"beta_vae": next(scores)})
    metrics.score.__name__ = "score"
    monkeypatch.setattr(Run, "checkpoint", noted(Run.checkpoint, seen))
    config = Config("dsprites", iterations=2, batch_size=32, device="cpu", threads=1, select=select)
    run = Run(config, tmp_path, small, call=Recording())
    run.train(quiet=True)
    run.finish()
    run.close()
    found = [name for name in seen if name != "draw ended"]
    validation, selected, early = ["score", "score ended"], ["score", "draw"], select == "beta_vae"
    first = [*validation, "draw", *validation]
    last = ["score"] if early else selected
    at_once = [*last, "checkpoint"] if beside else ["checkpoint", *last]
    ended = ["score ended"] * (1 + early)
    assert found == [*first, *at_once, *selected * early, *ended] and seen[-1] == "draw ended"
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["last"]["rec"] != results["scores"]["rec"]) == early


def test_the_training_is_saved_where_scoring_the_test_images_fails_to_begin(small, tmp_path, monkeypatch):
    class Beside(AtOnce):
        beside = True

    def fail(*_, **__):
        raise torch.OutOfMemoryError("no memory for the test images")

    config = Config("dsprites", iterations=2, batch_size=32, device="cpu", threads=1)
    run = Run(config, tmp_path, small, call=Beside())
    monkeypatch.setattr(run, "begin_test", fail)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for the test images"):
        run.train(quiet=True)
    run.close()
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 2


def noted(function, seen):
    def call(*given):
        seen.append(function.__name__)
        return function(*given)

    return call


def test_blas_has_one_thread_until_the_last_has_left():
    def threads():
        return {
            library["num_threads"] for library in metrics.ONE_THREAD.libraries.select(user_api="blas").info()
        }

    before = threads()
    with metrics.ONE_THREAD:
        with metrics.ONE_THREAD:
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == before


def test_a_log_has_the_scores_of_the_test_images_if_they_are_asked_for(small, tmp_path, monkeypatch):
    for asked in (False, True):
        config = Config("dsprites", iterations=40, device="cpu", threads=1, score_test=asked)
        assert config.name == Config("dsprites", iterations=40).name
        run = Run(config, tmp_path / str(asked), small)
        monkeypatch.setattr(run, "draw", lambda *_: None)
        run.train(quiet=True)
        found = run.finish()["scores"]
        run.close()
        lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
        evaluated = [line for line in lines if "validation" in line]
        assert evaluated and all(("test" in line) == asked for line in evaluated)
    last = evaluated[-1]
    assert last["test"]["mig"] == found["mig"] != last["validation"]["mig"]
    # Training and selection do not know of it.
    plain, scored = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("False", "True")
    )
    assert plain == [{name: line[name] for name in line if name != "test"} for line in scored]
