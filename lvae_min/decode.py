"""Images of codes by a trained network: the way back from `python -m lvae_min.encode`.

    python -m lvae_min.decode RUN codes.npz -o images.npz   RUN: the folder of a run

The codes are the array `codes` (M, L) of the .npz; the images are an array `images`, uint8, (M, H, W) or
(M, H, W, 3), which `python run.py --dataset images.npz` takes as well.
"""

import sys
from pathlib import Path

from tqdm import tqdm

from lvae_min.encode import check_output
from lvae_min.io import npy
from lvae_min.io.text import Parser, carry_out


def main(arguments: list[str]) -> None:
    parser = Parser(prog="python -m lvae_min.decode", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("codes", type=Path, help=".npz with an array codes (M, L)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .npz to write")
    given = parser.parse_args(arguments)
    check_output(given.out, given.codes)
    from lvae_min import codes, train  # not above: PyTorch takes a second

    vae = train.load(given.run)
    try:
        table = npy.read_npz(given.codes, ("codes",))["codes"]
        shape = codes.decode(vae, table, given.out, lambda chunks: tqdm(chunks, unit="chunk", disable=None))
    except ValueError as error:
        raise ValueError(f"{given.codes}: {error}") from None
    print(f"written: {given.out}, images {shape}")


if __name__ == "__main__":
    sys.exit(carry_out(main, sys.argv[1:], "decode"))
