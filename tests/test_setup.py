"""What setup.py asks for is what the tests were run with."""

import runpy
from pathlib import Path

import setuptools
from packaging.requirements import Requirement
from packaging.version import Version

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
    theirs = "scipy", "pyparsing"                               # requirements of ours, which name no oldest
    assert bounds == {one for one in oldest if one[0] not in theirs}
