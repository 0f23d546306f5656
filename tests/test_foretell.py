"""Whether a short run foretells which seed is better at full length: counted over methods."""

import foretell
import keep
import pytest
from test_study import row

LONG = {("VAE", seed): {"mig": value} for seed, value in enumerate((0.3, 0.1, 0.29))}


@pytest.mark.parametrize(
    "short, found",
    [
        ((0.2, 0.1, 0.15), (2, 2)),
        ((0.1, 0.2, 0.15), (0, 2)),
        ((0.2, 0.1, None), (1, 1)),
        ((0.2, None, None), (0, 0)),
    ],
)
def test_pairs_of_seeds_agree_if_the_same_one_is_ahead(short, found):
    runs = {("VAE", seed): {"mig": value} for seed, value in enumerate(short) if value is not None}
    assert foretell.agreement(runs, LONG, "mig") == found  # seeds 0 and 2 end too near


def test_shorter_runs_are_told_by_length_and_rate():
    rows = [
        row("vae", iterations=2000, schedule=2000, rate=1e-3),
        row("vae", seed=1),
        row("vae", batch_size=32),
    ]
    rows.append(row("vae", paper=True))
    found = foretell.shorter(rows)
    assert [list(scores) for scores in found.values()] == [[("VAE", 1)], [("VAE", 0)]]
    assert list(found)[1] == "2,000 iterations, rate 0.001"


def test_the_default_foretells_and_a_fifth_of_it_does_not_as_the_prose_says():
    table = foretell.text(keep.rows(keep.TABLE)).splitlines()
    for line, start in (
        (2, "| 10,000 iterations, rate 0.00055 |"),
        (3, "| 10,000 iterations, rate 0.0001 |"),
    ):
        assert table[line].endswith("| 21 of 21 | 29 of 36 |") and table[line].startswith(start)
    agree, count = map(int, table[4].split("|")[-3].split(" of "))
    assert table[4].startswith("| 2,000 iterations") and agree < 0.6 * count and count >= 15
