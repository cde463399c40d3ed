"""Shares cover the training set, are disjoint, and have the skew they promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.config import DataConfig
from fl_sim.data import partition, share
from fl_sim.data.splits import SPLITS


def labels_of(count, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (count,), generator=generator)


def shares(labels, config, count, seed=0):
    return [share(labels, config, count, seed, client) for client in range(count)]


@given(
    scheme=st.sampled_from(list(SPLITS)),
    images=st.integers(60, 300),
    classes=st.integers(2, 6),
    count=st.integers(6, 12),
    alpha=st.floats(1e-3, 100),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_a_split_covers_the_training_set_once(scheme, images, classes, count, alpha, seed):
    labels = torch.arange(images) % classes
    config = DataConfig(partition=scheme, alpha=alpha, classes_per_client=2)
    split = shares(labels, config, count, seed)
    assert all(len(indices) for indices in split)
    assert torch.equal(torch.cat(split).sort().values, torch.arange(images))


@given(
    scheme=st.sampled_from(list(SPLITS)),
    size=st.integers(2, 40),
    alpha=st.floats(1e-3, 100),
    client=st.integers(0, 9999),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_a_draw_has_the_asked_size_and_no_image_twice(scheme, size, alpha, client, seed):
    labels = labels_of(200, 4)
    config = DataConfig(
        partition=scheme, alpha=alpha, classes_per_client=2, samples_per_client=size
    )
    indices = share(labels, config, 10_000, seed, client)
    assert len(indices) == len(indices.unique()) == size
    assert indices.min() >= 0
    assert indices.max() < 200


@pytest.mark.parametrize("scheme", SPLITS)
@pytest.mark.parametrize("size", [None, 20])
def test_a_share_is_a_function_of_its_arguments(scheme, size):
    labels = labels_of(500, 5)
    config = DataConfig(partition=scheme, samples_per_client=size)
    first = shares(labels, config, 8, seed=3)
    again = shares(labels.clone(), config, 8, seed=3)  # a new tensor: nothing is cached
    other = shares(labels, config, 8, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0].sort().values, first[1].sort().values)


@pytest.mark.parametrize("size", [None, 30])
def test_pathological_clients_have_exactly_their_number_of_classes(size):
    labels = torch.arange(1000) % 10
    config = DataConfig(partition="pathological", classes_per_client=3, samples_per_client=size)
    split = shares(labels, config, 20)
    assert [len(labels[indices].unique()) for indices in split] == [3] * 20
    assert len(torch.cat([labels[i] for i in split]).unique()) == 10


@pytest.mark.parametrize("size", [None, 50])
def test_shards_hold_one_class_or_two(size):
    labels = torch.arange(1000) % 10
    config = DataConfig(partition="shard", classes_per_client=2, samples_per_client=size)
    assert all(len(labels[indices].unique()) <= 4 for indices in shares(labels, config, 10))


@pytest.mark.parametrize("size", [None, 100])
def test_a_smaller_alpha_is_more_skewed(size):
    labels = torch.arange(2000) % 10

    def largest_class(alpha):
        config = DataConfig(partition="dirichlet", alpha=alpha, samples_per_client=size)
        tops = [labels[i].bincount().max() / len(i) for i in shares(labels, config, 20)]
        return torch.stack(tops).mean()

    assert largest_class(0.1) > largest_class(1.0) + 0.1 > largest_class(100.0) + 0.2


def test_iid_sizes_differ_by_at_most_one():
    sizes = {len(indices) for indices in shares(labels_of(103, 3), DataConfig(), 10)}
    assert sizes == {10, 11}


def test_labels_changed_in_place_are_split_anew():
    labels = torch.arange(100) % 2
    config = DataConfig(partition="pathological", classes_per_client=1)
    share(labels, config, 2, 0, 0)
    labels[:] = (torch.arange(100) >= 50).long()
    assert len(labels[share(labels, config, 2, 0, 0)].unique()) == 1


def test_the_split_is_made_once_for_all_clients(monkeypatch):
    calls = []
    iid = SPLITS["iid"]
    monkeypatch.setitem(SPLITS, "iid", lambda *a: calls.append(1) or iid(*a))
    shares(labels_of(5000, 10, seed=9), DataConfig(), 1000)
    assert len(calls) == 1
    assert partition._split.cache_info().maxsize is not None


@pytest.mark.parametrize(
    ("settings", "count", "client", "message"),
    [
        ({}, 4, 4, "client=4"),
        ({}, 101, 0, "clients.count=101"),
        ({"partition": "even"}, 4, 0, "data.partition=even"),
        ({"alpha": 0.0}, 4, 0, "data.alpha=0.0"),
        ({"alpha": float("nan")}, 4, 0, "data.alpha=nan"),
        ({"classes_per_client": 0}, 4, 0, "data.classes_per_client=0"),
        ({"samples_per_client": 101}, 4, 0, "data.samples_per_client=101"),
        ({"samples_per_client": 0}, 4, 0, "data.samples_per_client=0"),
        ({"partition": "pathological", "classes_per_client": 6}, 4, 0, "the 5 classes"),
        (
            {"partition": "pathological", "classes_per_client": 6, "samples_per_client": 5},
            4,
            0,
            "the 5 classes",
        ),
        (
            {"partition": "pathological", "classes_per_client": 1, "samples_per_client": 50},
            4,
            0,
            "data.samples_per_client=50",
        ),
        ({"partition": "pathological"}, 100, 0, "lower clients.count"),
        ({"partition": "shard"}, 60, 0, "120 shards"),
        (
            {"partition": "shard", "classes_per_client": 5, "samples_per_client": 4},
            4,
            0,
            "classes_per_client=5",
        ),
    ],
)
def test_a_bad_value_is_named_in_one_sentence(settings, count, client, message):
    labels = torch.arange(100) % 5
    with pytest.raises(ValueError, match=message) as error:
        share(labels, DataConfig(**settings), count, 0, client)
    assert str(error.value).endswith(".")


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        share(labels_of(100, 2), DataConfig(), 2, -1, 0)
