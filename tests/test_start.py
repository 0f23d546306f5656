"""What a command imports before it does anything: PyTorch takes a second, and so do parts of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lvae_min import adam
from lvae_min.losses import OBJECTIVES
from lvae_min.methods import METHODS

TESTS = Path(__file__).resolve().parent
COMMANDS = ["run.py", *(f"-m lvae_min{part}" for part in ("", ".explore", ".datasets", ".encode", ".decode"))]
NOT_TRAINING = ("torch._dynamo", "sympy", "sklearn", "h5py", "PIL", "matplotlib")
FIRST_ITERATION = f"""
import sys
import small_run
from lvae_min.step import Step
iterate = Step.__call__
def first(step):
    iterate(step)
    print("imported:", *(name for name in ("torch", *{NOT_TRAINING}) if name in sys.modules))
    sys.exit(5)
Step.__call__ = first
small_run.command(sys.argv[1:])
"""


def python(*words: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.run(
        [sys.executable, *words],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


def imported(importtime: str) -> set[str]:
    """Names of the modules in what -X importtime prints."""
    return {line.rsplit("|", 1)[1].strip() for line in importtime.splitlines() if "|" in line}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_import_pytorch(command):
    done = python("-X", "importtime", *command.split(), "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
    assert "argparse" in imported(done.stderr) and "torch" not in imported(done.stderr)


@pytest.mark.parametrize(
    "flags, message",
    [("--rate 7", "--rate 7.0: expected"), ("--model best", "--model best: expected"), ("--rat", "--rat")],
)
def test_a_wrong_flag_is_refused_without_pytorch(flags, message):
    done = python("-X", "importtime", "run.py", *flags.split())
    assert done.returncode == 2 and message in done.stderr and "torch" not in imported(done.stderr)


@pytest.mark.parametrize("model", ["lvae", "dynamic-vae"])
def test_the_first_iteration_comes_before_what_training_does_not_use(model, tmp_path):
    flags = f"--model {model} --iterations 20 --device cpu --loss torch --out {tmp_path}"
    done = python("-c", FIRST_ITERATION, *flags.split())
    # torch 2.10 imports sympy for a network that has shapes and no weights yet.
    needed = "torch sympy" if torch.__version__.startswith("2.10.") else "torch"
    assert re.findall("^imported: (.*)$", done.stdout, re.M) == [needed] and done.returncode == 5


def test_a_method_has_the_settings_that_the_command_line_knows():
    known = METHODS.maps[-1]
    assert list(known) == list(OBJECTIVES)
    for name, method in known.items():
        assert vars(method) == {fact: getattr(OBJECTIVES[name], fact) for fact in vars(method)}


def updated(kind: type[torch.optim.Adam]) -> tuple[list, dict]:
    """Weights and state after updates with gradients of all sizes, an added group and a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(7, 3, generator=generator)) for _ in range(2)]
    settings = {"betas": (0.9, 0.999), "eps": 1e-8, "fused": True}
    optimizer = kind(weights[:1], lr=torch.tensor(1e-3), **settings)
    optimizer.add_param_group({"params": weights[1:], "lr": torch.tensor(1e-2)})
    for step in range(6):
        optimizer.zero_grad()
        (sum((weight * 10.0**step).sin().sum() for weight in weights)).backward()
        optimizer.step()
        if step == 3:
            state, optimizer = optimizer.state_dict(), kind([{"params": [weight]} for weight in weights])
            optimizer.load_state_dict(state)
    return weights, optimizer.state_dict()


def test_adam_is_torchs_to_the_bit():
    (ours, state), (theirs, expected) = updated(adam.Adam), updated(torch.optim.Adam)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert state["param_groups"] == expected["param_groups"]
    for number, moments in expected["state"].items():
        assert all(torch.equal(state["state"][number][name], value) for name, value in moments.items())


def test_hooks_of_adam_are_called_and_gradients_are_off_in_its_update():
    weight, seen = torch.nn.Parameter(torch.ones(2)), []
    optimizer = adam.Adam([weight], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    weight.sum().backward()
    optimizer.step()
    assert seen == [True, "after"] and torch.is_grad_enabled() and weight.grad_fn is None
