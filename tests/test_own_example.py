"""The example of docs/data.md: its script as it stands, its commands, and what was kept of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import own
import pytest

from lvae_min import data

ROOT = Path(__file__).resolve().parent.parent


def test_the_script_of_the_page_writes_images_with_a_factor(tmp_path):
    subprocess.run([sys.executable, str(ROOT / "docs" / "own.py")], cwd=tmp_path, check=True)
    dataset = data.load(str(tmp_path / "digits.npz"), tmp_path / "data")
    assert len(dataset) == 1797 and dataset.shape == (1, 64, 64) and dataset.latents == 10
    assert dataset.factor_names == ["digit"] and dataset.factor_sizes == (10,)
    assert dataset.batch(np.arange(100)).max() == 255


def test_what_was_kept_is_of_the_commands_and_small():
    kept = json.loads((own.KEPT / "output.json").read_text())
    assert tuple(kept) == own.COMMANDS
    for name in own.PICTURES:
        assert (own.KEPT / f"{name}.png").stat().st_size < 200_000
    assert json.loads((own.KEPT / "run.json").read_text())["scores"]["kl"] > 1  # not a collapse


@pytest.mark.slow
def test_the_commands_of_the_page_work(tmp_path):
    for command in own.COMMANDS:
        output = own.printed(command.replace("1500", "20"), tmp_path)
        assert output or command == own.COMMANDS[0], command
    with np.load(tmp_path / "decoded.npz") as decoded:
        assert decoded["images"].shape == (1797, 64, 64)
    with pytest.raises(ValueError, match="no such thing"):
        own.printed("python -c 'import sys; sys.exit(\"no such thing\")'", tmp_path)
