"""What setup.py asks for is what the tests were run with."""

import ast
import importlib
import runpy
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.version import Version

import lvae_min

ROOT = Path(__file__).resolve().parent.parent


def test_every_requirement_has_a_lower_bound_and_it_is_the_oldest_that_is_tested(monkeypatch):
    found = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.delenv("LVAE_BUILD", raising=False)
    runpy.run_path(str(ROOT / "setup.py"))
    requirements = map(Requirement, found["install_requires"] + found["extras_require"]["test"])
    bounds = {(r.name, Version(str(r.specifier).removeprefix(">="))) for r in requirements}
    lines = (line.split("#")[0] for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines())
    oldest = {(name, Version(version)) for name, version in (line.split("==") for line in lines if line)}
    theirs = "scipy", "pyparsing"  # requirements of ours, which name no oldest
    assert bounds == {one for one in oldest if one[0] not in theirs}


def test_type_checkers_are_given_each_public_name_from_the_module_that_has_it():
    tree = ast.parse(Path(lvae_min.__file__).read_text())
    hidden = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    homes = {name.name: one.module for one in hidden.body for name in one.names}
    assert homes.keys() == set(lvae_min.__all__) and not lvae_min.TYPE_CHECKING
    for name, home in homes.items():
        assert getattr(lvae_min, name) is getattr(importlib.import_module(home), name)
    listed = next(one for one in tree.body if isinstance(one, ast.Assign) and one.targets[0].id == "__all__")
    assert ast.literal_eval(listed.value) == lvae_min.__all__


@pytest.mark.parametrize(
    "words, category, fails",
    [
        (
            "`torch.jit.script_method` is deprecated. Please switch to `torch.compile`.",
            DeprecationWarning,
            False,
        ),
        (
            "`torch.jit.script_method` is not supported in Python 3.14+ and may break. ",
            DeprecationWarning,
            False,
        ),
        ("Benchmarks are automatically disabled because xdist plugin is active.", UserWarning, False),
        ("lvae_min.datasets.own is deprecated", DeprecationWarning, True),
    ],
)
def test_a_warning_of_another_package_is_no_failure_and_one_of_ours_is(words, category, fails):
    with pytest.raises(category) if fails else nullcontext():
        warnings.warn(words, category, stacklevel=1)


def test_pytest_starts_with_plugins_that_warn():
    for plugin in ("xdist", "pytest_benchmark"):
        pytest.importorskip(plugin)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-q", "tests/test_npy.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
