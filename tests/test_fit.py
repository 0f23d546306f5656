"""lvae_min.fit: a run from Python, as the command does it; and what the package's names are."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from conftest import default_device

import lvae_min
from lvae_min import data, metrics, step
from lvae_min.config import Config
from lvae_min.train import Run

TINY = {"iterations": 12, "batch_size": 8, "device": "cpu", "loss": "torch"}


@pytest.fixture(autouse=True)
def quick(monkeypatch, small):
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    monkeypatch.setattr(metrics, "score", lambda factors, codes, **_: {"beta_vae": float(codes.std())})
    monkeypatch.setattr(data, "load", lambda *_: small)


def test_fit_trains_scores_and_returns_what_results_json_holds(tmp_path):
    results = lvae_min.fit(out=tmp_path, progress=False, model="vae", **TINY)
    folder = tmp_path / Config(model="vae", **TINY).name
    assert results == json.loads((folder / "results.json").read_text())
    assert results["settings"]["model"] == "vae" and results["last"]["iteration"] == 12
    assert isinstance(lvae_min.load(folder), lvae_min.VAE)


def test_fit_takes_a_config_or_keywords_and_not_both(tmp_path):
    config = Config(**TINY)
    assert lvae_min.fit(config, out=tmp_path, progress=False)["settings"]["seed"] == 0
    with pytest.raises(TypeError, match="a Config or settings as keywords"):
        lvae_min.fit(config, out=tmp_path, seed=1)
    with pytest.raises(ValueError, match="--beta nan"):
        lvae_min.fit(beta=float("nan"), out=tmp_path)


def test_fit_reads_a_finished_run_and_does_not_train_it_again(tmp_path, monkeypatch):
    first = lvae_min.fit(out=tmp_path, progress=False, **TINY)
    monkeypatch.setattr(Run, "train", None)
    assert lvae_min.fit(out=tmp_path, progress=False, **TINY) == json.loads(json.dumps(first))


def test_fit_resumes_a_run_that_was_stopped(tmp_path, monkeypatch):
    whole = lvae_min.fit(out=tmp_path / "whole", progress=False, **TINY)

    def interrupted(run, *_, **__):
        for _ in range(5):
            run.step()
        run.checkpoint()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lvae_min.fit(out=tmp_path / "part", progress=False, **TINY)
    part = lvae_min.fit(out=tmp_path / "part", progress=False, **TINY)
    assert part["scores"] == whole["scores"] and part["last"] == whole["last"]


def test_fit_prints_nothing_without_progress_and_something_with_it(tmp_path, capsys):
    lvae_min.fit(out=tmp_path / "quiet", progress=False, **TINY)
    assert capsys.readouterr().out == ""
    lvae_min.fit(out=tmp_path / "given", **TINY)
    assert "step 12" in capsys.readouterr().out


@pytest.mark.parametrize("flushed", [False, True])
def test_fit_gives_the_process_its_settings_back(tmp_path, flushed):
    threads = torch.get_num_threads()
    torch.set_flush_denormal(flushed)
    lvae_min.fit(out=tmp_path, progress=False, threads=threads + 1, **TINY)
    assert torch.get_num_threads() == threads
    assert ((torch.full((1,), 1e-38) / 1e3).item() == 0) == flushed


SET = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: default_device("meta"),
}


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("name", SET)
def test_fit_trains_the_same_network_under_what_the_caller_has_set(tmp_path, name):
    def fit(folder):
        return lvae_min.fit(out=tmp_path / folder, progress=False, model="lvae", **TINY)

    plain = fit("plain")
    torch.set_flush_denormal(False)
    with SET[name]():
        other = fit("other")
        small = torch.tensor(1e-38, dtype=torch.float32, device="cpu")
        assert (small / 1e3).item() != 0  # given back, too
    assert other["scores"] == plain["scores"] and other["last"] == plain["last"]


def test_the_default_type_comes_back_when_the_last_of_several_threads_has_trained():
    with default_dtype(torch.float64):
        one, other = step.FLOAT32.default(), step.FLOAT32.default()
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        other.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
        with pytest.raises(KeyError), step.thread_settings_kept(torch.device("cpu")):
            raise KeyError


def test_all_public_names_are_there():
    assert {name for name in lvae_min.__all__ if getattr(lvae_min, name, None) is None} == set()
    assert {"VAE", "load", "fit", "Config", "LVAE", "OBJECTIVES", "elbo_terms", "score"} <= set(
        lvae_min.__all__
    )
    assert set(lvae_min.__all__) <= set(dir(lvae_min))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lvae_min.nothing  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_numpy():
    program = "import sys, lvae_min; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
