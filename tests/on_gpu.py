"""The parts of on_gpu.sh, which says what they are."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PYTHON = os.environ.get("PYTHON") or sys.executable
LIMIT = 430  # seconds for a part; fifty are left to end it and for its archive
METHODS = ("vae", "beta-vae", "control-vae", "dynamic-vae", "sigma-vae", "lvae")
# Tests for compute-sanitizer, as pytest's -k selects them.
LOSS_TESTS = "test_cuda_is_as_accurate_as_the_reference"  # every size and type, forward and backward
# The MLP in each precision, without a graph; layers and tensors of every size, and off alignment.
UPDATE_TESTS = "(cuda and (weights_move and bits and off or of_every_size))"
# What these leave out: float16 in its own kernels, an incoming gradient other than 1, threads' second turns.
MORE_TESTS = "(cuda and (half_logits_reach or gradient_of_three))"
# In order of importance. What only a measurement decides, and what shows it:
#
#   where six runs of 3,000 iterations spend 16 s; 12 are the aim      python -m bench overhead
#   the kernel of linear layers with other tiles, without asking       python -m bench.updates
#     for the weights first, and in bf16 at all (docs/kernel.md)
#   sums of biases and of columns, 110 us of the CNN's 900             nsys profile python -m bench step
#   how many runs at once are the fastest, by precision                bench grid, with another AT_ONCE
#   the loss against the memory's floor, by block size and packs       bench loss, columns "graph"
BENCHES = ("overhead", "updates", "step", "loss", "grid", "parts", "evaluation", "start", "data", "growth")
MACHINE = """
import json, sys, torch
if not torch.cuda.is_available():
    sys.exit("on_gpu.sh: needs an NVIDIA GPU, and a torch that sees it")
from lvae_min import fused, report
if reason := fused.why_not("cuda"):
    sys.exit(f"on_gpu.sh: the op is not built: {reason}")
print(json.dumps({**report.machine(torch.device("cuda", 0)), "cuda": torch.version.cuda}))
"""


class Part:
    """The commands of a part, one after another; one that fails or runs out of time stops no other."""

    def __init__(self, name: str, folder: Path, about: dict):
        self.name, self.folder, self.began = name, folder, time.monotonic()
        self.summary = {"part": name, **about, "commands": [], "passed": 0, "failed": [], "measured": {}}

    def run(self, title: str, *words: str, limit: float = LIMIT, **environment: str) -> bool:
        """Carry out a command, its words in TITLE.log; whether it ended well. `environment` is its alone."""
        left, began = min(limit, LIMIT - (time.monotonic() - self.began)), time.monotonic()
        log = self.folder / f"{title}.log"
        code = None
        if left > 1:
            print(f"on_gpu.sh: {title}: {shlex.join(words)}", flush=True)
            with open(log, "wb") as stream:
                process = subprocess.Popen(
                    words,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,
                    # A shell lets what it starts in the background ignore Ctrl-C, and that is inherited.
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                )
                code = ended(process, left)
        self.summary["commands"].append(
            {
                "title": title,
                "command": shlex.join(words),
                "code": code,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
        if code == 0:
            self.summary["passed"] += 1
        else:
            how = "no time was left" if left <= 1 else "out of time" if code is None else f"code {code}"
            self.summary["failed"].append(f"{title}: {how}")
            print("\n".join(text(log).splitlines()[-15:]), flush=True)
        return code == 0

    def skip(self, title: str, reason: str) -> None:
        self.summary["failed"].append(f"{title}: {reason}")

    def end(self) -> int:
        """Write summary and archive; the exit code."""
        self.summary["seconds"] = round(time.monotonic() - self.began)
        file = self.folder / f"{self.name}.json"
        file.write_text(json.dumps(self.summary, indent=1))
        with tarfile.open(self.folder / f"{self.name}.tar.gz", "w:gz") as archive:
            archive.add(self.folder, self.folder.name, filter=kept)
        print(
            f"on_gpu.sh: {self.name}: {self.summary['passed']} commands passed, "
            f"{len(self.summary['failed'])} failed: {'; '.join(self.summary['failed']) or 'none'}"
        )
        return 1 if self.summary["failed"] else 0


def text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def ended(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code of a process, None if it had to be stopped: run.py then writes its checkpoints."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        for number, patience in ((signal.SIGINT, 20), (signal.SIGKILL, 20)):
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                pass
        return None


def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """What goes into the archive: no networks, no other archive."""
    return None if member.name.endswith((".pt", ".part", "/lock", ".tar.gz")) else member


def counts(file: Path) -> dict:
    """What pytest's report says: how many tests passed, and the names of those that did not."""
    try:
        cases = list(ElementTree.parse(file).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return {"report": "none: pytest did not end"}
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(bad) - skipped, "skipped": skipped, "failed": bad}


def workers(cores: int) -> int:
    """How many processes test at once; at most eight, since each takes memory of the GPU."""
    return max(min(cores // 2, 8), 1)


def tests(part: Part) -> None:
    def pytest(title, *words):
        report = part.folder / f"{title}.xml"
        report.unlink(missing_ok=True)
        part.run(title, PYTHON, "-m", "pytest", "-q", "-rs", f"--junitxml={report}", *words)
        part.summary["measured"][title] = counts(report)

    # Several at once, if pytest-xdist is there.
    xdist = subprocess.run([PYTHON, "-c", "import xdist"], capture_output=True).returncode == 0
    many = ["-n", str(workers(os.cpu_count()))] if xdist else []
    pytest("cuda", "-m", "cuda", *many)
    places = [
        os.environ.get("PATH", ""),
        f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin",
        "/usr/local/cuda/bin",
    ]
    sanitizer = shutil.which("compute-sanitizer", path=os.pathsep.join(places))

    def sanitize(tool):
        if sanitizer is None:
            return part.skip(tool, "no compute-sanitizer, which comes with the CUDA toolkit")
        # torch cuts its tensors out of large blocks, in which a read past the end of one is no fault; without
        # that cache each has memory of its own. For the sanitizer alone: no graph can be recorded without it.
        command = [sanitizer, "--tool", tool, "--error-exitcode", "1"]
        if tool == "initcheck":  # has to watch all kernels, which write what ours read: too slow for updates
            chosen = LOSS_TESTS
        else:
            command += ["--kernel-name", "kns=lvae"]  # our own kernels: their namespace is in their names
            chosen = f"{LOSS_TESTS} or {UPDATE_TESTS}" + f" or {MORE_TESTS}" * (tool == "memcheck")
        files = ["tests/test_fused.py", "tests/test_adam.py"]
        command += [PYTHON, "-m", "pytest", "-q", "-s", *files, "-k", chosen]
        part.run(tool, *command, limit=90, PYTORCH_NO_CUDA_MEMORY_CACHING="1")

    pytest("others", "-m", "not cuda and not slow", *many)
    sanitize("memcheck")
    sanitize("racecheck")
    sanitize("synccheck")
    sanitize("initcheck")


def bench(part: Part) -> None:
    for name in BENCHES:
        file = part.folder / f"bench-{name}.json"
        alone = name == "updates"  # a command of its own
        words = ["bench.updates"] if alone else ["bench", name, "--device", "cuda"]
        if part.run(f"bench-{name}", PYTHON, "-m", *words, "--json", str(file), limit=150):
            part.summary["measured"][name] = json.loads(file.read_text())["rows" if alone else name]


def train(part: Part, *words: str) -> None:
    """A grid of the six methods; the scores of what is finished."""
    out = part.folder / part.name
    part.run(
        f"{part.name}-runs",
        PYTHON,
        "run.py",
        *words,
        "--model",
        *METHODS,
        "--jobs",
        "6",
        "--device",
        "cuda",
        "--out",
        str(out),
    )
    for file in sorted(out.glob("*/results.json")):
        results = json.loads(file.read_text())
        part.summary["measured"][file.parent.name] = {name: results[name] for name in ("scores", "seconds")}


def paper(part: Part, seed: str) -> None:
    train(part, "--paper", "--precision", "tf32", "--score-test", "--seed", seed)


def seeds(part: Part) -> None:
    train(part, "--seed", *map(str, range(10)))


def main(arguments: list[str]) -> int:
    known = {"tests": tests, "bench": bench, "paper": paper, "seeds": seeds}
    name, *given = arguments or [""]
    if name not in known or len(given) != (name == "paper") or not all(word.isdigit() for word in given):
        print("on_gpu.sh: expected tests, bench, paper SEED or seeds", file=sys.stderr)
        return 2
    found = subprocess.run([PYTHON, "-c", MACHINE], capture_output=True, text=True)
    if found.returncode:
        print((found.stderr.strip().splitlines() or ["on_gpu.sh: no torch"])[-1], file=sys.stderr)
        return 2
    folder = Path(os.environ.get("OUT") or "on-gpu").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    part = Part("-".join(arguments), folder, json.loads(found.stdout.strip().splitlines()[-1]))
    try:
        known[name](part, *given)
    finally:
        code = part.end()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
