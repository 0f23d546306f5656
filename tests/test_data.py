import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lvae_min import data
from lvae_min.datasets import dsprites, specs

ARCHIVE_SIZES = (3, 2, 5, 4, 4)
SPLIT_OF_20 = [[13, 16, 3, 11, 10, 8, 0, 12, 7, 5, 18, 17, 14, 9, 1, 15], [4, 19], [6, 2]]


@pytest.fixture
def archive(tmp_path, monkeypatch, sprites):
    """A file in the layout of the published npz with 480 images, in its own folder, and the rows in it."""
    monkeypatch.setattr(dsprites, "SIZES", ARCHIVE_SIZES)
    rows = np.ascontiguousarray(sprites.reshape(3, 6, 40, 32, 32, 64)[:, ::3, ::8, ::8, ::8]).reshape(-1, 64)
    file = tmp_path / dsprites.ARCHIVE
    np.savez_compressed(
        file,
        imgs=dsprites.unpack(rows),
        latents_classes=np.zeros((480, 6), np.int64),
        metadata=np.array({"pickled": True}, dtype=object),
    )
    return file, rows


def test_batch_is_the_images_of_the_index(small, small_images):
    index = torch.tensor([5, 1919, 0, 5])
    expected = dsprites.unpack(small_images.view(np.uint64)[index.numpy()])
    assert small.batch(index).dtype == torch.uint8 and small.batch(index).shape == (4, 1, 64, 64)
    assert (small.batch(index)[:, 0].numpy() == expected).all()


def test_factors_follow_from_the_index_with_the_last_one_fastest(small):
    assert small.factors([0, 1, 8, 64, 320, 640, 1919]).tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [2, 1, 4, 7, 7],
    ]


def test_split_is_85_to_two_times_7_point_5_and_always_the_same():
    split, again = data.Split.of(737_280), data.Split.of(737_280)
    assert [len(part) for part in (split.training, split.validation, split.test)] == [626_688, 55_296, 55_296]
    assert (split.test == again.test).all()
    assert len(np.unique(np.concatenate([split.training, split.validation, split.test]))) == 737_280


def test_a_split_is_the_same_in_every_version_and_holds_one_image_of_each_part_at_least():
    split = data.Split.of(20)
    parts = split.training, split.validation, split.test
    assert [part.tolist() for part in parts] == SPLIT_OF_20
    assert [len(part) for part in vars(data.Split.of(3)).values()] == [1, 1, 1]


def batch(batches, iteration):
    batches.turn(iteration)
    return batches.at(torch.tensor([iteration]))


def test_an_epoch_shows_each_training_image_once_and_the_next_in_another_order():
    training = np.arange(100, 164)
    batches = data.Batches(training, 16, seed=3)
    epochs = [torch.cat([batch(batches, first + number) for number in range(4)]) for first in (0, 4)]
    assert all(sorted(epoch.tolist()) == training.tolist() for epoch in epochs)
    assert not torch.equal(*epochs)


def test_batches_depend_on_seed_and_iteration_alone():
    training = np.arange(1000)
    straight, jumped = data.Batches(training, 16, seed=3), data.Batches(training, 16, seed=3)
    for iteration in range(150):
        last = batch(straight, iteration)
    other = data.Batches(training, 16, seed=4)
    assert torch.equal(batch(jumped, 149), last) and not torch.equal(batch(other, 149), last)


@pytest.mark.parametrize("iteration", range(0, 16, 3))
def test_batches_begin_at_any_iteration(iteration):
    straight = data.Batches(np.arange(19), 4, seed=0)  # epochs of 4 iterations; three images are left out
    for number in range(iteration + 1):
        expected = batch(straight, number)
    assert torch.equal(batch(data.Batches(np.arange(19), 4, seed=0), iteration), expected)


def test_an_epoch_is_laid_out_once():
    batches = data.Batches(np.arange(64), 16, seed=0)
    batches.turn(0)
    batches.order.zero_()
    assert not batch(batches, 3).any() and batch(batches, 4).any()


def test_a_batch_may_be_the_whole_training_set():
    assert sorted(batch(data.Batches(np.arange(64), 64, seed=0), 5).tolist()) == list(range(64))


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match="--batch-size 65: the training set has 64"):
        data.Batches(np.arange(64), 65, seed=0)


def test_the_published_archive_is_read_instead_of_drawing(archive):
    file, rows = archive
    dataset = data.load("dsprites", file.parent)
    assert dataset.source == str(file) and (dataset.store.octets.numpy().view(np.uint64) == rows).all()
    assert (dataset.name, dataset.shape, dataset.binary, dataset.scale) == ("dsprites", (1, 64, 64), True, 1)


def test_dsprites_is_drawn_where_the_folder_data_has_no_archive(archive, monkeypatch):
    file, rows = archive
    monkeypatch.setattr(dsprites, "draw", lambda: rows)
    monkeypatch.chdir(file.parent)
    drawn = data.load("dsprites")
    assert (drawn.name, drawn.source, len(drawn)) == ("dsprites", "drawn", 480)
    (file.parent / "data").mkdir()
    file.rename(file.parent / "data" / file.name)
    assert data.load("dsprites").source == str(Path("data") / file.name)


@pytest.mark.parametrize(
    "damage", ["truncated", "not a zip", "wrong count", "wrong dtype", "grey", "no images", "pickle"]
)
def test_a_damaged_archive_is_refused_in_one_line(archive, damage):
    file, rows = archive
    images = dsprites.unpack(rows)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[: -len(file.read_bytes()) // 2])
    elif damage == "not a zip":
        file.write_bytes(b"<html>quota exceeded</html>")
    elif damage == "pickle":
        np.savez(file, imgs=np.array([{"evil": 1}] * 3, dtype=object))
    elif damage == "no images":
        np.savez(file, pictures=images)
    else:
        np.savez(
            file,
            imgs={"wrong count": images[:-1], "wrong dtype": images.astype(np.int16), "grey": images * 255}[
                damage
            ],
        )
    with pytest.raises(ValueError, match="not the published dSprites archive, or damaged") as error:
        data.load("dsprites", file.parent)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_an_archive_with_a_flipped_byte_is_refused(archive):
    file, rows = archive
    np.savez(file, imgs=dsprites.unpack(rows))  # stored, so that the checksum must tell
    with zipfile.ZipFile(file) as whole:
        offset = whole.getinfo("imgs.npy").header_offset + 5000
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="CRC"):
        data.load("dsprites", file.parent)


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(ValueError, match="'dsprite': expected dsprites"):
        data.load("dsprite")


def test_dsprites_has_the_mlp_and_all_others_the_cnn():
    networks = {name: spec.network for name, spec in specs.SPECS.items()}
    others = ["mpi3d", "falcor3d", "isaac3d", "celeba", "arm3d"]
    assert networks == {"dsprites": "mlp"} | dict.fromkeys(others, "cnn")
    assert specs.spec_of("mine.npz").network == "cnn"


def test_a_data_set_has_the_network_of_its_spec(small):
    assert small.network == "mlp"
    assert data.Dataset("arm3d", "", specs.SPECS["arm3d"], small.store).network == "cnn"


def test_celeba_trains_on_12_per_cent_of_its_202599_images():
    prepared = specs.SPECS["celeba"].images
    training = len(data.Split.of(prepared).training)
    assert (prepared, training) == (28_602, 24_312) and training == round(0.12 * 202_599)


def test_latents_are_as_many_as_factors_and_ten_for_celeba():
    latents = {name: spec.latents or len(spec.factors) for name, spec in specs.SPECS.items()}
    assert latents == {"dsprites": 5, "mpi3d": 7, "falcor3d": 7, "isaac3d": 9, "celeba": 10, "arm3d": 7}
