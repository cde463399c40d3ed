"""Names of the folders that a sweep writes: its own after its command, a job's after its overrides.

Different overrides may read alike as file names: `/d/a/b` and `/d/a_b`, or `A` and `a` where a file
system does not tell them apart. So every job's folder says whose it is. A job that finds its name
taken by another gets a hash after it; one whose name is free, or its own from an earlier sweep,
has it as it is. This holds whichever process runs a job, and whichever sweeper made it up.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from fl_sim.errors import ScenarioError

FOLDER_VARIABLE = "FL_SIM_SWEEP"
"""Environment variable with the sweep's folder name; workers of other launchers inherit it."""

RECORD_FOLDER = ".hydra"
"""Where Hydra keeps a job's command, and this module the claim to the job's folder."""

CLAIM = "claim.json"

LONGEST_NAME = 120
"""In characters, before a hash."""

MOST_BYTES = 255
"""Of a file name, on all common file systems."""


def name_sweep(arguments: list[str]) -> None:
    """Put the folder name of this command's sweep where conf/config.yaml looks for it.

    Raises
    ------
    ScenarioError
        If the name that was typed leads out of the sweeps' folder.
    """
    os.environ.pop(FOLDER_VARIABLE, None)
    if any(asks_for_sweep(argument) for argument in arguments):
        os.environ[FOLDER_VARIABLE] = sweep_folder(arguments)


def asks_for_sweep(argument: str) -> bool:
    """Tell whether an argument makes the command a sweep."""
    shortened = len(argument) > 2 and "--multirun".startswith(argument)  # as argparse allows
    return argument == "-m" or shortened or argument.lstrip("+") == "hydra.mode=MULTIRUN"


def sweep_folder(overrides: list[str]) -> str:
    """Name a sweep after its command.

    Parameters
    ----------
    overrides : list of str
        As typed: ``["clients.count=2,4", "rounds=3"]``.

    Returns
    -------
    str
        ``sweep.name`` if it is among them; else the experiment's name, the swept keys and a hash
        of all overrides.

    Raises
    ------
    ScenarioError
        If ``sweep.name`` leads out of the sweeps' folder.
    """
    relevant = sorted(o for o in overrides if not o.startswith(("sweep.", "hydra.", "hydra/", "-")))
    for override in overrides:
        key, _, name = override.partition("=")
        if key.lstrip("+") != "sweep.name" or name in ("", "null"):
            continue
        if name.strip("'\"").startswith(("/", "~")) or ".." in re.split(r"[/\\'\"]", name):
            raise ScenarioError(f"sweep.name={name} has to be a name below multirun/.")
        return name
    named = [o.partition("=")[2] for o in relevant if o.startswith("experiment=")]
    swept = [o.partition("=")[0] for o in relevant if "," in o]
    return _file_name("+".join([*named, *swept, _digest("\n".join(relevant))[:8]]))


def job_folder(overrides: str) -> str:
    """Name a job after its overrides: ``clients.count=2,model.activation=relu``.

    Parameters
    ----------
    overrides : str
        Separated by commas.

    Returns
    -------
    str
        One file name of at most 255 bytes. Different overrides may have the same.
    """
    return _file_name(overrides) or "default"


def own_folder(overrides: str, *, _root_: DictConfig) -> str:
    """Name the folder of a job so that no other job has it; the resolver `fl_sim.job_folder`.

    Parameters
    ----------
    overrides : str
        As for `job_folder`.
    _root_ : DictConfig
        The job's configuration with its `hydra` node.

    Returns
    -------
    str
        The name that `job_folder` gives, with a hash where another job has that one. The folder is
        made, and claimed for this job; where it cannot be, the plain name is returned and the job
        will meet the same obstacle.
    """
    name, hydra = job_folder(overrides), _root_.hydra
    if OmegaConf.is_missing(hydra.job, "num"):
        return name  # the configuration is only shown, nothing runs
    record = record_of(list(hydra.overrides.task))
    try:
        return claim(Path(str(hydra.sweep.dir)), name, record)
    except OSError:
        return name


def record_of(overrides: list[str]) -> list[str]:
    """Return what makes a job another one: its overrides, but for those on how sweeps behave."""
    return sorted(o for o in overrides if not o.lstrip("+").startswith("sweep."))


def claim(sweep: Path, name: str, record: list[str]) -> str:
    """Find a job's folder, or take one that no other job has.

    Parameters
    ----------
    sweep : Path
        The folder of all jobs.
    name : str
        What the job's folder is to be called if it can be.
    record : list of str
        What `record_of` says of the job.

    Returns
    -------
    str
        The folder's name.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    digest = _digest("\n".join(record))
    names = [name, *(f"{_cut(name, 33)}-{digest[:digits]}" for digits in (8, 32))]
    for candidate in names:
        if owner(sweep / candidate) == record:
            return candidate
    for candidate in names:
        if owner(sweep / candidate) is None and not _alike(sweep, candidate):
            folder = sweep / candidate / RECORD_FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with open(folder / CLAIM, "x") as file:  # fails if another process was faster
                    json.dump(record, file)
            except FileExistsError:
                continue
            return candidate
    raise FileExistsError(f"Other jobs have taken all of the names {', '.join(names)}.")


def owner(folder: Path) -> list[str] | None:
    """Return the record of the job whose folder this is.

    Parameters
    ----------
    folder : Path
        Of a job; it need not be there.

    Returns
    -------
    list of str or None
        None if nobody says so; an empty list for a claim that was cut off while it was written.
    """
    try:
        text = (folder / RECORD_FOLDER / CLAIM).read_text()
        try:
            return [str(override) for override in json.loads(text)]
        except ValueError:
            return []
    except FileNotFoundError:
        pass
    try:  # of sweeps from before there were claims
        typed: Any = yaml.safe_load((folder / RECORD_FOLDER / "overrides.yaml").read_text())
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return record_of([str(override) for override in typed]) if isinstance(typed, list) else None


def _alike(sweep: Path, name: str) -> bool:
    """Tell whether some file systems would not tell a name from another that is there."""
    names = os.listdir(sweep) if sweep.is_dir() else []
    return any(other != name and _folded(other) == _folded(name) for other in names)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _file_name(text: str) -> str:
    """Make a text a file name, shortened with a hash where it is too long."""
    name = re.sub(r"[^\w.,=+\[\]-]+", "_", text)
    if len(name) <= LONGEST_NAME and len(name.encode()) <= MOST_BYTES:
        return name
    return f"{_cut(name, 9)}-{_digest(text)[:8]}"


def _cut(name: str, room: int) -> str:
    """Shorten a name so that as many bytes as said can follow."""
    most = MOST_BYTES - room
    return name[:LONGEST_NAME].encode()[:most].decode(errors="ignore")
