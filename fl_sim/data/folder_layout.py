"""Which pictures of a folder train, which test, and what their classes are.

Understood are `class/…`, plain pictures without classes, and either of these below `train/`, with
or without a `test/` or `val/` beside it. What could be meant in two ways is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_sim.data.folder_tree import SUFFIXES, Folder, walk
from fl_sim.data.names import printable, some

UNLABELLED_CLASSES = 10

ROLES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""What a folder of this name, in upper or lower case, is for."""


@dataclass
class Layout:
    """The pictures of a folder, those that train first.

    Attributes
    ----------
    classes : list of str
        Class names.
    train, test : list of (Path, int)
        Pictures and their class indices; `test` is empty where the folder holds none apart.
    notes : list of str
        Sentences on what was understood and what was left out.
    """

    classes: list[str]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]]
    notes: list[str]


def layout(root: Path) -> Layout:
    """Read a folder's names.

    Raises
    ------
    ValueError
        If it holds no pictures, one class only, or splits that do not fit together.
    """
    tree, left_out = walk(root)
    shown = f"data.root={printable(root)}"
    if not tree.everything():
        told = [f"{shown} holds no pictures ({', '.join(SUFFIXES)}).", *left_out.notes()]
        raise ValueError(" ".join(told))
    roles = _roles(tree, shown)
    found = _splits(tree, roles, shown, root) if roles else _single(tree, shown, root)
    found.notes += left_out.notes()
    return found


def _roles(tree: Folder, shown: str) -> dict[str, str]:
    """Return the folder's name for each role, or nothing where folders are no splits."""
    names = {name: ROLES.get(name.lower(), "") for name in tree.filled()}
    splits = [name for name, role in names.items() if role]
    others = [name for name, role in names.items() if not role]
    if not splits:
        return {}
    if others:
        if len(splits) > 1 or tree.folders[splits[0]].filled():
            raise ValueError(
                f"{shown} holds {some(splits)} beside {some(others)}: the pictures are either "
                f"in train, test and val or in class folders, not in both."
            )
        return {}
    roles = {names[name]: name for name in splits}
    if len(roles) < len(splits):
        raise ValueError(f"{shown} holds several folders for one purpose: {', '.join(splits)}.")
    if "train" not in roles:
        raise ValueError(f"{shown} holds {some(splits)} but no train folder with pictures.")
    return roles


def _single(tree: Folder, shown: str, root: Path) -> Layout:
    classes = tree.filled()
    notes = _unused({"": tree})
    if not classes:
        return Layout(*_in_turn(tree.pictures), [], [*_labels_in_turn(), *notes])
    _two_classes(classes, shown, root)
    if split := [name for name in classes if name.lower() in ROLES]:
        notes.insert(0, f"The folder {printable(split[0])} is taken for a class like the others.")
    return Layout(list(classes), _labelled(classes, list(classes)), [], notes)


def _splits(tree: Folder, roles: dict[str, str], shown: str, root: Path) -> Layout:
    train_name = roles["train"]
    test_name = roles.get("test") or roles.get("val") or ""
    train = tree.folders[train_name]
    test = tree.folders[test_name] if test_name else Folder([], {})
    classes = train.filled()
    parts = {f"{name}/": tree.folders[name] for name in (train_name, test_name) if name}
    notes = [_split_note(train_name, test_name, tree, roles), *_unused({"": tree, **parts})]
    if not classes:
        if test.filled():
            raise ValueError(f"{shown} has class folders in {test_name} but none in {train_name}.")
        names, pairs = _in_turn(train.pictures)
        tests = [(path, i % len(names)) for i, path in enumerate(test.pictures)]
        return Layout(names, pairs, tests, [*notes, *_labels_in_turn()])
    _two_classes(classes, f"{shown}/{printable(train_name)}", root / train_name)
    if test_name and not test.filled():
        raise ValueError(f"{shown} has class folders in {train_name} but none in {test_name}.")
    if unknown := [name for name in test.filled() if name not in classes]:
        raise ValueError(
            f"{shown} has classes in {test_name} that {train_name} lacks: {some(unknown)}."
        )
    names = list(classes)
    return Layout(names, _labelled(classes, names), _labelled(test.filled(), names), notes)


def _split_note(train: str, test: str, tree: Folder, roles: dict[str, str]) -> str:
    told = f"The pictures are those of {train}"
    if test:
        told = f"The pictures of {train} train and those of {test} test"
    if roles.get("val") not in (None, test):
        unused = len(tree.folders[roles["val"]].everything())
        told += f"; the {unused:,} of {roles['val']} do neither"
    return f"{told}."


def _labels_in_turn() -> list[str]:
    return [
        f"The pictures lie in no class folders: they got labels from 0 to at most "
        f"{UNLABELLED_CLASSES - 1} in turn, which say nothing about them."
    ]


def _in_turn(paths: list[Path]) -> tuple[list[str], list[tuple[Path, int]]]:
    """Label pictures 0, 1, ..., 9, 0, 1, ...; there are always two classes to tell apart."""
    count = max(2, min(UNLABELLED_CLASSES, len(paths)))
    return [str(k) for k in range(count)], [(path, i % count) for i, path in enumerate(paths)]


def _labelled(folders: dict[str, Folder], classes: list[str]) -> list[tuple[Path, int]]:
    return [
        (path, classes.index(name))
        for name, folder in folders.items()
        for path in folder.everything()
    ]


def _two_classes(classes: dict[str, Folder], shown: str, root: Path) -> None:
    if len(classes) > 1:
        return
    (name,) = classes
    raise ValueError(
        f"{shown} holds one class only, {printable(name)}, whose cross-entropy and gradient are "
        f"zero; data.root={printable(root / name)} reads what lies in it."
    )


def _unused(parts: dict[str, Folder]) -> list[str]:
    """Return sentences on loose pictures beside filled folders, and on folders without any.

    `parts` are folders by how their paths begin: "" or "train/".
    """
    notes = []
    filled = {prefix: part for prefix, part in parts.items() if part.filled()}
    if loose := [f"{pre}{path.name}" for pre, part in filled.items() for path in part.pictures]:
        notes.append(f"Left out: loose pictures beside the folders ({some(loose)}).")
    if empty := [f"{pre}{name}" for pre, part in parts.items() for name in part.unfilled()]:
        notes.append(f"Left out: folders without pictures ({some(empty)}).")
    return notes
