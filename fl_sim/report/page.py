"""The report of one run: `results.json` and `reconstructions.npz` in, one `report.html` out."""

from __future__ import annotations

import shlex
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import yaml

from fl_sim.records import EXACT, GALLERY_FILE, REPORT_FILE, RESULTS_FILE, Gallery, Results
from fl_sim.report import pictures
from fl_sim.report.charts import charts
from fl_sim.report.figures import key_figures
from fl_sim.report.formats import plural
from fl_sim.report.gallery import MARKS, batches, tile_side
from fl_sim.report.render import write_page
from fl_sim.report.trajectory import trajectory_chart
from fl_sim.report.verdict import CLOSE, judge
from fl_sim.report.words import describe

SHEET = 256
"""Most images on the contact sheet beside the verdict."""


def write_report(folder: Path) -> Path:
    """Write the report of a run into its folder.

    Parameters
    ----------
    folder : Path
        Holds `results.json` and, where images were attacked, `reconstructions.npz`.

    Returns
    -------
    Path
        Of `report.html`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no `results.json`.
    ValueError
        If `results.json` is not readable as one.
    """
    folder = Path(folder)
    results = Results.load(folder)
    gallery, note = load_gallery(folder)
    trajectory = trajectory_chart(results)
    ended = results.status == "complete"
    rounds = [*(row.round for row in results.training), *(row.round for row in results.attacks)]
    done = max(rounds, default=0)
    sheet, sheet_words = _contact_sheet(gallery)
    return write_page(
        folder / REPORT_FILE,
        "run.html.j2",
        name=folder.resolve().name,
        verdict=judge(results),
        sentence=describe(results.scenario, None if ended else done or None),
        planned=not (done or ended),
        sheet=sheet,
        sheet_words=sheet_words,
        figures=key_figures(results),
        batches=batches(results, gallery),
        tile=tile_side(gallery),
        small_tile=tile_side(gallery, goal=56),
        marks=MARKS,
        gallery_note=note,
        charts=charts(results, rounds=trajectory is None),
        trajectory=trajectory,
        rows=results.attacks,
        middle=_middle,
        worst=_worst,
        exact=f"{EXACT:g}",
        close=f"{CLOSE:g}",
        command=command_of(folder),
        configuration=yaml.safe_dump(results.scenario, sort_keys=False, allow_unicode=True),
        results_file=RESULTS_FILE,
        gallery_file=GALLERY_FILE,
        date=_date(folder / RESULTS_FILE),
    )


def load_gallery(folder: Path) -> tuple[Gallery, str]:
    """Return the images of a run, and where there are none or they cannot be read, why."""
    try:
        return Gallery.load(folder), ""
    except FileNotFoundError:
        return Gallery.empty(), ""
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return Gallery.empty(), f"The images are not shown: {GALLERY_FILE} is damaged ({error})."


def command_of(folder: Path) -> str:
    """Return the command that made a run, from the overrides Hydra keeps; "" without them."""
    try:
        overrides = yaml.safe_load((Path(folder) / ".hydra" / "overrides.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return shlex.join(["fl-sim", *map(str, overrides or [])])


def _contact_sheet(gallery: Gallery) -> tuple[pictures.Picture | None, str]:
    shown = gallery.reconstruction[:SHEET]
    sheet = pictures.mosaic(shown, pictures.columns_for(len(shown)), wide=1100)
    missing = int((~pictures.found(shown)).sum())
    tiles = plural(len(shown), "private image")
    first = "the first " if len(shown) < len(gallery.reconstruction) else ""
    words = f"What the server made of {first}{tiles}"
    return sheet, f"{words}; {missing} of them stayed hidden." if missing else f"{words}."


def _middle(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def _worst(values: list[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _date(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
