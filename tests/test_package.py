"""The built package: sdist and wheel are sound, and the wheel trains, loads and scores without a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def called(*words, **settings):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist and the wheel, built of what git tracks, in this environment."""
    if not ((ROOT / ".git").exists() and shutil.which("git")):
        pytest.skip("no checkout or no git, which says which files are packed")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = called("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(
        "\0"
    )
    for name in filter(None, files):
        if (ROOT / name).exists() and not name.startswith("figures/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    called(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
    return target


def test_sdist_and_wheel_pass_twine(built):
    files = sorted(built.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"] or [file.suffix for file in files] == [
        ".gz",
        ".whl",
    ]
    assert called(sys.executable, "-m", "twine", "check", "--strict", *files).count("PASSED") == 2


def test_the_wheel_holds_the_package_and_the_source_of_the_op(built):
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert {
        "lvae_min/cli.py",
        "lvae_min/py.typed",
        "lvae_min/csrc/lvae.cpp",
        "lvae_min/datasets/own.py",
    } <= set(names)
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"lvae_min"}


def test_the_sdist_holds_what_its_commands_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"run.py", "bench/__main__.py", "bench/overhead.py", "csrc/lvae.cpp"} <= names
    assert not any(name.startswith("tests") for name in names)  # the tests need files that are not packed


def test_a_type_checker_knows_the_public_names_and_what_their_constructors_take(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import lvae_min\n"
        "from lvae_min import LVAE as Loss\n"
        "reveal_type(lvae_min.BetaVAE(8).beta())\n"
        "reveal_type(lvae_min.mig)\n"
        "Loss(beta=4.0)\n"
        "lvae_min.ControlVAE(kp='fast')\n"
        "lvae_min.Lvae()\n"
    )
    words = ["--strict", "--follow-imports=silent", "--no-error-summary", "--cache-dir", tmp_path / "cache"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, program],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if " defined in " not in line]
    found = [line.partition("program.py:")[2] for line in lines]
    expected = [
        '3: note: Revealed type is "torch._tensor.Tensor"',
        '4: note: Revealed type is "def (',
        '5: error: Unexpected keyword argument "beta" for "LVAE"',
        '6: error: Argument "kp" to "ControlVAE" has incompatible type "str"; expected "float"',
        '7: error: Module has no attribute "Lvae"',
    ]
    assert len(found) == len(expected), done.stdout + done.stderr
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_an_installed_wheel_trains_loads_and_scores_in_any_folder(built, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = called(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # What the package depends on is that of this environment, the package itself is the wheel's.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    calm = {**os.environ, "PYTHONWARNINGS": "ignore"}  # pip's own, an error where all are
    called(python, "-m", "pip", "install", "--no-deps", next(built.glob("*.whl")), env=calm)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    here = {"cwd": tmp_path, "env": clean}
    where = called(python, "-c", "import lvae_min; print(lvae_min.__file__)", **here)
    assert where.startswith(str(tmp_path))
    called(python, "-m", "lvae_min", "--iterations", "20", "--threads", "1", **here)
    program = (
        "import numpy as np, torch, lvae_min\n"
        "vae = lvae_min.load('runs/dsprites-lvae-iterations20')\n"
        "assert vae.decode(torch.zeros(2, 5)).shape == (2, 1, 64, 64)\n"
        "factors = np.stack(np.unravel_index(np.arange(600), (3, 4, 50)), 1)\n"
        "print(lvae_min.mig(factors, factors.astype(float), discrete=True))\n"
    )
    assert float(called(python, "-c", program, **here)) == pytest.approx(1)
