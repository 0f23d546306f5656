"""The package without fcntl and os.preadv, as on Windows: it imports, trains and reads files."""

import os
import subprocess
import sys
from pathlib import Path

HIDDEN = """
import os, sys
sys.modules["fcntl"] = None
for name in ("preadv", "pread", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
sys.path.insert(0, {tests!r})
import numpy as np
import small_run
from lvae_min.datasets.prepared import open_set, write_set
from lvae_min.datasets.stores import Pixels
from pathlib import Path

code = small_run.command(["--iterations", "20", "--threads", "1", "--batch-size", "8", "--out", {out!r}])
images = np.arange(2 * 64 * 64, dtype=np.uint8).reshape(2, 64, 64, 1)
write_set(Path({out!r}) / "set", images.shape, [images], {{}})
store = Pixels(open_set(Path({out!r}) / "set")[0])
assert isinstance(store.images, np.memmap) and (store.read([1, 0]) == images[::-1]).all()
sys.exit(code)
"""


def test_the_package_trains_and_reads_without_fcntl_and_preadv(tmp_path):
    program = HIDDEN.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    elsewhere = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}  # no op built before
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=elsewhere
    )
    assert done.returncode == 0, done.stderr
    assert "elbo: PyTorch (extension not built: " in done.stdout
    assert (tmp_path / "dsprites-lvae-iterations20-batch-size8" / "results.json").exists()
