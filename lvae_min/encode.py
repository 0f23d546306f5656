"""Codes of images by a trained network.

    python -m lvae_min.encode RUN IMAGES -o codes.npz       RUN: the folder of a run
    python -m lvae_min.metrics codes.npz                    their scores, where the images have factors

IMAGES is a folder, an .npy, .npz or .h5 of your own, or the name of a data set. Your own are resized to the
network's size, image files also converted to its channels. The file has the arrays mu, logvar and codes (mu
again), (M, L) float32, factors (M, K) where there are some, and for a folder files (M,), the path of each
image from the folder.
"""

import io
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lvae_min.io.atomic import write_whole
from lvae_min.io.text import Parser, carry_out


def check_output(file: Path, source: Path) -> None:
    """Raise ValueError, before any work, for the name of an .npz that cannot be written, or is the input."""
    if file.suffix != ".npz":
        raise ValueError(f"{file}: expected a name that ends in .npz")
    if not file.parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent}; make it first, or name another")
    if file.exists() and source.exists() and file.samefile(source):
        raise ValueError(f"{file}: is the input, which would be overwritten; name another file")


def main(arguments: list[str]) -> None:
    parser = Parser(prog="python -m lvae_min.encode", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("images", help="folder, .npy, .npz or .h5 of images, or the name of a data set")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of archives and prepared sets"
    )
    given = parser.parse_args(arguments)
    check_output(given.out, Path(given.images))
    from lvae_min import codes, data, train  # not above: PyTorch takes a second

    vae = train.load(given.run)
    dataset = data.load(given.images, given.data, vae.shape)
    found = codes.encode(vae, dataset, lambda chunks: tqdm(chunks, unit="chunk", disable=None))
    content = io.BytesIO()
    np.savez(content, **found)  # type: ignore[arg-type]  # the names are none of savez's own
    write_whole(given.out, content.getbuffer())
    print(f"written: {given.out}, {', '.join(f'{name} {table.shape}' for name, table in found.items())}")


if __name__ == "__main__":
    sys.exit(carry_out(main, sys.argv[1:], "encode"))
