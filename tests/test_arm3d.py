import hashlib

import numpy as np
import pytest
import torch

from lvae_min import data
from lvae_min.datasets import arm3d

# Views drawn with and without AVX2, FMA and AVX-512 were equal: only exactly rounded operations make them.
SHA256 = "5d2aaeb1fe91f763e4f95eeb0f666a06302468dec91b06768b9e8276d61e73d6"
SIZES = (4, 4, 2, 3, 3, 40, 40)


@pytest.fixture(scope="module")
def arm():
    return data.load("arm3d")


@pytest.fixture(scope="module")
def views(arm):
    """(shape, size, camera, horizontal, vertical, H, W)"""
    return arm.store.views.numpy().reshape(*arm3d.VIEWS, 64, 64)


def image(arm, *factors):
    """The image (3, 64, 64) of seven factor values, as float."""
    index = int(np.ravel_multi_index(factors, SIZES))
    return arm.batch(torch.tensor([index]))[0].float()


def object_place(views):
    """Pixels, mean column and mean row of the object in each view."""
    shown = views < arm3d.METAL[0]
    pixels = shown.sum((-2, -1))
    return (
        pixels,
        (shown.sum(-2) * np.arange(64)).sum(-1) / pixels,
        (shown.sum(-1) * np.arange(64)).sum(-1) / pixels,
    )


def test_the_set_has_the_factors_of_mpi3d_complex(arm):
    assert len(arm) == 460_800 and arm.factor_sizes == SIZES and arm.shape == (3, 64, 64)
    assert arm.network == "cnn" and arm.latents == 7 and (arm.name, arm.source) == ("arm3d", "drawn")


def test_views_are_always_the_same(arm):
    assert hashlib.sha256(arm.store.views.numpy()).hexdigest() == SHA256


def test_all_images_are_distinct(arm):
    views = arm.store.views.numpy()
    assert len(np.unique(views.view("V4096"))) == len(views) == 38_400
    # Each view shows the object and the background, so that another palette makes another image of it.
    assert ((views < 96).any(1) & (views >= 160).any(1)).all()
    assert len(np.unique(arm3d.palettes().reshape(12, -1), axis=0)) == 12


def test_the_horizontal_axis_moves_the_object_to_the_right(views):
    _, column, _ = object_place(views)
    assert (column[..., 30, :30] - column[..., 10, :30] > 5).all()
    assert (np.diff(column[..., :30].mean((0, 1, 2, 4))) > 0).all()


def test_the_vertical_axis_lifts_the_object(views):
    _, _, row = object_place(views)
    assert (row[..., 0] - row[..., 25] > 10).all()


def test_size_and_shape_change_how_much_is_seen_of_the_object(views):
    pixels, _, _ = object_place(views)
    assert pixels.min() >= 20 and (pixels[:, 1] > 1.5 * pixels[:, 0]).all()
    assert len({round(value) for value in pixels[:, 1].mean((1, 2, 3))}) == 4


def test_a_lower_camera_sees_less_of_the_floor(views):
    lit = (views >= 160 + 96 * 0.5).sum((-2, -1)).mean((0, 1, 3, 4))  # (camera,)
    assert lit[0] > lit[1] > lit[2]


def test_colors_come_from_the_palette(arm, views):
    for color, full in enumerate(arm3d.OBJECT_COLORS):
        for behind, wall in enumerate(arm3d.BACKGROUND_COLORS):
            picture = image(arm, color, 0, 1, 1, behind, 20, 20)
            seen = torch.from_numpy(views[0, 1, 1, 20, 20] < arm3d.METAL[0])
            for pixel, wanted in ((picture[:, 0, 0], wall), (picture[:, seen].amax(1), full)):
                wanted = torch.tensor(wanted).float()
                assert torch.allclose(pixel / pixel.norm(), wanted / wanted.norm(), atol=0.02)


def test_a_batch_is_views_and_palettes_of_its_index(arm):
    index = torch.from_numpy(np.random.default_rng(0).integers(0, 460_800, 40))
    color, shape, size, camera, behind, horizontal, vertical = arm.factors(index).T
    views = arm.store.views.numpy().reshape(*arm3d.VIEWS, 4096)[shape, size, camera, horizontal, vertical]
    expected = arm3d.palettes().reshape(4, 3, 256, 3)[color[:, None], behind[:, None], views]  # (N, 4096, 3)
    batch = arm.batch(index)
    assert batch.dtype == torch.uint8 and batch.is_contiguous()
    assert (batch.numpy() == expected.reshape(-1, 64, 64, 3).transpose(0, 3, 1, 2)).all()
