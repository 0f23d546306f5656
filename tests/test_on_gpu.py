"""on_gpu.sh, with a stand-in for Python and for the sanitizer that write down what they are asked for."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import on_gpu
import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = r"""#!/bin/sh
case "$1" in *on_gpu.py) exec REAL "$@";; esac
echo "cache=${PYTORCH_NO_CUDA_MEMORY_CACHING:-} python $(echo "$*" | tr "\n" " ")" >> CALLS
case "$*" in
  *torch.cuda.is_available*) echo '{"device": "a GPU", "commit": "0123"}'; exit NOT_THERE;;
  *"import xdist"*) exit NO_XDIST;;
  *--junitxml=*) file=$(echo "$*" | sed 's/.*--junitxml=\([^ ]*\).*/\1/')
    echo '<t><testcase classname="t" name="a"/><testcase classname="t" name="b"><failure/></testcase>
          <testcase classname="t" name="c"><skipped/></testcase></t>' > "$file"; echo output; exit 1;;
  "-m bench "*) while [ "$1" != --json ]; do [ "$2" = --device ] && name=$1; shift; done
    echo "{\"$name\": [{\"us\": 1}]}" > "$2";;
  "-m bench.updates "*) echo '{"rows": [{"us": 1}]}' > "$4";;
  run.py*) while [ "$1" != --out ]; do shift; done; mkdir -p "$2/one"; cd "$2/one"
    echo '{"scores": {"mig": 0.5}, "seconds": 9, "settings": {}}' > results.json
    touch last.pt best.pt lock log.jsonl curves.png;;
esac
"""


@pytest.fixture
def part(tmp_path, monkeypatch):
    """Carry out a part: exit code, its output, the calls, its summary, and the names in its archive."""
    calls = tmp_path / "calls"

    def carry_out(*words, there=True, xdist=False):
        calls.write_text("")
        (tmp_path / "bin").mkdir(exist_ok=True)
        script = PYTHON.replace("REAL", sys.executable).replace("CALLS", str(calls))
        sanitizer = '#!/bin/sh\necho "cache=$PYTORCH_NO_CUDA_MEMORY_CACHING sanitizer $*" >> ' + str(calls)
        programs = {
            "python": script.replace("NOT_THERE", "01"[not there]).replace("NO_XDIST", "01"[not xdist]),
            "compute-sanitizer": sanitizer,
        }
        for name, program in programs.items():
            (tmp_path / "bin" / name).write_text(program)
            (tmp_path / "bin" / name).chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OUT": str(tmp_path / "out")}
        done = subprocess.run(
            ["bash", str(ROOT / "tests" / "on_gpu.sh"), *words],
            env=environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        name, summary, names = "-".join(words), None, set()
        if (tmp_path / "out" / f"{name}.json").exists():
            summary = json.loads((tmp_path / "out" / f"{name}.json").read_text())
            with tarfile.open(tmp_path / "out" / f"{name}.tar.gz") as archive:
                names = {Path(member).name for member in archive.getnames()}
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()[1:], summary, names

    return carry_out


def test_only_the_sanitizer_goes_without_torchs_cache(part):
    code, output, calls, summary, _ = part("tests")
    sanitized = [call for call in calls if call.startswith("cache=1 sanitizer --tool ")]
    assert [call.split()[3] for call in sanitized] == ["memcheck", "racecheck", "synccheck", "initcheck"]
    assert all(call.startswith("cache= python") for call in calls if " sanitizer " not in call)
    assert len([call for call in calls if " python " in call and "-m pytest" in call]) == 2


def test_three_sanitizers_watch_our_kernels_alone_and_initcheck_all_of_the_loss(part):
    sanitized = [call for call in part("tests")[2] if " sanitizer " in call]
    seen = [("--kernel-name kns=lvae" in call, "weights_move" in call) for call in sanitized]
    assert seen == [(True, True)] * 3 + [(False, False)]


def test_the_names_of_all_kernels_have_the_namespace_that_the_sanitizers_look_for():
    count = 0
    for file in (ROOT / "csrc").iterdir():
        inside = False
        for line in file.read_text().splitlines():
            if re.match(r"(namespace lvae \{|\} *// namespace lvae$)", line):
                inside = not inside
            elif "__global__" in line:
                count += 1
                assert inside, f"{file.name}: {line}"
    assert count == 6


@pytest.mark.parametrize("xdist", [True, False])
def test_tests_run_on_half_of_the_cores_and_on_eight_at_most_where_xdist_is_there(part, xdist):
    tests = [call for call in part("tests", xdist=xdist)[2] if "--junitxml" in call]
    assert [on_gpu.workers(cores) for cores in (1, 2, 16, 64)] == [1, 1, 8, 8]
    wanted = f"-n {on_gpu.workers(os.cpu_count())}"
    assert [wanted in call for call in tests] == [xdist] * 2


def test_a_failed_test_is_named_and_stops_nothing(part):
    code, output, calls, summary, names = part("tests")
    assert code == 1 and summary["failed"] == ["cuda: code 1", "others: code 1"] and summary["passed"] == 4
    assert summary["measured"]["cuda"] == {"passed": 1, "skipped": 1, "failed": ["t::b"]}
    assert summary["device"] == "a GPU" and summary["commit"] == "0123" and "output" in output
    assert {"cuda.log", "others.log", "cuda.xml", "tests.json"} <= names


def test_the_measurements_of_each_bench_are_in_the_summary(part):
    code, _, calls, summary, names = part("bench")
    assert code == 0 and list(summary["measured"]) == list(on_gpu.BENCHES)
    assert summary["measured"]["loss"] == summary["measured"]["updates"] == [{"us": 1}]
    assert {"bench-loss.json", "bench-updates.json"} <= names


def test_the_papers_runs_are_asked_for_and_their_networks_stay(part):
    code, _, calls, summary, names = part("paper", "3")
    words = shlex.split(calls[0])[2:]
    methods = ["vae", "beta-vae", "control-vae", "dynamic-vae", "sigma-vae", "lvae"]
    assert words[: words.index("--out")] == [
        "run.py",
        "--paper",
        "--precision",
        "tf32",
        "--score-test",
        "--seed",
        "3",
        "--model",
        *methods,
        "--jobs",
        "6",
        "--device",
        "cuda",
    ]
    assert code == 0 and summary["measured"] == {"one": {"scores": {"mig": 0.5}, "seconds": 9}}
    assert {"results.json", "log.jsonl", "curves.png", "paper-3.json", "paper-3-runs.log"} <= names
    assert not {"last.pt", "best.pt", "lock"} & names


def test_ten_seeds_have_the_default_schedule(part):
    _, _, calls, _, _ = part("seeds")
    assert "--seed 0 1 2 3 4 5 6 7 8 9 --model" in calls[0] and "--paper" not in calls[0]


@pytest.mark.parametrize("words", [(), ("paper",), ("paper", "x"), ("tests", "3"), ("all",)])
def test_another_part_is_refused_in_one_line(part, words):
    code, output, calls, _, _ = part(*words)
    assert (code, output) == (2, "on_gpu.sh: expected tests, bench, paper SEED or seeds\n") and calls == []


def test_without_a_gpu_nothing_begins(part, tmp_path):
    code, output, calls, _, _ = part("tests", there=False)
    assert code == 2 and calls == [] and not (tmp_path / "out").exists()


def test_it_says_that_it_needs_a_gpu():
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", str(ROOT / "tests" / "on_gpu.sh"), "bench"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "on_gpu.sh: needs an NVIDIA GPU, and a torch that sees it\n"


def test_a_command_that_takes_too_long_is_interrupted_and_the_next_one_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "LIMIT", 6)  # a busy machine takes a while to start a process
    one = on_gpu.Part("slow", tmp_path, {})
    wait = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('interrupted')"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    try:
        assert not one.run("wait", sys.executable, "-c", wait)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not one.run("late", sys.executable, "-c", "print(1)")
    assert one.summary["failed"] == ["wait: out of time", "late: no time was left"]
    assert (tmp_path / "wait.log").read_text() == "interrupted\n" and not (tmp_path / "late.log").exists()
    assert one.end() == 1 and json.loads((tmp_path / "slow.json").read_text())["failed"]


def test_every_bench_and_every_sanitized_test_is_there():
    from bench.__main__ import BENCHES

    assert set(on_gpu.BENCHES) - {"updates"} <= set(BENCHES) and (ROOT / "bench/updates.py").exists()
    chosen = " or ".join((on_gpu.LOSS_TESTS, on_gpu.UPDATE_TESTS, on_gpu.MORE_TESTS))
    collect = [sys.executable, "-m", "pytest", "tests/test_fused.py", "tests/test_adam.py", "--collect-only"]
    found = subprocess.run([*collect, "-q", "-k", chosen], cwd=ROOT, capture_output=True, text=True).stdout
    names = [line for line in found.splitlines() if "::" in line]
    assert all("cuda" in name for name in names), found
    for word in {*re.findall(r"\w{3,}", chosen)} - {"and"} | {"float32", "tf32", "bf16", "float16"}:
        assert any(word in name for name in names), word
