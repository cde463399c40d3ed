"""Every source, on the bundled file, on what is installed, or on small files made here."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from fl_sim.data import load_data
from fl_sim.data.bundled import FILE
from fl_sim.data.cifar10_sample import cifar10_sample
from fl_sim.data.fashion_mnist import DEBIAN, fashion_mnist
from fl_sim.data.idx import read_idx
from fl_sim.data.image_folder import image_folder
from fl_sim.data.torchvision_files import cache_root
from fl_sim.instantiate import instantiate

NAMES = ["fashion_mnist", "mnist", "cifar10", "cifar100"]


@pytest.fixture
def offline(monkeypatch):
    """Make every download fail at once, as on a machine without a network."""
    import torchvision.datasets.utils as utils

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(utils.urllib.request, "urlopen", refuse)


def write_idx(path, array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + array.tobytes())


def write_mnist(folder, rng):
    for split, count in (("train", 20), ("t10k", 10)):
        write_idx(
            folder / f"{split}-images-idx3-ubyte",
            rng.integers(256, size=(count, 28, 28)).astype(np.uint8),
        )
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)


def write_cifar(monkeypatch, dataset, root, label_key, files, rng):
    """Write small files in CIFAR's format, and make torchvision expect their checksums."""
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)

    def write(name, content):
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    for attribute, names in files.items():
        entries = []
        for name in names:
            pixels = rng.integers(256, size=(10, 3072)).astype(np.uint8)
            pixels[:, :1024] = 255  # the red plane
            entries.append((name, write(name, {"data": pixels, label_key: list(range(10))})))
        monkeypatch.setattr(dataset, attribute, entries)
    key = dataset.meta["key"]
    classes = [f"class {k}" for k in range(100 if "fine" in key else 10)]
    md5 = write(dataset.meta["filename"], {key: classes})
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5})


def test_the_bundled_images_are_balanced_and_small():
    data = load_data({"source": {"_target_": "fl_sim.data.bundled.fashion_mnist_mini"}})
    assert data.train_labels.bincount().tolist() == [500] * 10
    assert data.test_labels.bincount().tolist() == [100] * 10
    assert data.image_shape == (1, 28, 28)
    assert FILE.stat().st_size <= 3_000_000
    assert (FILE.parent / "LICENSE").read_text().count("Zalando")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_bundled_images_are_the_first_of_each_class():
    from fl_sim.data.bundled import fashion_mnist_mini
    from fl_sim.data.bundled.make_fashion_mnist_mini import first_of_each_class

    full, mini = fashion_mnist(), fashion_mnist_mini()
    assert len(full.train_images) == 60_000
    assert len(full.test_images) == 10_000
    chosen = first_of_each_class(full.train_labels, 500)
    assert torch.equal(full.train_images[chosen], mini.train_images)
    assert torch.equal(full.train_labels[chosen], mini.train_labels)


def test_data_are_read_once_per_process():
    config = {"source": {"_target_": "fl_sim.data.bundled.fashion_mnist_mini"}}
    assert load_data(config) is load_data(dict(config))


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_grey_sets_are_read_from_their_files(name, scenario, tmp_path, offline):
    folder = tmp_path / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    write_mnist(folder, np.random.default_rng(0))
    data = load_data(scenario(f"data={name}", f"data.root={tmp_path}").data)
    assert data.name == name
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    assert len(data.train_images) == 20
    assert torch.equal(data.train_images[:, 0], read_idx(folder / "train-images-idx3-ubyte"))
    assert data.test_labels.tolist() == list(range(10))


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_colour_sets_are_read_from_their_files(
    name, classes, scenario, tmp_path, monkeypatch, offline
):
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset, key = (CIFAR10, "labels") if name == "cifar10" else (CIFAR100, "fine_labels")
    files = {"train_list": ["train_a", "train_b"], "test_list": ["test_a"]}
    write_cifar(monkeypatch, dataset, tmp_path, key, files, np.random.default_rng(0))
    data = load_data(scenario(f"data={name}", f"data.root={tmp_path}").data)
    assert data.image_shape == (3, 32, 32)
    assert data.num_classes == classes
    assert len(data.train_images) == 20
    assert (data.train_images[:, 0] == 255).all()  # channels come first
    assert not (data.train_images[:, 1] == 255).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_download_is_one_sentence(name, scenario, tmp_path, offline):
    config = scenario(f"data={name}", f"data.root={tmp_path / name}").data
    with pytest.raises(ValueError, match="cannot be downloaded") as error:
        load_data(config)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_where_files_go(monkeypatch, tmp_path):
    monkeypatch.delenv("FL_SIM_DATA", raising=False)
    assert cache_root(None).parts[-2:] == (".cache", "fl-sim")
    monkeypatch.setenv("FL_SIM_DATA", str(tmp_path))
    assert cache_root(None) == tmp_path
    assert cache_root("/elsewhere").as_posix() == "/elsewhere"


def test_cifar10_sample_is_foolbox(scenario):
    pytest.importorskip("foolbox")
    data = load_data(scenario("data=cifar10_sample").data)
    assert data.image_shape == (3, 32, 32)
    assert len(data.train_images) == 20
    assert data.num_classes == 10


def test_cifar10_sample_without_foolbox_names_the_extra(monkeypatch):
    monkeypatch.setattr("fl_sim.data.cifar10_sample.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'fl-sim\[samples\]'"):
        cifar10_sample()


def picture(path, colour, size=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_subfolders_are_classes(scenario, tmp_path):
    for k in range(10):
        picture(tmp_path / "cat" / f"{k}.png", (255, 0, 0))
        picture(tmp_path / "dog" / "puppies" / f"{k}.jpg", (0, 0, 255))
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    data = load_data(
        scenario("data=image_folder", f"data.root={tmp_path}", "data.source.size=[24,32]").data
    )
    assert data.classes == ("cat", "dog")
    assert data.image_shape == (3, 24, 32)
    assert data.train_labels.bincount().tolist() == [8, 8]
    assert data.test_labels.bincount().tolist() == [2, 2]
    assert data.train_images[0, :, 0, 0].tolist() == [255, 0, 0]


def test_plain_pictures_get_labels_in_turn(tmp_path):
    for k in range(12):
        picture(tmp_path / f"{k:02}.png", (20 * k, 0, 0))
    data = image_folder(str(tmp_path), size=(8, 8), grey=True, test_every=100)
    assert data.image_shape == (1, 8, 8)
    assert data.train_labels.tolist() == [*range(10), 0, 1]
    assert torch.equal(data.test_images, data.train_images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": None}, "data.root=FOLDER"),
        ({"root": "/no/such/folder"}, "data.root=/no/such/folder is not a folder"),
        ({"size": [32]}, r"data.source.size=\[32\]"),
        ({"size": [0, 32]}, "data.source.size"),
        ({"test_every": 1}, "data.source.test_every=1"),
        ({}, "holds no pictures"),
    ],
)
def test_a_bad_folder_is_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        image_folder(**({"root": str(tmp_path)} | settings))


def test_a_damaged_picture_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken.png is not a readable picture"):
        image_folder(str(tmp_path))


def test_a_damaged_idx_file_is_named(tmp_path):
    path = tmp_path / "images.gz"
    for raw in (
        b"",
        gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"),
        gzip.compress(b"\0\0\x0d\x01" + bytes(8)),
    ):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"images.gz is not a readable idx file"):
            read_idx(path)


def test_a_source_has_to_give_image_data():
    with pytest.raises(ValueError, match="gave Namespace, not ImageData"):
        load_data({"source": {"_target_": "argparse.Namespace"}})


def test_an_unknown_setting_is_named():
    with pytest.raises(ValueError, match="no setting 'path'; it has root"):
        instantiate({"_target_": "fl_sim.data.mnist.mnist", "path": "x"})
    with pytest.raises(ValueError, match="lacks _target_"):
        instantiate({"name": "mnist"})


def test_instantiate_keeps_what_is_given_as_it_is():
    given = torch.zeros(2)
    made = instantiate({"_target_": "argparse.Namespace", "name": "left out", "a": [1]}, b=given)
    assert made.b is given
    assert vars(made) == {"a": [1], "b": given}
