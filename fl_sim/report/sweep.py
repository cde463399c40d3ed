"""The report of a sweep: all runs below a folder in one `sweep.html` and one `sweep.csv`."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fl_sim.atomic import replacing
from fl_sim.records import GALLERY_FILE, REPORT_FILE, RESULTS_FILE, Gallery
from fl_sim.report import pictures
from fl_sim.report.formats import plural
from fl_sim.report.frontier import frontier
from fl_sim.report.frontier_chart import frontier_chart
from fl_sim.report.heatmap import first_choice, heat_map, sweep_data
from fl_sim.report.page import load_gallery, write_report
from fl_sim.report.render import write_page
from fl_sim.report.runs import (
    ABSENT,
    Axis,
    Run,
    find_runs,
    in_words,
    place,
    shared_keys,
    swept_axes,
)
from fl_sim.report.strength_chart import strength_charts
from fl_sim.report.verdict import Verdict, judge_sweep

SWEEP_PAGE = "sweep.html"
SWEEP_TABLE = "sweep.csv"

THUMBS = 4
"""Pairs shown per run."""

PICTURED = 200
"""Runs that have pictures on the page; the others have them in their own reports."""


@dataclass(frozen=True)
class Line:
    """One run in the page's table.

    Attributes
    ----------
    run : Run
    values : list of str
        Its values of the swept keys.
    summary : dict
        `Results.summary()`, empty without results.
    thumb : Picture or None
        The first true images over their reconstructions.
    """

    run: Run
    values: list[str]
    summary: dict[str, Any]
    thumb: pictures.Picture | None


def write_sweep_report(folder: Path) -> Path:
    """Write `sweep.html` and `sweep.csv` into a folder with runs at any depth below it.

    Reports of single runs that are missing or older than their results are written too. What
    cannot be read is named in the page and on stderr, and stops nothing.

    Parameters
    ----------
    folder : Path
        The sweep's folder.

    Returns
    -------
    Path
        Of `sweep.html`.

    Raises
    ------
    FileNotFoundError
        If no run below the folder left any results.
    """
    folder = Path(folder)
    runs = find_runs(folder)
    if all(run.status == "missing" for run in runs):
        raise FileNotFoundError(f"No {RESULTS_FILE} in or below {folder}.")
    for run in runs:
        _refresh(run)
    axes = swept_axes(runs)
    runs.sort(key=lambda run: [place(axis, run) for axis in axes])
    _write_table(folder / SWEEP_TABLE, runs, axes)
    return _write_page(folder, runs, axes)


def _refresh(run: Run) -> None:
    """Write the report of a run where it is missing or old; name a run that cannot be read."""
    if run.results is None:
        print(f"fl-sim-report: {run.path}: {run.problem}", file=sys.stderr)
        return
    page = run.folder / REPORT_FILE
    if page.exists() and page.stat().st_mtime >= (run.folder / RESULTS_FILE).stat().st_mtime:
        return
    try:
        write_report(run.folder)
    except Exception as error:  # one page less; the others and the sweep's own are still to come
        reason = f"{type(error).__name__}: {error}"
        print(f"fl-sim-report: {run.path}: its report failed: {reason}", file=sys.stderr)


def _write_table(path: Path, runs: list[Run], axes: list[Axis]) -> None:
    """Write one row per run: where it is, how it ended, the swept keys, the totals."""
    totals = [run.results.summary() if run.results else {} for run in runs]
    columns = list(dict.fromkeys(name for row in totals for name in row))
    keys = [f"scenario.{a.key}" if a.key in columns else a.key for a in axes]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["run", "status", "message", *keys, *columns])
        for run, row in zip(runs, totals, strict=True):
            swept = [run.keys.get(axis.key, "") for axis in axes]
            figures = ["" if row.get(name) is None else row[name] for name in columns]
            table.writerow([run.path, run.status, run.problem or run.remark, *swept, *figures])


def _write_page(folder: Path, runs: list[Run], axes: list[Axis]) -> Path:
    lines, shots = _lines(runs, axes)
    data = sweep_data(runs, axes)
    across, down = first_choice(data) if axes else (0, None)
    points = frontier(runs, axes)
    drawn = heat_map(data, across, down) if axes and data.metrics else None
    swept = in_words(axes)
    return write_page(
        folder / SWEEP_PAGE,
        "sweep.html.j2",
        name=folder.resolve().name,
        verdict=_verdict(runs),
        sentence=f"{plural(len(runs), 'run')}{' over ' + swept if swept else ''}.",
        sheet=_contact_sheet(shots),
        axes=axes,
        lines=lines,
        data=data.to_dict(),
        metrics=data.metrics,
        heat=drawn,
        frontier=points,
        frontier_chart=frontier_chart(points) if points else None,
        strengths=strength_charts(points),
        across=across,
        down=down,
        broken=[run for run in runs if run.problem],
        shared=shared_keys(runs, axes),
        table_file=SWEEP_TABLE,
        pictured=PICTURED,
    )


def _verdict(runs: list[Run]) -> Verdict:
    return judge_sweep([run.results for run in runs if run.results], len(runs))


def _lines(runs: list[Run], axes: list[Axis]) -> tuple[list[Line], list[Gallery]]:
    lines, galleries = [], []
    for number, run in enumerate(runs):
        gallery = Gallery.empty()
        if run.results and number < PICTURED and (run.folder / GALLERY_FILE).exists():
            gallery, _ = load_gallery(run.folder)
            galleries.append(gallery)
        lines.append(
            Line(
                run=run,
                values=[run.keys.get(axis.key, ABSENT) for axis in axes],
                summary=run.results.summary() if run.results else {},
                thumb=_thumb(gallery),
            )
        )
    return lines, galleries


def _thumb(gallery: Gallery) -> pictures.Picture | None:
    """Return the first true images, with their reconstructions below them."""
    both = np.concatenate([gallery.truth[:THUMBS], gallery.reconstruction[:THUMBS]])
    return pictures.mosaic(both, min(THUMBS, len(gallery.truth)) or 1, gap=1, largest=32)


def _contact_sheet(galleries: list[Gallery], most: int = 128) -> pictures.Picture | None:
    """Return the first reconstructions of every run as one picture, if all are of one shape."""
    shots = [g.reconstruction for g in galleries if len(g.reconstruction)]
    if not shots or len({shot.shape[1:] for shot in shots}) > 1:
        return None
    each = max(1, most // len(shots))
    tiles = np.concatenate([shot[:each] for shot in shots])[:most]
    return pictures.mosaic(tiles, pictures.columns_for(len(tiles)), wide=1100)
