"""What is known of each data set before it is there: shape, factors, network (Sec. 6.1, 6.3, 8)."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from lvae_min.datasets import arm3d, dsprites


@dataclass(frozen=True)
class Spec:
    """What is known of a data set before it is there: image shape and factors, slowest first."""

    shape: tuple[int, int, int]  # C, H, W
    factors: dict[str, int]  # name: number of values
    network: str = "cnn"  # Sec. 6.3: an MLP for dSprites, a CNN for the others
    binary: bool = False  # images are 0/1, kept as bits
    latents: int | None = None  # dimensions of z, where not one a factor
    images: int | None = None  # how many, where factors are not a complete grid
    iterations: int = 10_000  # of a run that names no number

    @property
    def count(self) -> int:
        return self.images or math.prod(self.factors.values())


ATTRIBUTES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
).split()
SPECS = {
    "dsprites": Spec((1, 64, 64), dsprites.FACTORS, network="mlp", binary=True),
    "mpi3d": Spec((3, 64, 64), arm3d.FACTORS),
    "falcor3d": Spec(
        (3, 64, 64),
        {
            "lighting intensity": 5,
            "lighting x": 6,
            "lighting y": 6,
            "lighting z": 6,
            "camera x": 6,
            "camera y": 6,
            "camera z": 6,
        },
    ),
    # The order of the strides that the authors' demo uses; the formula in their README names three others
    # wrongly.
    "isaac3d": Spec(
        (3, 64, 64),
        {
            "object shape": 3,
            "robot x": 8,
            "robot y": 5,
            "camera height": 4,
            "object scale": 4,
            "lighting intensity": 4,
            "lighting y": 6,
            "object color": 4,
            "wall color": 4,
        },
    ),
    # Sec. 8 trains on 12 % of the 202,599 images: 24,312, which are the training part of these (`Split`). Its
    # 40 attributes are no grid, and not what z is to hold one by one.
    "celeba": Spec((3, 128, 128), dict.fromkeys(ATTRIBUTES, 2), latents=10, images=28_602, iterations=5_000),
    "arm3d": Spec((3, 64, 64), arm3d.FACTORS),
}
NAMES = " or ".join([*SPECS, "the path of your own images: a folder, an .npy, .npz or .h5"])


def spec_of(name: str) -> Spec:
    """What is known of the data set `name`; little if it is the user's own."""
    return SPECS.get(name) or Spec((1, 64, 64), {})


def is_path(name: str) -> bool:
    """Whether a name that is given for a data set means files of the user's own."""
    try:
        means_files = os.sep in name or Path(name).suffix or Path(name).exists()
    except OSError:  # too long for a name
        return False
    return bool(name not in SPECS and name and means_files)


def own_name(path: str) -> str:
    """What images of the user's own are called: by their file or folder, without its ending."""
    whole = Path(path).resolve()
    return whole.name if whole.is_dir() else whole.stem
