"""The comparison's rows on disk and its tables."""

import pytest

from benchmarks.compare_show import PEER, Score, Scores, beside, heat_map, overview, table

SETTINGS = {"data": "cifar10_sample", "iterations": 100}


def rows():
    return [
        Score("lenet", 1, "inverting_gradients", seed, psnr=20.0 + seed, exact=0, seconds=1.0)
        for seed in range(3)
    ] + [
        Score("lenet", 1, PEER + "inverting_gradients", seed, psnr=18.0, seconds=2.0)
        for seed in range(3)
    ]


def test_a_stopped_run_finds_its_rows_again(tmp_path):
    path = tmp_path / "new" / "scores.json"
    scores = Scores(path, SETTINGS)
    for row in rows():
        assert row.key not in scores
        scores.add(row)
    again = Scores(path, SETTINGS)
    assert again.rows == rows()
    assert rows()[4].key in again
    assert ("lenet", 1, "tensor", 0) not in again


def test_rows_of_other_settings_are_not_mixed_in(tmp_path):
    Scores(tmp_path / "scores.json", SETTINGS).add(rows()[0])
    with pytest.raises(ValueError, match=r"'iterations': 100.*--fresh"):
        Scores(tmp_path / "scores.json", {**SETTINGS, "iterations": 7})


def test_tables_hold_medians_over_seeds(tmp_path):
    exact = Score("mlp", 1, "tensor", 0, psnr=190.0, exact=1, found=1)
    missing = Score("lenet", 1, "tensor", 0, note="no linear layer")
    everything = [exact, missing, *rows()]
    assert "| inverting_gradients | - | 21.0 (18.0) |" in overview(everything, 1)
    assert "| tensor | 190.0, 1 exact | - |" in overview(everything, 1)
    assert "| lenet | 1 | 3 | 21.0, 18.0 | 1.00, 2.00 | 0.50 |" in beside(everything)
    assert "no linear layer" in table(everything)
    heat_map(everything, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
