import errno
import json
import math
import os
import resource
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lvae_min
from lvae_min import data, evaluation, latents, metrics, plots, report, stored, train, workers
from lvae_min.config import Config
from lvae_min.datasets import prepared, specs, stores
from lvae_min.io import atomic, checkpoints
from lvae_min.io.atomic import write_whole
from lvae_min.io.checkpoints import load_checkpoint
from lvae_min.losses import OBJECTIVES
from lvae_min.step import Step
from lvae_min.train import Run

METHODS = list(OBJECTIVES)
DRAW = Run.draw
SCORES = [
    "rec",
    "kl",
    "beta",
    "beta_vae",
    "factor_vae",
    "explicitness",
    "irs",
    "mig",
    "sap",
    "sap_classification",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pictures and, where a test does not need them, no real scores; a checkpoint at each evaluation."""
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    monkeypatch.setattr(train, "EVALUATED_SECONDS", -1)
    monkeypatch.setattr(metrics, "score", lambda factors, codes, **_: {"beta_vae": float(codes.std())})


class StopAt(Event):
    """A stop that comes when a run has done so many iterations."""

    def __init__(self, run, iteration):
        super().__init__()
        self.run, self.iteration = run, iteration

    def is_set(self):
        return self.run.iteration >= self.iteration


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one if key != "seconds"
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def config(model="lvae", **settings):
    return Config(
        **{
            "model": model,
            "iterations": 230,
            "batch_size": 8,
            "threads": 1,
            "select": "beta_vae",
            "device": "cpu",
            **settings,
        }
    )


@pytest.mark.parametrize("model", METHODS)
def test_a_stopped_and_continued_run_equals_an_uninterrupted_one(model, small, tmp_path):
    whole = Run(config(model), tmp_path / "whole", small)
    start = whole.state()["objective"]
    moving = {name: value.clone() for name, value in start.items()}
    assert whole.train()
    for stop in (37, 151):  # off the log's beat, and off the evaluations'
        part = Run(config(model), tmp_path / "part", small)
        assert not part.train(StopAt(part, stop)) and part.iteration == stop
        part.close()
    part = Run(config(model), tmp_path / "part", small)
    assert part.iteration == 151 and part.train()
    assert same(whole.state(), part.state())
    assert (tmp_path / "whole/log.jsonl").read_bytes() == (tmp_path / "part/log.jsonl").read_bytes()
    assert same(load_checkpoint(tmp_path / "whole/best.pt"), load_checkpoint(tmp_path / "part/best.pt"))
    assert not moving or not same(moving, whole.state()["objective"])  # the method's own state took part


def test_lines_written_after_the_last_checkpoint_are_written_again(small, tmp_path):
    run = Run(config(), tmp_path, small)
    run.train(StopAt(run, 100))
    run.close()
    kept = (tmp_path / "log.jsonl").read_bytes()
    with open(tmp_path / "log.jsonl", "ab") as log:
        log.write(b'{"step": 110, "loss": 1.0}\n{"step": 12')
    assert Run(config(), tmp_path, small).train()
    lines = (tmp_path / "log.jsonl").read_bytes()
    assert (
        lines.startswith(kept) and [json.loads(line)["step"] for line in lines.splitlines()].count(115) == 1
    )


def test_a_log_that_is_shorter_than_its_checkpoint_is_refused_and_not_filled_up(small, tmp_path):
    run = Run(config(), tmp_path, small)
    run.train(StopAt(run, 100))
    run.close()
    short = (tmp_path / "log.jsonl").read_bytes()[:50]
    (tmp_path / "log.jsonl").write_bytes(short)
    with pytest.raises(ValueError, match="cut short, 50 bytes of"):
        Run(config(), tmp_path, small).train()
    assert (tmp_path / "log.jsonl").read_bytes() == short


def test_the_log_is_on_the_disk_before_the_checkpoint_that_counts_on_it(small, tmp_path, monkeypatch):
    run, synced = Run(config(iterations=10), tmp_path, small), []
    fsync = os.fsync
    monkeypatch.setattr(
        "os.fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file))
    )
    run.train(StopAt(run, 3))
    names = [name.rsplit("/", 1)[1] for name in synced]
    assert names.count("last.pt.part") >= 3
    assert all(names[at - 1] == "log.jsonl" for at, name in enumerate(names) if name == "last.pt.part")


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(small, tmp_path):
    run = Run(config(iterations=10), tmp_path, small)
    run.train()
    run.finish()
    assert stored.finished(config(iterations=10), tmp_path)["settings"]["seed"] == 0
    with pytest.raises(ValueError, match="was made with seed 0, not 1"):
        stored.finished(config(iterations=10, seed=1), tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"settings": {}}', "[" * 100_000])
def test_damaged_results_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match="damaged; remove it") as error:
        stored.finished(config(), tmp_path)
    assert "\n" not in str(error.value)


def test_seeds_differ_and_repeat(small, tmp_path):
    runs = [
        Run(config(seed=seed, iterations=5), tmp_path / str(number), small)
        for number, seed in enumerate((1, 1, 2))
    ]
    for run in runs:
        run.train()
    assert same(runs[0].state()["vae"], runs[1].state()["vae"])
    assert not same(runs[0].state()["vae"], runs[2].state()["vae"])


def test_global_random_numbers_are_neither_used_nor_changed(small, tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    Run(config(iterations=20), tmp_path, small).train()
    assert (
        torch.equal(before[0], torch.random.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    )


def test_adam_has_the_settings_of_section_6_3_and_follows_the_schedule(small, tmp_path):
    run = Run(config(schedule=300_000, iterations=100), tmp_path, small)
    run.step()
    groups = run.step.optimizer.param_groups
    assert [(group["betas"], group["eps"], group["weight_decay"]) for group in groups] == [
        ((0.9, 0.999), 1e-8, 0)
    ] * 2
    assert [group["lr"].item() for group in groups] == pytest.approx([1e-5, 1e-5])
    assert groups[1]["params"][0] is run.step.objective.sigma


def test_sigma_stays_at_one_while_frozen_and_then_moves(small, tmp_path):
    run = Run(config(iterations=100, sigma_freeze=0.5), tmp_path, small)
    run.train(StopAt(run, 50))
    assert run.step.objective.sigma.tolist() == [1, 1]
    run.close()
    run = Run(config(iterations=100, sigma_freeze=0.5), tmp_path, small)
    run.train(StopAt(run, 51))
    assert (run.step.objective.sigma != 1).all()


def test_the_log_holds_means_over_its_lines(small, tmp_path, monkeypatch):
    run, seen = Run(config(iterations=40), tmp_path, small), []
    objective, forward = run.step.objective, run.step.objective.forward
    monkeypatch.setattr(objective, "forward", lambda *batch: seen.append(forward(*batch)) or seen[-1])
    run.train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(4, 41, 4))
    assert lines[3]["kl"] == pytest.approx(np.mean([terms[2].item() for terms in seen[12:16]]))
    assert set(lines[0]) >= {"step", "loss", "rec", "kl", "beta", "sigma_0", "sigma_1", "lr", "validation"}


@pytest.mark.parametrize(
    "iterations, evaluations",
    [
        (300_000, [1000, *range(10_000, 300_001, 10_000)]),
        (20_000, [1000, *range(2000, 20_001, 2000)]),
        (10_000, range(1000, 10_001, 1000)),
        (1000, [1000]),
        (2500, [1000, 2000, 2500]),
        (500, range(50, 501, 50)),
        (3, [1, 2, 3]),
        (25, [*range(2, 25, 2), 25]),
    ],
)
def test_a_run_is_evaluated_early_every_10000_iterations_or_ten_times_but_not_below_1000(
    iterations, evaluations
):
    run = Run.__new__(Run)
    run.config, run.step, due = Config(iterations=iterations), SimpleNamespace(), []
    for run.step.iteration in range(1, iterations + 1):
        if run.due():
            due.append(run.iteration)
    assert due == list(evaluations)


@pytest.mark.parametrize(
    "scores, selected",
    [([0.1, 0.5, 0.5, 0.2], 2), ([math.nan, 0.3, math.nan, 0.2], 2), ([0.4, 0.1, 0.1, 0.1], 1)],
)
def test_the_earliest_of_the_best_validation_scores_is_selected_and_nan_never(
    small, tmp_path, monkeypatch, scores, selected
):
    given = iter(scores * 10)
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *_, **__: ({"rec": 1.0, "kl": 1.0, "beta_vae": next(given)}, None)
    )
    run = Run(config(iterations=10), tmp_path, small)
    run.train(StopAt(run, 4))
    assert run.best["iteration"] == load_checkpoint(tmp_path / "best.pt")["iteration"] == selected


def test_where_no_score_is_a_number_the_earliest_network_is_kept(small, tmp_path, monkeypatch):
    nothing = {"rec": 1.0, "kl": 1.0, "rec_mean": 1.0, "beta_vae": math.nan}
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: (dict(nothing), None))
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    run = Run(config(iterations=10), tmp_path, small)
    run.train()
    assert run.finish()["selected"] == {"iteration": 1, "score": -math.inf, "by": "validation beta_vae"}


def test_a_score_cannot_select_where_there_are_no_factors(small, tmp_path, monkeypatch):
    small.factor_names, small.factor_sizes = [], ()
    with pytest.raises(ValueError, match="--select mig: .* has no factors, .*; expected rec or last"):
        Run(config(iterations=12, select="mig"), tmp_path / "run", small)
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "check_factors", lambda *_: None)  # as older code let it begin: it can be resumed
        run = Run(config(iterations=12, select="mig"), tmp_path / "run", small)
        run.train(StopAt(run, 4))
        run.close()
    run = Run(config(iterations=12, select="mig"), tmp_path / "run", small)
    assert run.iteration == 4 and run.select == "last"


def test_a_run_that_other_code_began_reports_it(small, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    run = Run(config(iterations=10), tmp_path, small)
    run.train(StopAt(run, 4))
    run.close()
    monkeypatch.setattr(report, "commit", lambda: "0123456789")
    began = json.loads((tmp_path / "config.json").read_text())["commit"]
    run = Run(config(iterations=10), tmp_path, small)
    run.train()
    results = run.finish()
    assert (results["began_at_commit"], results["commit"]) == (began, "0123456789")


@pytest.mark.parametrize("select, selected", [("mig", 3), ("rec", 2), ("last", 4)])
def test_another_score_can_select(small, tmp_path, monkeypatch, select, selected):
    evaluations = [{"rec": 5.0, "mig": 0.1}, {"rec": 3.0, "mig": 0.2}, {"rec": 4.0, "mig": 0.5}]
    given = iter([*evaluations, {"rec": 9.0, "mig": math.nan}])
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *_, **__: ({"kl": 1.0, "beta_vae": 0.9, **next(given)}, None)
    )
    run = Run(config(iterations=10, select=select), tmp_path, small)
    run.train(StopAt(run, 4))
    assert run.best["iteration"] == selected


@pytest.mark.parametrize("paper", [False, True])
def test_without_factors_the_last_network_is_selected(small, tmp_path, paper):
    small.factor_names, small.factor_sizes = [], ()
    run = Run(config(iterations=12, select=None, paper=paper), tmp_path, small)
    run.train()
    results = run.finish()
    assert results["selected"]["iteration"] == 12 and results["settings"]["latents"] == 10
    assert list(results["scores"]) == ["rec", "kl", "beta"]


def test_results_are_the_test_scores_of_the_selected_network(small, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real scores
    monkeypatch.setattr("lvae_min.model.HIDDEN", 32)
    monkeypatch.setattr(Run, "draw", lambda *_: None)
    run = Run(config(iterations=30, select="rec"), tmp_path, small)
    monkeypatch.setattr(run, "better", lambda score, kl: run.iteration == 12)
    run.train()
    last = evaluation.evaluate(run.step.vae, small, run.test)[0]
    results = run.finish()
    vae = lvae_min.load(tmp_path)
    scores, codes = evaluation.evaluate(vae, small, run.test)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == json.loads(json.dumps(results)) and list(stored["scores"]) == SCORES
    assert stored["scores"]["mig"] == pytest.approx(scores["mig"]) and stored["scores"][
        "rec"
    ] == pytest.approx(scores["rec"])
    assert codes == pytest.approx(vae.encode(small.batch(torch.from_numpy(run.test)))[0].numpy(), abs=1e-6)
    assert stored["rec_mean"] == pytest.approx(
        (vae.decode(torch.from_numpy(codes).float()) - small.batch(torch.from_numpy(run.test)).float())
        .square()
        .flatten(1)
        .sum(1)
        .mean()
        .item(),
        rel=1e-5,
    )
    assert {"commit", "versions", "device", "seconds", "settings", "elbo"} <= set(stored)
    assert stored["last"] == pytest.approx(
        {**last, "iteration": 30, "beta": run.step.objective.beta().item()}
    )
    assert stored["selected"]["iteration"] == 12 and stored["last"]["rec"] != stored["scores"]["rec"]


def test_results_have_the_last_network_beside_the_selected_one(small, tmp_path):
    scores = iter([0.9, *[0.1] * 9])
    run = Run(config(iterations=20), tmp_path, small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "score", lambda *_, **__: {"beta_vae": next(scores, 0.5)})
        run.train()
        last = evaluation.evaluate(run.step.vae, small, run.test)[0]
        results = run.finish()
    assert results["selected"]["iteration"] == 2 and results["last"]["iteration"] == 20
    assert (results["last"]["rec"], results["last"]["kl"]) == (last["rec"], last["kl"])
    assert results["last"]["rec"] < results["scores"]["rec"]


def test_the_last_network_is_selected_by_default_and_scored_once(small, tmp_path, monkeypatch):
    run, calls = Run(config(iterations=20, select="last"), tmp_path, small), []
    run.train()
    measure = evaluation.measure
    monkeypatch.setattr(evaluation, "measure", lambda *given: (calls.append(1), measure(*given))[1])
    results = run.finish()
    assert Config().select == "last" and len(calls) == 1
    assert results["selected"] == {"iteration": 20, "score": 20, "by": "last iteration"}
    assert results["last"]["rec"] == results["scores"]["rec"]
    assert same(lvae_min.load(tmp_path).state_dict(), run.step.vae.state_dict())


def test_rec_of_the_validation_images_is_of_the_first_of_them_and_all_else_of_all(small, tmp_path):
    run = Run(config(iterations=5), tmp_path, small)
    index = run.validation
    some, codes = evaluation.evaluate(run.step.vae, small, index, reconstructed=30)
    whole, all_codes = evaluation.evaluate(run.step.vae, small, index)
    few, _ = evaluation.evaluate(run.step.vae, small, index[:30])
    assert (
        (some["rec"], some["rec_mean"]) == (few["rec"], few["rec_mean"]) != (whole["rec"], whole["rec_mean"])
    )
    assert some["kl"] == whole["kl"] and (codes == all_codes).all() and len(codes) == len(index)


def test_a_checkpoint_follows_an_evaluation_after_half_a_minute_and_the_end(small, tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(train, "EVALUATED_SECONDS", 30)
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    checkpoint = Run.checkpoint
    monkeypatch.setattr(Run, "checkpoint", lambda run: (saved.append(run.iteration), checkpoint(run))[1])
    run = Run(config(iterations=100, select="last"), tmp_path, small)
    step = run.step.__class__.__call__

    def tick(self):
        now[0] += 1
        step(self)

    monkeypatch.setattr(run.step.__class__, "__call__", tick)
    run.train()
    assert saved == [40, 80, 100]  # more than 30 after the start, and after the last, at an evaluation
    assert load_checkpoint(tmp_path / "best.pt")["iteration"] == 100


def test_a_slow_run_is_saved_between_two_lines_of_its_log(small, tmp_path, monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(train, "LOG_EVERY", 20)
    step, checkpoint = Step.__call__, Run.checkpoint

    def tick(self):
        now[0] += 90
        step(self)

    def saved(run):
        seen.append((run.iteration, run.step.counted, run.seconds))
        checkpoint(run)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "evaluation_interval", lambda _: 20)
    for name, every in (("whole", Run.checkpoint), ("killed", saved)):
        monkeypatch.setattr(Run, "checkpoint", every)
        run = Run(config(iterations=20), tmp_path / name, small)
        monkeypatch.setattr(Step, "__call__", step if name == "whole" else tick)
        with suppress(KeyboardInterrupt):
            run.train(quiet=True)
        run.close()
    assert seen == [(4, 4, 360), (8, 8, 720)]  # more than five minutes after the start, and after the last
    monkeypatch.setattr(Step, "__call__", step)
    monkeypatch.setattr(Run, "checkpoint", checkpoint)
    run = Run(config(iterations=20), tmp_path / "killed", small)
    assert run.iteration == 8
    run.train(quiet=True)
    run.close()
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_a_slow_run_is_not_saved_with_a_loss_that_is_not_finite(small, tmp_path, monkeypatch):
    now = iter(range(0, 10**6, 200))
    run = Run(config(iterations=20), tmp_path, small)
    run.train(StopAt(run, 3), quiet=True)
    kept = (tmp_path / "last.pt").read_bytes()
    monkeypatch.setattr(train.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(train, "LOG_EVERY", 20)
    monkeypatch.setattr(train, "evaluation_interval", lambda _: 20)
    with torch.no_grad():
        next(run.step.vae.decoder.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="iteration 3"):
        run.train(quiet=True)
    run.close()
    assert (tmp_path / "last.pt").read_bytes() == kept


@pytest.mark.parametrize("pace", [2, 7])
def test_pictures_are_drawn_at_most_once_a_minute_and_the_last_by_finish(small, tmp_path, monkeypatch, pace):
    now, drawn = [0.0], []
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Run, "draw", lambda run, *_: drawn.append(run.iteration))
    run = Run(config(iterations=100), tmp_path, small)
    step = run.step.__class__.__call__

    def tick(self):
        now[0] += pace
        step(self)

    monkeypatch.setattr(run.step.__class__, "__call__", tick)
    run.train()
    tens = list(range(10, 100, 10))
    assert drawn == (tens if pace == 7 else [10, 50, 90])  # evaluations are 70 or 20 seconds apart
    run.finish()
    assert drawn == ([*tens, 100] if pace == 7 else [10, 50, 90, 100])


def test_of_equal_scores_the_later_wins_if_the_earlier_network_knew_less_than_half(small, tmp_path):
    run = Run(config(iterations=5), tmp_path, small)
    run.best = {"iteration": 1, "score": 0.0, "kl": 1.0}
    assert run.better(0.1, 0.0) and not run.better(-0.1, 9.0)
    assert run.better(0.0, 2.1) and not run.better(0.0, 2.0)
    run.best = {"iteration": 1, "score": 0.0}  # of an older checkpoint
    assert not run.better(0.0, 9.0)


def test_a_selected_network_that_has_hardly_learned_is_flagged():
    assert "its kl is 1.00 nats, 9.00 at the end" in train.unlearned(1.0, 9.0)
    assert train.unlearned(5.0, 9.0) == train.unlearned(9.0, 9.0) == train.unlearned(0.0, 0.0) == ""


def test_the_last_pictures_are_of_test_images_and_warn_of_an_early_network(small, tmp_path, monkeypatch):
    drawn, kls, scores = [], iter([1.0, 9.0, 9.0, 1.0]), iter([0.9, 0.5, 0.5, 0.5])
    monkeypatch.setattr(Run, "draw", lambda run, index, codes, note="": drawn.append((index, codes, note)))
    monkeypatch.setattr(metrics, "score", lambda *_, **__: {"beta_vae": next(scores)})
    measured = lambda *_: ({"rec": 1.0, "kl": next(kls), "rec_mean": 1.0}, object())  # noqa: E731
    monkeypatch.setattr(evaluation, "measure", measured)
    run = Run(config(iterations=2, select="beta_vae"), tmp_path, small)
    run.train()
    results = run.finish()
    assert results["selected"]["iteration"] == 1
    (early, _, nothing), (index, codes, note) = drawn
    assert early is run.validation and nothing == "" and index is run.test and type(codes) is object
    assert note == train.unlearned(1.0, 9.0) != ""


def test_residuals_are_those_of_the_last_thousand_iterations(small, tmp_path):
    run = Run(config(iterations=3000, schedule=4000), tmp_path, small)
    run.step.objective.sigma.data = torch.tensor([2.0, 1.5])
    lines = [{"step": step, "rec": 100.0, "kl": 50.0} for step in (500, 1000, 2000)]
    lines += [{"step": 2500, "rec": 15.0, "kl": 4.0}, {"step": 3000, "rec": 17.0, "kl": 6.0}]
    found = run.equilibrium(lines)
    assert (found["rec"], found["kl"], found["transient"]) == (16, 5, True)
    assert found["residuals"] == pytest.approx({"sigma_0": 0, "sigma_1": 1.5**4 / 5 - 1})


def test_a_loss_that_is_not_finite_stops_the_run_before_its_next_checkpoint(small, tmp_path):
    run = Run(config(), tmp_path, small)
    run.train(StopAt(run, 23))
    run.close()
    run = Run(config(), tmp_path, small)
    run.step.vae.decoder[0].bias.data[0] = math.nan
    message = "iterations 24 and 46 .rec nan.*last.pt, is of iteration 23; try another"
    with pytest.raises(FloatingPointError, match=message):
        run.train()
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 23


def test_a_run_that_is_stopped_keeps_no_network_that_is_not_finite(small, tmp_path):
    run = Run(config(), tmp_path, small)
    run.step.vae.decoder[0].bias.data[0] = math.nan
    with pytest.raises(FloatingPointError, match="iterations 1 and 3 .*there is no checkpoint yet"):
        run.train(StopAt(run, 3))
    assert not (tmp_path / "last.pt").exists()


def test_a_collapse_is_flagged_after_a_thousand_iterations_in_a_row(small, tmp_path):
    run, flags = Run(config(), tmp_path, small), []
    for kl in [0.05] * 9 + [0.2] + [0.05] * 11:
        run.step.sums += torch.tensor([500, 500, 100 * kl])
        run.step.counted = 100
        flags.append(run.record()["collapsed"])
    assert flags == [False] * 19 + [True] * 2


def test_a_collapse_is_flagged_in_the_bar_and_in_the_lines(monkeypatch, capsys):
    record = {"step": 1000, "loss": 2.0, "rec": 1.0, "kl": 0.01, "beta": 3.0, "collapsed": True}
    report.Progress("run", 1000, 0).show(record)
    assert capsys.readouterr().out.endswith("COLLAPSED (kl < 0.1)\n")
    output = []
    bar = SimpleNamespace(
        n=0, update=lambda _: None, set_postfix_str=lambda text, refresh: output.append(text)
    )
    monkeypatch.setattr(report, "new_bar", lambda *_, **__: bar)
    progress = report.Progress("run", 1000, 0)
    for collapsed in (True, False):
        progress.show(record | {"collapsed": collapsed})
    assert output == ["rec 1  kl 0.01  beta 3  COLLAPSED (kl < 0.1)", "rec 1  kl 0.01  beta 3"]


def test_a_folder_that_is_no_run_is_refused_and_left_alone(small, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds thesis.tex and no config.json"):
        Run(config(), tmp_path, small)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_with_other_settings_is_refused_by_the_setting(small, tmp_path):
    Run(config(), tmp_path, small).close()
    with pytest.raises(ValueError, match="was made with seed 0, not 1"):
        Run(config(seed=1), tmp_path, small)


def test_a_second_process_on_a_run_is_refused(small, tmp_path):
    first = Run(config(), tmp_path, small)
    with pytest.raises(ValueError, match="another process"):
        Run(config(), tmp_path, small)
    first.close()
    Run(config(), tmp_path, small)


def test_a_file_system_without_locks_is_named_and_no_other_process(small, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(atomic.fcntl, "flock", fail)
    with pytest.raises(ValueError, match="its file system has no locks.*No locks available.*with --out"):
        Run(config(), tmp_path, small)
    assert not atomic.held(0)
    with pytest.raises(ValueError, match="no locks.*--data"), prepared.locked(tmp_path / "set"):
        pass


@pytest.mark.parametrize(
    "name, content", [("last.pt", b"PK\x03\x04 half"), ("last.pt", b""), ("config.json", b"{")]
)
def test_a_damaged_file_is_refused_in_one_line_and_left_alone(small, tmp_path, name, content):
    run = Run(config(), tmp_path, small)
    run.train(StopAt(run, 3))
    run.close()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="damaged") as error:
        Run(config(), tmp_path, small)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / name).read_bytes() == content


def damaged(folder, small, name, change):
    """The error message about a run of 24 iterations, stopped after 19, whose file `name` was changed."""
    run = Run(config(iterations=24), folder, small)
    run.train(StopAt(run, 19))
    run.close()
    if name == "config.json":
        document = json.loads((folder / name).read_text())
    else:
        document = torch.load(folder / name, weights_only=True)
    change(document)
    if name == "config.json":
        (folder / name).write_text(json.dumps(document))
    else:
        torch.save(document, folder / name)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError) as error:
        Run(config(iterations=24, threads=None), folder, small)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert str(error.value).startswith(f"{folder / name}: ") and "\n" not in str(error.value)
    return str(error.value)


CHANGES = {
    "threads inf": ("config.json", lambda d: d.update(threads=math.inf), "threads is inf, expected whole"),
    "threads -5": ("config.json", lambda d: d.update(threads=-5), "-5 threads"),
    "threads 1e6": ("config.json", lambda d: d.update(threads=10**6), "1000000 threads"),
    "settings": ("config.json", lambda d: d.update(settings=[]), "settings is no table"),
    "schedule": (
        "config.json",
        lambda d: d["settings"].update(model="control-vae", schedule=None),
        "a schedule of None",
    ),
    "iteration": ("last.pt", lambda d: d.update(iteration=-1), "iteration is -1, expected count"),
    "far ahead": ("last.pt", lambda d: d.update(iteration=10**9), "iteration 1000000000 of 24"),
    "log_bytes": ("last.pt", lambda d: d.update(log_bytes=-1), "log_bytes is -1"),
    "best": ("last.pt", lambda d: d.update(best=3), "best is no table"),
    "noise": ("last.pt", lambda d: d.update(noise=d["noise"][:9]), "noise is torch.uint8 (9,)"),
    "sums": ("last.pt", lambda d: d.update(sums=torch.zeros(7)), "sums is torch.float32 (7,)"),
    "adam": ("last.pt", lambda d: d["optimizer"].update(state={}), "Adam's state is not that of"),
    "a moment": (
        "last.pt",
        lambda d: d["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        "exp_avg is torch.float32 (3,)",
    ),
    "optimizer": ("last.pt", lambda d: d.update(optimizer=1), "optimizer is no table"),
    "selected": ("best.pt", lambda d: d.update(vae=torch.zeros(3)), "vae is no table"),
    "of another": ("best.pt", lambda d: d["vae"].popitem(), "expected tensors encoder.1.weight"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_run_counts_on_is_checked_before_it_continues(small, tmp_path, change):
    name, do, message = CHANGES[change]
    assert message in damaged(tmp_path, small, name, do)


def test_a_log_that_is_damaged_or_of_another_checkpoint_is_refused(small, tmp_path):
    run = Run(config(iterations=24), tmp_path, small)
    run.train(StopAt(run, 19))
    run.close()
    log = (tmp_path / "log.jsonl").read_bytes()
    for content, message in (
        (log.replace(b'"rec"', b'"rex"', 1), "line 1 is damaged .rec is missing"),
        (log.replace(b'"step": 4', b'"step": 2', 1), "line 2 is damaged .step 2 comes too late"),
        (log.replace(b'"step": 18', b'"step": 17', 1), "does not belong to last.pt"),
        (log[:-1] + b" ", "ends in half a line"),
    ):
        (tmp_path / "log.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=f"log.jsonl: {message}"):
            Run(config(iterations=24), tmp_path, small)
        assert (tmp_path / "log.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("unspecified launch failure"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
)
@pytest.mark.parametrize("where", ["lvae_min.step.Step.restore", "torch.load"])
def test_a_machine_that_fails_is_not_reported_as_a_damaged_checkpoint(
    small, tmp_path, monkeypatch, error, where
):
    def fail(*_, **__):
        raise error

    run = Run(config(), tmp_path, small)
    run.train(StopAt(run, 3))
    run.close()
    with monkeypatch.context() as patch, pytest.raises(type(error)) as raised:
        patch.setattr(where, fail)
        Run(config(), tmp_path, small)
    assert raised.value is error
    Run(config(), tmp_path, small).close()  # it has let go of the folder


@pytest.mark.parametrize("key", ["scores", "selected", "equilibrium", "rec_mean", "seconds", "collapsed"])
def test_results_of_another_form_are_refused(small, tmp_path, key):
    run = Run(config(iterations=10), tmp_path, small)
    run.train()
    run.finish()
    for value in ("x", [1], None, {"a": []}):
        results = json.loads((tmp_path / "results.json").read_text())
        (tmp_path / "changed").mkdir(exist_ok=True)
        (tmp_path / "changed" / "results.json").write_text(json.dumps({**results, key: value}))
        with pytest.raises(ValueError, match="results.json: damaged; remove it, and the same command"):
            stored.finished(config(iterations=10), tmp_path / "changed")


def saved(folder, **others):
    vae = lvae_min.VAE((1, 64, 64), 5, "mlp", True)
    best = {"network": vae.settings, "vae": vae.state_dict(), "beta": 1.0, "iteration": 1, "score": 0.5}
    torch.save({**best, **others}, folder / "best.pt")
    return best


@pytest.mark.parametrize(
    "change", [{"latents": 10**9}, {"shape": [1, 60_000, 60_000]}, {"shape": []}, {"latents": None}, 3]
)
def test_a_network_is_made_no_larger_than_its_file(small, tmp_path, change, monkeypatch):
    best = saved(tmp_path)
    saved(tmp_path, network=best["network"] | change if isinstance(change, dict) else change)

    def too_late(*_, **__):
        raise AssertionError("memory is taken")

    monkeypatch.setattr(lvae_min.VAE, "to_empty", too_late)
    with pytest.raises(ValueError, match="best.pt: not the network of a run"):
        lvae_min.load(tmp_path)


def test_weights_that_claim_more_numbers_than_they_have_are_refused(small, tmp_path):
    best = saved(tmp_path)
    name = "encoder.1.weight"
    saved(tmp_path, vae={**best["vae"], name: torch.zeros(1).expand(best["vae"][name].shape)})
    with pytest.raises(ValueError, match="encoder.1.weight repeats a few numbers"):
        lvae_min.load(tmp_path)


def test_a_checkpoint_that_is_packed_or_of_an_old_format_is_not_unpacked(small, tmp_path):
    saved(tmp_path)
    with zipfile.ZipFile(tmp_path / "best.pt") as whole:
        members = [(name, whole.read(name)) for name in whole.namelist()]
    with zipfile.ZipFile(tmp_path / "best.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    with pytest.raises(ValueError, match="best.pt: damaged, or not a checkpoint .it is compressed"):
        lvae_min.load(tmp_path)
    saved(tmp_path)
    content = bytearray((tmp_path / "best.pt").read_bytes())
    content[(at := content.index(b"PK\1\2") + 24) : at + 4] = b"\xfe\xff\xff\xff"
    (tmp_path / "best.pt").write_bytes(content)
    with pytest.raises(ValueError, match="it claims more bytes than it has"):
        lvae_min.load(tmp_path)
    torch.save({"network": 1}, tmp_path / "best.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="best.pt: damaged, or not a checkpoint"):
        lvae_min.load(tmp_path)


def test_a_checkpoint_with_code_in_it_is_not_run(small, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "hacked"), "w"))

    Run(config(), tmp_path, small).close()
    torch.save({"iteration": Evil()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="damaged, or not a checkpoint"):
        Run(config(), tmp_path, small)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, step):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    file = tmp_path / "last.pt"
    write_whole(file, b"old")
    monkeypatch.setattr(step, full_disk)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, b"new and longer")
    assert file.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_checkpoint_for_which_the_disk_has_no_room_is_an_error_of_the_disk(tmp_path):
    file, state = tmp_path / "last.pt", {"weights": torch.ones(300_000)}
    checkpoints.save(file, {"weights": torch.zeros(2)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            checkpoints.save(file, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(file) and [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert same(load_checkpoint(file), {"weights": torch.zeros(2)})


def test_a_checkpoint_is_written_without_a_copy_in_memory(tmp_path):
    tracemalloc.start()
    try:
        checkpoints.save(tmp_path / "last.pt", {"weights": torch.ones(5_000_000)})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "last.pt").stat().st_size > 20_000_000 > 10 * most


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="best.pt: not there"):
        lvae_min.load(tmp_path)


def test_a_run_continues_with_as_many_threads_as_it_began_with(small, tmp_path):
    Run(config("vae", threads=1), tmp_path, small).close()
    run = Run(config("vae", threads=None), tmp_path, small)
    assert run.threads == torch.get_num_threads() == 1
    run.close()


def test_runs_of_one_process_draw_one_after_another(monkeypatch):
    drawing, most = [], []

    def draw(*_):
        drawing.append(1)
        time.sleep(0.05)
        most.append(len(drawing))
        drawing.pop()

    monkeypatch.setattr(plots, "draw", draw)
    monkeypatch.setattr(latents, "shown", lambda *_: ())
    run = SimpleNamespace(
        folder=None,
        dataset=None,
        step=SimpleNamespace(vae=None),
        call=workers.AT_ONCE,
        log_bytes=0,
        drawn=lambda: None,
    )
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: DRAW(run, None, None), range(3)))
    assert most == [1, 1, 1]


def test_bf16_rounds_the_products_and_stays_near_float32(small, tmp_path):
    logs = {}
    for precision in ("float32", "bf16"):
        run = Run(config(iterations=200, precision=precision), tmp_path / precision, small)
        assert run.train() and run.step.vae.encoder[1].weight.dtype == torch.float32
        logs[precision] = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    rec = [logs[precision][-1]["rec"] for precision in logs]
    assert rec[0] != rec[1] and rec[1] == pytest.approx(rec[0], rel=0.02)


def test_a_graph_replays_an_iteration_and_gives_the_same_numbers(small, tmp_path, monkeypatch):
    """Without a GPU: the graph is a stand-in that does the recorded work when it is replayed."""
    whole, run = (Run(config(iterations=60), tmp_path / name, small) for name in ("whole", "graph"))
    assert whole.train()
    run.step.graphed = True
    replays = []

    def capture():
        return SimpleNamespace(replay=lambda: replays.append(run.iteration) or run.step.work())

    monkeypatch.setattr(run.step, "capture", capture)
    assert run.train() and replays == list(range(3, 60)) and same(whole.state(), run.state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", METHODS)
def test_on_a_gpu_a_graph_equals_the_eager_path_and_can_be_continued(model, small, tmp_path):
    small.to("cuda")
    runs = [
        Run(config(model, graph=graph, device="cuda"), tmp_path / graph, small) for graph in ("on", "off")
    ]
    assert all(run.train() for run in runs) and runs[0].step.graph and not runs[1].step.graph
    part = Run(config(model, graph="on", device="cuda"), tmp_path / "part", small)
    part.train(StopAt(part, 37))
    part.close()
    part = Run(config(model, graph="on", device="cuda"), tmp_path / "part", small)
    assert part.train() and same(runs[0].state(), runs[1].state()) and same(runs[0].state(), part.state())


def test_denormals_are_flushed_where_a_run_trains(small, tmp_path):
    torch.set_flush_denormal(False)
    Run(config(), tmp_path, small).close()
    assert (torch.tensor([1e-39]) * torch.tensor([0.5])).item() == 0


def test_factors_of_too_few_images_are_refused_before_training(small, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real scores
    index = np.arange(20)
    spec = specs.Spec((1, 64, 64), {"shape": 20}, network="mlp", binary=True, images=20)
    few = data.Dataset("few", "", spec, stores.Bits(small.store.octets[:20], spec.shape), index[:, None])
    with pytest.raises(ValueError, match="few: the 2 validation images cannot be scored .*add images"):
        Run(config(), tmp_path / "run", few)
    assert not (tmp_path / "run").exists()


def test_folders_with_too_few_images_for_scores_are_no_factor_of_a_run(small, tmp_path, monkeypatch):
    monkeypatch.undo()
    spec = specs.Spec((1, 64, 64), {"folder": 2}, network="mlp", binary=True, images=20)
    labels = np.arange(20)[:, None] % 2
    few = data.Dataset("few", "", spec, stores.Bits(small.store.octets[:20], spec.shape), labels)
    with pytest.raises(ValueError, match="few: the 2 validation images cannot be scored"):
        Run(config(select="last"), tmp_path / "run", few)  # a factor that was asked for
    few.by_folder = True
    run = Run(config(select="last"), tmp_path / "run", few)
    run.close()
    assert run.dataset.factor_names == [] and run.select == "last" and few.factor_names == ["folder"]
    assert run.notes[-1].startswith("its folders are no factor: the 2 validation images cannot be scored (")
    with pytest.raises(ValueError, match="--select mig: .* no scores; .* 2 validation images cannot be"):
        Run(config(select="mig"), tmp_path / "other", few)
    monkeypatch.setattr(data, "load", lambda *_: few)
    with pytest.warns(UserWarning, match="few: its folders are no factor: the 2 validation images"):
        lvae_min.fit(config(select="last"), tmp_path / "runs", progress=False)


def test_images_that_changed_since_a_run_was_stopped_are_noticed(small, tmp_path):
    small.content = {"pixels": 1, "labels": None}
    Run(config(), tmp_path, small).close()
    Run(config(), tmp_path, small).close()
    small.content = {"pixels": 2, "labels": None}
    with pytest.raises(ValueError, match="was made with images that have changed since"):
        Run(config(), tmp_path, small)


def test_images_of_ones_own_may_lie_elsewhere_when_a_run_goes_on(small, tmp_path):
    small.content = {"pixels": 1, "labels": None}
    for name in ("a.npz", "./a.npz", str(tmp_path / "b.npz")):
        Run(config(dataset=name), tmp_path / "run", small).close()
    with pytest.raises(ValueError, match="was made with dataset a.npz, not dsprites"):
        Run(config(), tmp_path / "run", small)


def test_a_run_that_moves_between_cpu_and_gpu_continues_with_other_noise(small, tmp_path):
    run = Run(config(), tmp_path, small)
    run.train(StopAt(run, 30))
    run.close()
    state = load_checkpoint(tmp_path / "last.pt")
    state |= {"device": "cuda", "noise": torch.zeros(16, dtype=torch.uint8)}  # a GPU's generator has 16
    torch.save(state, tmp_path / "last.pt")
    run = Run(config(), tmp_path, small)
    assert run.iteration == 30 and run.train()
    state |= {"device": "cpu"}
    torch.save(state, tmp_path / "last.pt")
    run.close()
    with pytest.raises(ValueError, match="not a checkpoint of this run .noise is torch.uint8"):
        Run(config(), tmp_path, small)


def test_a_network_selected_after_the_last_checkpoint_does_not_outlive_it(small, tmp_path, monkeypatch):
    """As on another device, where the iterations that come again give other numbers."""
    monkeypatch.setattr(metrics, "score", lambda *_, **__: {"beta_vae": next(scores)})
    scores = iter([0.5, 0.9, 0.4, 0.3, 0.2] + [0.1] * 9)
    run = Run(config(iterations=20), tmp_path, small)
    run.train(StopAt(run, 3))
    checkpoint = (tmp_path / "last.pt").read_bytes()
    run.train(StopAt(run, 4))
    run.close()
    (tmp_path / "last.pt").write_bytes(checkpoint)  # best.pt is of iteration 4, its score 0.9
    run = Run(config(iterations=20), tmp_path, small)
    assert run.train()
    best = load_checkpoint(tmp_path / "best.pt")
    assert run.best == {name: best[name] for name in run.best}
    assert (run.best["iteration"], run.best["score"]) == (4, 0.4)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_flipped_bit_among_the_weights_of_a_checkpoint_is_damage(small, tmp_path, name):
    run = Run(config(iterations=10), tmp_path, small)
    run.train(StopAt(run, 3))
    run.close()
    content = (tmp_path / name).read_bytes()
    weights = load_checkpoint(tmp_path / name)["vae"]["encoder.1.weight"].numpy().tobytes()  # 0.5 MB
    start = content.index(weights)
    for at in (start, start + len(weights) // 2, start + len(weights) - 1):
        flipped = bytearray(content)
        flipped[at] ^= 1
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(ValueError, match=f"{name}: damaged, or not a checkpoint .* its checksum"):
            Run(config(iterations=10), tmp_path, small)
        if name == "best.pt":
            with pytest.raises(ValueError, match="best.pt: damaged, or not a checkpoint .* its checksum"):
                lvae_min.load(tmp_path)
        assert (tmp_path / name).read_bytes() == flipped


def test_no_flipped_byte_changes_what_a_checkpoint_holds(tmp_path):
    state = {"weights": torch.arange(12.0), "more": {"moment": torch.ones(3, 5)}, "iteration": 7}
    checkpoints.save(tmp_path / "last.pt", state)
    content, refused = (tmp_path / "last.pt").read_bytes(), []
    for at in range(len(content)):
        # Bit 16 makes a folder of a member, of which torch would return whatever is in memory.
        (tmp_path / "last.pt").write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        try:
            assert same(load_checkpoint(tmp_path / "last.pt"), state)  # a date, say, or what fills gaps
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'last.pt'}: damaged, or not a checkpoint (")
            refused.append(at)
    for tensor in (state["weights"], state["more"]["moment"]):
        start = content.index(tensor.numpy().tobytes())
        assert set(range(start, start + tensor.nbytes)) <= set(refused)


def test_training_validation_and_test_images_are_each_used_for_their_own(small, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SCORED", 50)
    run, seen, trained = Run(config(iterations=20), tmp_path, small), [], []
    measure, batch = evaluation.measure, small.batch
    monkeypatch.setattr(
        evaluation, "measure", lambda *given: (seen.append(given[2].tolist()), measure(*given))[1]
    )
    split = data.Split.of(len(small))
    monkeypatch.setattr(small, "batch", lambda index: (trained.extend(index.tolist()), batch(index))[1])
    for _ in range(10):
        run.step()
    assert len(trained) == 80 and set(trained) <= set(split.training.tolist())
    run.train()
    assert seen and all(index == split.validation[:50].tolist() for index in seen)
    seen.clear()
    results = run.finish()
    assert seen and all(index == split.test[:50].tolist() for index in seen) and results["images"] == 50


def test_ten_thousand_images_of_a_split_are_scored():
    assert data.SCORED == train.SCORED == 10_000


def test_rec_is_with_a_sampled_z_and_rec_mean_with_the_mean(small):
    vae, index = lvae_min.VAE((1, 64, 64), 5, "mlp", True), np.arange(1500)
    with torch.no_grad():
        vae.encoder[-1].bias[5:] = -1.0  # logvar: a standard deviation of 0.6
        vae.decoder[0].weight *= 20  # so that z matters
    codes = []
    hook = vae.decoder.register_forward_pre_hook(lambda _, given: codes.append(given[0]))
    scores, _ = evaluation.evaluate(vae, small, index)
    hook.remove()
    sampled, means = (torch.cat(codes[start::2]) for start in (0, 1))
    x = small.batch(torch.from_numpy(index))
    mu, logvar = vae.encode(x)
    assert torch.allclose(means, mu, atol=1e-6)
    noise = (sampled - mu) / (logvar / 2).exp()
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    for name, z in (("rec", sampled), ("rec_mean", mu)):
        error = (vae.decode(z) - x.float()).square().flatten(1).sum(1).mean()
        assert scores[name] == pytest.approx(error.item(), rel=1e-5)
    assert scores["rec"] > 1.001 * scores["rec_mean"]


def test_beta_in_the_results_is_that_of_the_selected_iteration(small, tmp_path, monkeypatch):
    given = iter([0.1] * 4 + [0.9])
    monkeypatch.setattr(metrics, "score", lambda *_, **__: {"beta_vae": next(given, 0.2)})
    run = Run(config(iterations=20), tmp_path, small)
    run.train()
    results = run.finish()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    betas = {line["step"]: line["beta"] for line in map(json.loads, lines)}
    assert results["selected"]["iteration"] == 10
    assert results["scores"]["beta"] == betas[10] != betas[20] == results["last"]["beta"]


def test_a_run_has_the_network_of_its_data_set_and_a_latent_a_factor(small, tmp_path):
    vae = Run(config(iterations=5), tmp_path, small).step.vae
    assert vae.settings == {"shape": [1, 64, 64], "latents": 5, "network": "mlp", "binary": True}


@pytest.mark.parametrize("select, taken", [("beta_vae", "last"), ("factor_vae", "last"), ("mig", "mig")])
def test_a_score_that_is_0_for_one_factor_selects_nothing_and_the_run_reports_it(
    small, tmp_path, select, taken
):
    small.factor_names, small.factor_sizes = ["digit"], (1920,)
    run = Run(config(iterations=12, select=select), tmp_path, small)
    assert run.select == taken
    assert ("score of one factor is 0 by definition" in " ".join(run.notes)) == (taken == "last")


def test_a_run_killed_between_its_two_files_selects_what_it_would_have(small, tmp_path, monkeypatch):
    """Of equal scores the later wins if the earlier knew less than half, which is no order of networks."""
    monkeypatch.setattr(train, "EVALUATED_SECONDS", 3600)
    kls = {1: 2.0, 2: 3.9, 3: 4.1, 4: 4.2}

    def evaluate(vae, dataset, index, *_):
        return {"rec": 1.0, "kl": kls.get(run.iteration, 1.0), "rec_mean": 1.0, "beta_vae": 1.0}, None

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    run = Run(config(iterations=10), tmp_path / "whole", small)
    run.train()
    whole = run.best["iteration"]
    run = Run(config(iterations=10), tmp_path / "part", small)
    run.train(StopAt(run, 1))
    kept = (tmp_path / "part/last.pt").read_bytes()
    run.train(StopAt(run, 3))
    (tmp_path / "part/last.pt").write_bytes(kept)  # as if it had died before this file
    run.close()
    run = Run(config(iterations=10), tmp_path / "part", small)
    assert run.iteration == 1 and run.train()
    assert run.best["iteration"] == load_checkpoint(tmp_path / "part/best.pt")["iteration"] == whole == 3
