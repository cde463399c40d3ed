"""What lies in a folder: pictures, folders, and what is no picture or hidden.

Links are followed, unless they lead nowhere or back to a folder they lie in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fl_sim.data.dicom import SUFFIXES as DICOM_SUFFIXES
from fl_sim.data.names import printable, some

SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jfif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
    *DICOM_SUFFIXES,
)
"""Of the files that are taken for pictures, in upper or lower case."""

SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini"})
"""Files and folders that systems leave behind, in lower case; like hidden ones, nobody's data."""


@dataclass
class LeftOut:
    """Paths below the folder that was asked for, by why they are not used."""

    hidden: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return a sentence for each kind that occurs."""
        kinds = (
            ("hidden files and folders", self.hidden),
            ("files that are no pictures, by their suffix", self.others),
            ("links that lead nowhere or back", self.links),
        )
        return [f"Left out: {kind} ({some(p)})." for kind, p in kinds if p]


@dataclass
class Folder:
    """One folder: the pictures directly in it, and the folders in it by name."""

    pictures: list[Path]
    folders: dict[str, Folder]

    def everything(self) -> list[Path]:
        """Return all pictures at any depth, in the order of their paths."""
        below = [path for folder in self.folders.values() for path in folder.everything()]
        return sorted([*self.pictures, *below])

    def filled(self) -> dict[str, Folder]:
        """Return the folders directly in it that hold pictures at any depth."""
        return {name: f for name, f in self.folders.items() if f.everything()}

    def unfilled(self) -> list[str]:
        """Return the names of the folders directly in it that hold no pictures."""
        return [name for name, folder in self.folders.items() if not folder.everything()]


def walk(root: Path) -> tuple[Folder, LeftOut]:
    """Read the names in a folder and all below.

    Raises
    ------
    ValueError
        If a folder cannot be read.
    """
    left_out = LeftOut()
    return _walk(root, root, left_out, ()), left_out


def _walk(folder: Path, root: Path, left_out: LeftOut, above: tuple[Path, ...]) -> Folder:
    above = (*above, folder.resolve())
    found = Folder([], {})
    for path in _entries(folder):
        name, below = path.name.lower(), path.relative_to(root)
        if name.startswith(".") or name in SYSTEM_NAMES:
            left_out.hidden.append(below)
        elif path.is_dir():
            if path.resolve() in above:
                left_out.links.append(below)
            else:
                found.folders[path.name] = _walk(path, root, left_out, above)
        elif not path.is_file():
            (left_out.links if path.is_symlink() else left_out.others).append(below)
        elif path.suffix.lower() in SUFFIXES:
            found.pictures.append(path)
        else:
            left_out.others.append(below)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{printable(folder)} cannot be read: {error.strerror}.") from error
