"""Codes of images by a trained network.

    python -m lvae_min.encode RUN IMAGES -o codes.npz       RUN: the folder of a run
    python -m lvae_min.metrics codes.npz                    their scores, where the images have factors

IMAGES is a folder, an .npy, .npz or .h5 of your own, or the name of a data set. The file has the arrays mu,
logvar and codes (mu again), (M, L) float32, and factors (M, K) where there are some.
"""

import io
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lvae_min.io.atomic import write_whole
from lvae_min.io.text import Parser, one_line


def main(arguments: list[str]) -> None:
    parser = Parser(prog="python -m lvae_min.encode", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("images", help="folder, .npy, .npz or .h5 of images, or the name of a data set")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of archives and prepared sets"
    )
    given = parser.parse_args(arguments)
    if given.out.suffix != ".npz":
        raise ValueError(f"{given.out}: expected a name that ends in .npz")
    from lvae_min import codes, data, train  # not above: PyTorch takes a second

    vae, dataset = train.load(given.run), data.load(given.images, given.data)
    found = codes.encode(vae, dataset, lambda chunks: tqdm(chunks, unit="chunk", disable=None))
    content = io.BytesIO()
    np.savez(content, **found)  # type: ignore[arg-type]  # the names are none of savez's own
    write_whole(given.out, content.getbuffer())
    print(f"written: {given.out}, {', '.join(f'{name} {table.shape}' for name, table in found.items())}")


def command(arguments: list[str], program=None, name: str = "encode") -> int:
    """`main`; a user's mistake is one line of error message and exit code 2."""
    try:
        (program or main)(arguments)
    except (ValueError, OSError, MemoryError) as error:
        print(f"{name}: {one_line(error) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
