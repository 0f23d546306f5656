import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_dsprites import SHA256

import lvae_min
from lvae_min import cli, launch, model, plots, runs
from lvae_min.datasets import dsprites
from lvae_min.io.checkpoints import load_checkpoint

SMALL = [sys.executable, str(Path(__file__).parent / "small_run.py")]
SMALL += ["--device", "cpu", "--threads", "1", "--batch-size", "8"]
PICTURES = {"curves.png", "reconstructions.png", "traversal.png", "traversal.gif"}


def small_run(out, *arguments):
    return subprocess.run(
        [*SMALL, "--out", str(out), *map(str, arguments)], capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid of two finished runs, and what was printed."""
    out = tmp_path_factory.mktemp("runs")
    return out, small_run(out, "--iterations", 60, "--model", "lvae", "vae")


def test_a_grid_trains_scores_and_draws_each_run(finished):
    out, done = finished
    assert done.returncode == 0 and done.stderr == ""
    folders = {path.name for path in out.iterdir()}
    assert folders == {f"dsprites-{model}-iterations60-batch-size8" for model in ("lvae", "vae")}
    for folder in out.iterdir():
        assert {path.name for path in folder.iterdir()} == PICTURES | {
            "config.json",
            "log.jsonl",
            "last.pt",
            "best.pt",
            "results.json",
            "lock",
        }
        scores = json.loads((folder / "results.json").read_text())["scores"]
        assert f"{scores['rec']:.2f}" in done.stdout and f"{scores['sap']:.3f}" in done.stdout
    assert (
        done.stdout.count("beta-VAE") >= 22 and "fixed point of Eq. 5: sigma_0^4 / rec - 1 = " in done.stdout
    )


def test_pictures_show_something(finished):
    folder = next(finished[0].glob("*-lvae-*"))
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100 and len(picture.convert("L").getcolors()) > 10
    with Image.open(folder / "traversal.gif") as picture:
        assert picture.n_frames == 20 and picture.size == (5 * 128 + 4 * plots.GAP, 128)
        row = np.asarray(picture.convert("L"))[64]
    gaps = [128 * (panel + 1) + plots.GAP * panel + place for panel in range(4) for place in range(plots.GAP)]
    assert set(row[gaps]) == {plots.GREY}


def test_a_finished_run_is_skipped_and_shown_again(finished):
    out, before = finished
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = small_run(out, "--iterations", 60, "--model", "lvae", "vae")
    assert again.returncode == 0 and again.stdout.count("finished before") == 2
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_load_gives_the_network_back(finished, monkeypatch):
    monkeypatch.setattr(model, "HIDDEN", 32)
    vae = lvae_min.load(next(finished[0].glob("*-lvae-*")))
    mu, logvar = vae.encode(torch.zeros(2, 1, 64, 64))
    images = vae.decode(mu)
    assert mu.shape == logvar.shape == (2, 5) and images.shape == (2, 1, 64, 64)
    assert 0 <= images.min() and images.max() <= 1 and not vae.training and isinstance(vae, lvae_min.VAE)


def wait_for_step(process, folder, step):
    """Let a process run until its log has reached `step`."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        lines = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {process.communicate()}")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_ends_with_the_numbers_of_one_that_was_not(finished, tmp_path, kill):
    process = subprocess.Popen(
        [*SMALL, "--iterations", "60", "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "dsprites-lvae-iterations60-batch-size8"
    wait_for_step(process, folder, 18)
    process.send_signal(kill)
    output, error = process.communicate()
    assert not (folder / "results.json").exists()
    if kill != signal.SIGKILL:
        assert process.returncode == 130 and error == ""
        again = f"python run.py {shlex.join(SMALL[2:])} --iterations 60 --out {tmp_path}"
        assert f"continue with\n    {again}" in output
    assert "continued at iteration" in small_run(tmp_path, "--iterations", 60).stdout
    whole = finished[0] / folder.name
    assert (folder / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    scores = [json.loads((each / "results.json").read_text())["scores"] for each in (folder, whole)]
    assert scores[0] == scores[1]
    weights = [load_checkpoint(each / "last.pt")["vae"] for each in (folder, whole)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def results_of(folder):
    return json.loads((folder / "results.json").read_text())["scores"]


def numbers_of(folder):
    """The log and the scores of a finished run."""
    return (folder / "log.jsonl").read_text().splitlines(), results_of(folder)


def test_runs_in_one_process_end_with_the_numbers_of_runs_alone(finished, tmp_path):
    done = small_run(tmp_path, "--iterations", 60, "--model", "vae", "lvae", "--seed", 0, 1, "--jobs", 3)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "grid: 4 of 4 runs done, 100% of all" in done.stdout
    for folder in finished[0].iterdir():
        assert numbers_of(tmp_path / folder.name) == numbers_of(folder)
    seeds = [results_of(tmp_path / f"dsprites-vae-iterations60-batch-size8{seed}") for seed in ("", "-seed1")]
    assert seeds[0] != seeds[1]


def test_runs_share_the_cores_unless_threads_are_given(monkeypatch):
    monkeypatch.setattr(runs, "cores", lambda: 8)
    configs, given = cli.parse("--model vae lvae --jobs 2".split())
    assert runs.Runs(configs, given, None).threads == 4
    configs, given = cli.parse("--model vae --jobs 2".split())
    assert runs.Runs(configs, given, None).threads == 8
    configs, given = cli.parse("--model vae lvae --jobs 8 --threads 3".split())
    assert runs.Runs(configs, given, None).jobs == 2 and configs[0].threads == 3


@pytest.mark.parametrize("finished_runs, code", [(1, 130), (2, 0)])
def test_a_signal_that_comes_when_all_is_done_stops_nothing(tmp_path, monkeypatch, finished_runs, code):
    configs, given = cli.parse(f"--seed 0 1 --out {tmp_path}".split())
    stop, trained = Event(), []

    def train(self, config, folder):
        trained.append(folder)
        if len(trained) == finished_runs:
            stop.set()
        return {}

    monkeypatch.setattr(runs.Runs, "train", train)
    monkeypatch.setattr(runs, "summary", lambda results: "its scores")
    assert runs.Runs(configs, given, stop).run_all() == code and len(trained) == finished_runs


def test_an_output_that_cannot_be_written_to_stops_no_other_run_and_loses_no_report(
    tmp_path, monkeypatch, capsys
):
    configs, given = cli.parse(f"--seed 0 1 2 --out {tmp_path}".split())
    tried = []

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.Runs, "train", lambda *given: (tried.append(given[1].seed), full())[1])
    monkeypatch.setattr(runs.report, "say", full)
    assert runs.Runs(configs, given, Event()).run_all() == 2 and tried == [0, 1, 2]
    assert capsys.readouterr().err.count("No space left on device") == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_where_stdout_is_full_one_run_fails_for_it_and_the_others_go_on(tmp_path):
    words = ["--iterations", "20", "--model", "lvae", "vae", "--out", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SMALL, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=600)
    assert done.returncode == 2 and done.stderr.count("\n") == 2
    assert done.stderr.startswith("run.py: no more output: stdout cannot be written to\n")
    assert "stdout: No space left on device" in done.stderr
    assert [file.parent.name for file in tmp_path.glob("*/results.json")] == [
        "dsprites-vae-iterations20-batch-size8"
    ]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_whichever_it_is(first):
    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in handled]
    try:
        stop = cli.stop_on_signals()
        signal.raise_signal(first)
        assert stop.is_set()
        assert [signal.getsignal(number) for number in handled] == [signal.SIG_DFL] * 2
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no\nmore"), RuntimeError("can't allocate memory")])
def test_what_helps_a_run_without_memory_depends_on_whether_others_run_beside_it(error):
    one, three = (runs.describe_error(error, Path("runs/one"), jobs) for jobs in (1, 3))
    assert one.startswith("runs/one: not enough memory (") and "\n" not in one
    again = "start again with a smaller --batch-size or fewer --latents"
    assert one.endswith(f"); {again}") and three.endswith(f"); continue with fewer --jobs, or {again}")


def test_a_run_that_fails_is_reported_at_the_end_and_stops_no_other(tmp_path):
    folder = tmp_path / "dsprites-vae-iterations20-batch-size8"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    done = small_run(tmp_path, "--iterations", 20, "--model", "vae", "lvae", "beta-vae")
    assert done.returncode == 2
    assert "grid: 3 of 3 runs done, 1 failed, 100% of all iterations, 0:00:00 left" in done.stdout
    assert f"FAILED, the others continue: {folder}: holds thesis.tex" in done.stdout
    assert done.stderr.count("\n") == 1 and "holds thesis.tex and no config.json" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert len(list(tmp_path.glob("*/results.json"))) == 2


def test_a_grid_that_is_stopped_continues_with_the_same_command(finished, tmp_path):
    arguments = ["--iterations", "60", "--model", "lvae", "vae", "--jobs", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*SMALL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(process, tmp_path / "dsprites-lvae-iterations60-batch-size8", 12)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate()
    assert process.returncode == 130 and error == "" and output.count("stopped; continue with") == 1
    assert small_run(tmp_path, *arguments[:-2]).returncode == 0
    for folder in finished[0].iterdir():
        assert numbers_of(tmp_path / folder.name) == numbers_of(folder)


def workers_of(launcher):
    """Processes of run.py that torchrun has started, and not those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if int(parent) == launcher.pid and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_torchrun_shares_a_grid_and_survives_the_loss_of_workers(finished, tmp_path):
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + ["--max-restarts", "3", *SMALL[1:], "--iterations", "60", "--model", "lvae", "vae", "--seed", "0"]
        + ["1", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    names = [f"dsprites-{model}-iterations60-batch-size8" for model in ("lvae", "vae")]
    for name, step in zip(names, (12, 24), strict=True):  # rank 0 and then, in its second life, a worker
        wait_for_step(launcher, tmp_path / name, step)
        os.kill(workers_of(launcher)[0], signal.SIGKILL)
    output, _ = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, output
    assert len(list(tmp_path.glob("*/results.json"))) == 4 and "continued at iteration" in output
    assert "grid, rank 0: 2 of 2 runs done" in output and "grid, rank 1: 2 of 2 runs done" in output
    for name in names:
        assert numbers_of(tmp_path / name) == numbers_of(finished[0] / name)


def test_a_finished_run_on_images_that_have_changed_is_not_shown_as_theirs(tmp_path, capsys):
    arguments = ["--dataset", str(tmp_path / "mine.npz"), "--out", str(tmp_path), "--data", str(tmp_path)]
    for color, code in ((1, 0), (1, 0), (9, 2)):
        np.savez(tmp_path / "mine.npz", images=np.full((40, 64, 64), color, np.uint8))
        settings = [*arguments, "--iterations", "2", "--batch-size", "4", "--threads", "1", "--device", "cpu"]
        assert cli.command(settings) == code
    output = capsys.readouterr()
    assert "finished before" in output.out and "was made with images that have changed since" in output.err
    folder = next(tmp_path.glob("mine-*"))
    for name in ("results.json", "config.json"):  # as an older run had it: nowhere
        stored = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**stored, "content": None}))
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "mine.npz", images=np.zeros((40, 64, 64), np.uint8))
    settings[1] = str(tmp_path / "b" / "mine.npz")
    assert cli.command(settings) == 2 and "was made with dataset" in capsys.readouterr().err


def test_under_torchrun_a_run_that_fails_ends_no_other_process(tmp_path):
    folder = tmp_path / "dsprites-vae-iterations20-batch-size8"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *SMALL[1:]]
        + ["--iterations", "20", "--model", "lvae", "vae", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "run.py: " in done.stderr and "holds thesis.tex" in done.stderr
    assert (tmp_path / "dsprites-lvae-iterations20-batch-size8" / "results.json").exists()


@pytest.mark.parametrize(
    "arguments, there, imported, ahead",
    [
        ("--dataset arm3d dsprites", "", False, True),
        ("--dataset arm3d", "", False, False),
        ("--dataset dsprites", dsprites.ARCHIVE, False, False),
        ("--dataset dsprites", "", True, False),
        ("--seed 0", "dsprites-lvae/results.json", False, False),
        ("--seed 0 1", "dsprites-lvae/results.json", False, True),
        (f"--dataset dsprites --out {'a' * 300} --data {'b' * 300}", "", False, True),
    ],
)
def test_dsprites_is_drawn_ahead_where_a_run_needs_it(
    tmp_path, monkeypatch, arguments, there, imported, ahead
):
    begun = []
    monkeypatch.setattr(dsprites.AHEAD, "begin", lambda: begun.append("torch" in sys.modules))
    if there:
        (tmp_path / there).parent.mkdir(exist_ok=True)
        (tmp_path / there).touch()
    if not imported:
        monkeypatch.delitem(sys.modules, "torch")
    words = ["--out", str(tmp_path), "--data", str(tmp_path), *arguments.split()]
    assert cli.start(*cli.parse(words)) is runs
    assert begun == [False] * ahead


def test_a_process_of_torchrun_prepares_for_its_share_alone(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(launch, "RANK", 1)
    monkeypatch.setattr(launch, "WORLD", 2)
    monkeypatch.setattr(cli, "stop_on_signals", lambda: None)
    monkeypatch.setattr(cli, "start", lambda configs, given: started.append(configs) or runs)
    monkeypatch.setattr(runs, "Runs", lambda configs, *_: SimpleNamespace(run_all=lambda: len(configs)))
    words = ["--dataset", "arm3d", "dsprites", "mpi3d", "--out", str(tmp_path)]
    assert cli.main(words, cli.CALLED) == 1
    assert [[config.dataset for config in share] for share in started] == [["dsprites"]]


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"RANK": "first"}, "RANK is 'first' in the environment: expected a whole number of at least 0"),
        ({"RANK": "-1"}, "RANK is '-1' in the environment: expected a whole number of at least 0"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0' in the environment: expected a whole number of at least 1"),
        ({"RANK": "1"}, "RANK is 1 and WORLD_SIZE is 1 in the environment: expected a smaller rank"),
    ],
)
def test_an_environment_that_torchrun_never_makes_is_a_mistake_of_the_command(environment, message, tmp_path):
    def python(*words):
        given = {**os.environ, **environment}
        return subprocess.run(
            [sys.executable, *words], env=given, capture_output=True, text=True, timeout=120
        )

    done = python("-m", "lvae_min", "--iterations", "1", "--out", str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith(f"python -m lvae_min: {message}"), done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
    assert python("-c", "import lvae_min.config").returncode == 0


def test_a_command_draws_dsprites_in_another_process_and_ends_without_looking_for_garbage(tmp_path):
    """In a process of its own, as `python run.py` is: PyTorch is not imported before."""
    code = """
        import atexit, gc, hashlib, os, sys
        from lvae_min import cli
        from lvae_min.datasets import dsprites
        begin, draw, seen = dsprites.AHEAD.begin, dsprites.draw, []
        dsprites.AHEAD.begin = lambda: (seen.append("torch" in sys.modules), begin())
        def drawn():
            seen.append(dsprites.AHEAD.process > 0)
            rows = draw()
            print(hashlib.sha256(rows.astype("<u8")).hexdigest())
            raise ValueError("seen enough")
        dsprites.draw = drawn
        atexit.register(lambda: print(code, seen, gc.get_freeze_count() > 100_000))
        code = cli.command(sys.argv[1:])"""
    code = textwrap.dedent(code)
    words = ["--device", "cpu", "--out", str(tmp_path / "runs"), "--data", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines() == [SHA256, "2 [False, True] True"], done.stderr
    assert done.stderr == "run.py: seen enough\n"


@pytest.mark.parametrize(
    "kl, model, words",
    [
        (0.01, "lvae", "1,000 iterations; try --sigma-freeze 0.5"),
        (9.0, "lvae", ", and rose later; try --s"),
        (
            1.6,
            "dynamic-vae",
            ", and rose later; its beta, 150 at the start, does that until it has come down",
        ),
        (0.01, "dynamic-vae", "does that until it has come down: try more --iterations"),
        (0.01, "beta-vae", "1,000 iterations; try a lower --beta"),
        (0.01, "vae", "try another --seed"),
    ],
)
def test_a_collapse_is_reported_with_advice(finished, kl, model, words):
    results = json.loads(next(finished[0].glob("*-lvae-*/results.json")).read_text())
    assert "COLLAPSED" not in runs.summary({**results, "collapsed": False})
    results |= {"collapsed": True, "scores": {**results["scores"], "kl": kl}}
    results["settings"]["model"] = model
    last = runs.summary(results).splitlines()[-1]
    assert words in last and ("try" in last) == ((kl, model) != (1.6, "dynamic-vae"))


def test_a_short_run_that_ends_without_kl_says_so(finished):
    results = json.loads(next(finished[0].glob("*-lvae-*/results.json")).read_text())
    ends = {kl: runs.summary({**results, "last": {**results["last"], "kl": kl}}) for kl in (2e-6, 0.11)}
    assert "kl ends at 2e-06 nats" in ends[2e-6] and "try --sigma-freeze 0.5" in ends[2e-6]
    assert "kl ends" not in ends[0.11]


def test_a_failure_that_names_no_run_is_reported_with_its_run(tmp_path, monkeypatch, capsys):
    def one(self, config, folder):
        raise ValueError("no such thing")

    monkeypatch.setattr(runs.Runs, "train", one)
    assert cli.command(["--seed", "5", "6", "--iterations", "20", "--out", str(tmp_path)]) == 2
    for output in capsys.readouterr():
        for seed in (5, 6):
            assert f"{tmp_path}/dsprites-lvae-iterations20-seed{seed}: no such thing" in output


def test_an_internal_error_is_shown_and_stops_no_other_run(tmp_path, monkeypatch, capsys):
    def one(self, config, folder):
        if config.model == "vae":
            raise RuntimeError("of ours")

    monkeypatch.setattr(runs.Runs, "train", one)
    assert cli.command(["--model", "vae", "lvae", "--iterations", "20", "--out", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert "grid: 1 of 2 runs done, 1 failed" in output.out and "lvae-iterations20: stopped" in output.out
    assert (
        "FAILED, the others continue: " in output.out
        and "dsprites-vae-iterations20: internal error" in output.out
    )
    assert "RuntimeError: of ours" in output.err and output.err.endswith("traceback above (RuntimeError)\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--jobs", "0"], "--jobs 0: expected 1 to 1024"),
        (["--graph", "on"], "--graph on: expected a GPU whose memory holds the images"),
        (["--device", "meta"], "--device meta: not a CPU or a GPU"),
        (["--precision", "fp8"], "--precision fp8: expected float32, tf32 or bf16"),
        (["--model", "lave"], "--model lave: expected vae or beta-vae or control-vae"),
        (["--dataset", "cats"], "--dataset cats"),
        (["--iterations", "many"], "argument --iterations: invalid int value: 'many'"),
        (["--speed", "9"], "--speed 9"),
        (["--iterations", "0"], "--iterations 0: expected at least 1"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--batch-size", "10000"], "--batch-size 10000: the training set has 1632 images"),
    ],
)
def test_a_mistake_is_reported_in_one_line(tmp_path, arguments, message):
    done = small_run(tmp_path, *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs /proc to have a folder nobody writes"
)
def test_a_folder_that_cannot_be_written_is_reported_in_one_line():
    done = small_run("/proc/self", "--iterations", 10)
    assert done.returncode == 2 and "cannot be written" in done.stderr and done.stderr.count("\n") == 1


def test_help_lists_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for flag in (
        "--dataset",
        "--model",
        "--iterations",
        "--schedule",
        "--warmup",
        "--batch-size",
        "--seed",
        "--beta",
        "--latents",
        "--sigma-freeze",
        "--loss",
        "--device",
        "--threads",
        "--precision",
        "--select",
        "--graph",
        "--jobs",
        "--out",
        "--data",
    ):
        assert flag + " " in text
    assert "10,000; 5,000 for celeba)" in text and "(default: 0.05; 0 with --paper" in text


def test_a_grid_is_the_product_of_its_values_without_what_a_method_ignores():
    configs, given = cli.parse("--model vae beta-vae --beta 2 4 --seed 0 1 --out o --data d --jobs 3".split())
    assert sorted(config.name for config in configs) == sorted(
        [
            "dsprites-vae",
            "dsprites-vae-seed1",
            "dsprites-beta-vae",
            "dsprites-beta-vae-seed1",
            "dsprites-beta-vae-beta4",
            "dsprites-beta-vae-seed1-beta4",
        ]
    )
    assert (given.out, given.data, given.jobs) == (Path("o"), Path("d"), 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--iterations", "9" * 30], "--iterations 999"),
        (["--seed", "9" * 5000], "argument --seed: invalid int value"),
        (["--model", "a\nb"], "--model a b: expected vae"),
        (["a\n\x1b[31mb"], "unrecognized arguments: a [31mb"),
        (["--dataset", "x" * 300], "--dataset xxx"),
        (["--seed", *map(str, range(101)), "--latents", *map(str, range(1, 101))], "a grid of 10,100 runs"),
    ],
)
def test_a_mistake_of_any_length_and_letters_is_one_printable_line(capsys, arguments, message):
    try:
        code = cli.command(arguments)
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr().err
    assert (
        code == 2
        and message in output
        and output[:-1].isprintable()
        and output[-1] == "\n"
        and len(output) < 500
    )
