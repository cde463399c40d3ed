"""Folders as people have them: what is a class, what trains, what tests, what is left out."""

import re

import pytest
from PIL import Image

from fl_sim.data.folder_layout import layout
from fl_sim.data.image_folder import image_folder


def fill(root, *names):
    """Make small pictures, empty folders (a name with a slash at its end) and other files."""
    for number, name in enumerate(names):
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in {".png", ".jpg"}:
            Image.linear_gradient("L").resize((4, 4)).rotate(90 * number).save(path)
        else:
            path.write_text("no picture")
    return root


CATS_AND_DOGS = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")


def below(folder, *names):
    return tuple(f"{folder}/{name}" for name in names)


UNDERSTOOD = {
    # name: (files, classes, pictures that train, pictures that test, a note)
    "classes": (CATS_AND_DOGS, "cat dog", 4, 0, None),
    "nested classes": (("a/x/1.png", "a/y/z/2.JPG", "b/3.png"), "a b", 3, 0, None),
    "plain": (("1.png", "2.PNG", "3.png"), "0 1 2", 3, 0, "in no class folders"),
    "one picture": (("1.png",), "0 1", 1, 0, "in no class folders"),
    "train and test": (
        (*below("train", *CATS_AND_DOGS), *below("test", *CATS_AND_DOGS)),
        "cat dog", 4, 4, "The pictures of train train and those of test test.",
    ),
    "all three": (
        (*below("Train", *CATS_AND_DOGS), "TEST/dog/1.png", *below("val", *CATS_AND_DOGS)),
        "cat dog", 4, 1,
        "The pictures of Train train and those of TEST test; the 4 of val do neither.",
    ),
    "validation for a test": (
        (*below("training", *CATS_AND_DOGS), "validation/cat/1.png", "test/"),
        "cat dog", 4, 1, "The pictures of training train and those of validation test.",
    ),
    "train alone": (
        below("train", *CATS_AND_DOGS), "cat dog", 4, 0, "The pictures are those of train.",
    ),
    "plain train and test": (
        ("train/1.png", "train/2.png", "train/3.png", "test/1.png"), "0 1 2", 3, 1,
        "in no class folders",
    ),
    "a class named train": (
        ("bus/1.png", "train/1.png"), "bus train", 2, 0,
        "The folder train is taken for a class like the others.",
    ),
    "loose": (
        (*CATS_AND_DOGS, "a.png", "b.png"), "cat dog", 4, 0,
        "Left out: loose pictures beside the folders (a.png, b.png).",
    ),
    "loose in a split": (
        (*below("train", *CATS_AND_DOGS), "train/a.png", "test/cat/1.png", "test/b.png"),
        "cat dog", 4, 1, "Left out: loose pictures beside the folders (train/a.png, test/b.png).",
    ),
    "empty class": (
        (*CATS_AND_DOGS, "eel/", "fox/notes.txt"), "cat dog", 4, 0,
        "Left out: folders without pictures (eel, fox).",
    ),
    "hidden": (
        (*CATS_AND_DOGS, ".ipynb_checkpoints/cat.png", "__MACOSX/cat/1.png", "cat/._1.png",
         ".DS_Store", "dog/Thumbs.db"),
        "cat dog", 4, 0,
        "Left out: hidden files and folders (.DS_Store, .ipynb_checkpoints, __MACOSX and 2 more).",
    ),
    "other files": (
        (*CATS_AND_DOGS, "labels.csv", "cat/x.heic"), "cat dog", 4, 0,
        "Left out: files that are no pictures, by their suffix (cat/x.heic, labels.csv).",
    ),
    "odd names": (
        ("<b>x</b>".replace("/", "|") + "/1.png", "ünï ☃/1.png", "&amp;/1.png"),
        "&amp; <b>x<|b> ünï|☃", 3, 0, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_is_understood(tmp_path, name):
    files, classes, train, test, note = UNDERSTOOD[name]
    found = layout(fill(tmp_path, *files))
    assert [c.replace(" ", "|") for c in found.classes] == classes.split()
    assert (len(found.train), len(found.test)) == (train, test)
    for path, label in [*found.train, *found.test]:
        if "in no class folders" not in " ".join(found.notes):
            assert found.classes[label] in path.relative_to(tmp_path).parts
    if note is None:
        assert found.notes == []
    else:
        assert any(note in told for told in found.notes)
    assert len(found.notes) <= 2


REFUSED = {
    "nothing": ((), "holds no pictures (.avif, "),
    "only others": (("a.heic", ".b.png"), "hidden files and folders (.b.png). Left out: files"),
    "one class": (("cat/1.png", "cat/2.png"), "holds one class only, cat, "),
    "one class in train": (("train/cat/1.png",), "/train holds one class only, cat, "),
    "no train": (("test/cat/1.png", "val/dog/1.png"), "holds test, val but no train folder"),
    "splits beside classes": (("train/1.png", "test/1.png", "cat/1.png"), "test, train beside cat"),
    "a split beside a class": (("train/a/1.png", "train/b/1.png", "cat/1.png"), "train beside cat"),
    "two of a kind": (
        ("train/1.png", "val/1.png", "valid/1.png"),
        "purpose: train, val, valid",
    ),
    "unknown class": ((*below("train", *CATS_AND_DOGS), "test/eel/1.png"), "train lacks: eel"),
    "plain test": ((*below("train", *CATS_AND_DOGS), "test/1.png"), "but none in test"),
    "plain train": (("train/1.png", "test/cat/1.png"), "class folders in test but none in train"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    files, told = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        layout(fill(tmp_path, *files))
    assert str(error.value).startswith(f"data.root={tmp_path}")
    assert "\n" not in str(error.value)


def test_the_way_out_of_a_single_class_works(tmp_path):
    fill(tmp_path, "photos/cat/1.png", "photos/dog/1.png")
    with pytest.raises(ValueError, match="one class only") as error:
        layout(tmp_path)
    (way_out,) = re.findall(r"data\.root=(\S+) reads", str(error.value))
    assert image_folder(way_out).classes == ("cat", "dog")


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "elsewhere", "1.png", "deep/2.png")
    root = fill(tmp_path / "root", "dog/1.png", "dog/deeper/2.png")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "more").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "dog" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "dog" / "deeper" / "up").symlink_to(root)
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = layout(root)
    assert [str(path.relative_to(root)) for path, _ in found.train] == [
        "cat/1.png",
        "cat/deep/2.png",
        "dog/1.png",
        "dog/3.png",
        "dog/deeper/2.png",
        "dog/more/2.png",
    ]
    assert found.notes == [
        "Left out: links that lead nowhere or back (dog/deeper/up, dog/gone.png)."
    ]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(ValueError, match=r"cannot be read: Permission denied\.$"):
        layout(tmp_path)


def test_test_folders_test_and_train_folders_train(tmp_path):
    pixel = {"train": 10, "test": 200}
    for split, value in pixel.items():
        for name in ("cat", "dog"):
            for k in range(7):
                path = tmp_path / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4), value + k).save(path)
    data = image_folder(str(tmp_path), size=4, grey=True)
    assert data.train_images[:, 0, 0, 0].tolist() == [*range(10, 17)] * 2
    assert data.test_images[:, 0, 0, 0].tolist() == [*range(200, 207)] * 2
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0] * 7 + [1] * 7
    assert data.notes[0] == "The pictures of train train and those of test test."


def test_pictures_that_train_and_test_are_said(tmp_path):
    few = image_folder(str(fill(tmp_path / "few", *CATS_AND_DOGS)))
    assert few.notes[0] == "The same images train and test: none are held back."
    many = fill(tmp_path / "many", *(f"{c}/{k}.png" for c in "ab" for k in range(5)))
    assert image_folder(str(many)).notes == ()


SIZES = {
    "64": (64, 64), "[8,6]": (8, 6), "[5,5]": (5, 5), "1": (1, 1), "null": (4, 4),
    "0": None, "-3": None, "[8]": None, "[8,6,3]": None, "[0,8]": None, "[8,-1]": None,
    "[8,6.5]": None, "32.0": None, "big": None, "'32'": None, "true": None, "[true,8]": None,
    "[]": None, "[null,8]": None, "'8,6'": None, "10001": None, "[1,99999]": None,
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_size(scenario, tmp_path, size):
    from fl_sim.data import load_data

    fill(tmp_path, *CATS_AND_DOGS)
    overrides = [f"data.root={tmp_path}", f"data.source.size={size}"]
    config = scenario("data=image_folder", *overrides).data
    if SIZES[size]:
        assert load_data(config).image_shape == (3, *SIZES[size])
        return
    with pytest.raises(ValueError, match=r"data\.source\.size=.* is neither a side of 1 to 10,000"):
        load_data(config)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"grey": "maybe"}, "data.source.grey='maybe' is not true or false."),
        ({"grey": 2}, "data.source.grey=2 is not true or false."),
        ({"test_every": None}, "data.source.test_every=None is not a whole number of at least 2."),
        ({"test_every": "all"}, "data.source.test_every='all' is not a whole number"),
        ({"test_every": 2.5}, "data.source.test_every=2.5 is not a whole number"),
        ({"test_every": True}, "data.source.test_every=True is not a whole number"),
        ({"test_every": -1}, "data.source.test_every=-1 is not a whole number of at least 2."),
    ],
)
def test_settings_that_make_no_sense(tmp_path, setting, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        image_folder(str(fill(tmp_path, *CATS_AND_DOGS)), **setting)
