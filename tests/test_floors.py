"""Which file of the package may import which: only files on lower floors, so that there is no circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lvae_min"
FLOORS = {  # of each file; CONTRIBUTING.md has the same plan in words
    0: [
        "io",
        "datasets",
        "explore",
        "io.text",
        "launch",
        "methods",
        "products",
        "fused",
        "datasets.stores",
        "datasets.arm3d",
    ],
    1: ["adam", "checks", "io.atomic", "io.npy", "io.records", "model"],
    2: ["io.checkpoints", "datasets.dsprites", "losses", "metrics"],
    3: ["datasets.specs", "datasets.prepared", "report"],
    4: ["config", "datasets.own", "plots"],
    5: ["data", "workers"],
    6: ["datasets.prepare"],
    7: ["step", "latents", "datasets.__main__"],
    8: ["evaluation", "stored"],
    9: ["train"],
    10: ["runs", "codes", "explore.gallery"],
    11: ["__init__", "cli", "encode", "explore.page"],
    12: ["__main__", "decode", "explore.server"],
    13: ["explore.__main__"],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
FILES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported(file: Path) -> set[str]:
    """Names of the package's files that a file imports anywhere in it, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name.removeprefix("lvae_min.") in FILES else node.module for name in names}
    return {name.removeprefix("lvae_min.") for name in found if name.startswith("lvae_min.")}


def test_every_file_has_a_floor():
    assert set(FILES) == set(FLOOR)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_from_lower_floors_only(name):
    assert {other: FLOOR[other] for other in imported(FILES[name]) if FLOOR[other] >= FLOOR[name]} == {}


def test_imports_are_found_in_all_their_forms(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "import lvae_min.train\nfrom lvae_min import data, VAE\n"
        "def f():\n    from lvae_min.io.text import brief\n"
    )
    assert imported(file) == {"train", "data", "io.text"}
