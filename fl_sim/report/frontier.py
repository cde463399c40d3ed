"""What defences protect and what they cost: leakage against accuracy, over the runs of a sweep.

A point is a setting, joined over its seeds; a series is one kind of protection at its strengths. A
protection is a defence, or whatever else a run does otherwise than most runs of the sweep: a larger
batch, secure aggregation. On the frontier lie the points that no other beats in both, leakage and
accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from fl_sim.evaluation.confidence import Estimate, estimate
from fl_sim.records import AttackRow, Results
from fl_sim.report.runs import ABSENT, Axis, Run
from fl_sim.report.words import title

UNDEFENDED = "No defence"


@dataclass(frozen=True)
class Point:
    """One setting.

    Attributes
    ----------
    series, setting, strength : str
        The protection; the key its strength is under; that strength as text.
    exact, images : int
        Images read exactly and attacked, over all seeds.
    read, psnr, ssim, labels, accuracy : Estimate or None
        Over the seeds: share of images read exactly; median PSNR (dB) and SSIM over the images,
        where an image that was not found counts as 0; share of labels right; test accuracy.
    epsilon : float or None
        Largest privacy budget any client has spent.
    best : bool
        Whether it lies on the frontier.
    link : str
        Report of its first run.
    """

    series: str
    setting: str
    strength: str
    exact: int
    images: int
    read: Estimate
    psnr: Estimate
    ssim: Estimate
    labels: Estimate | None
    accuracy: Estimate
    epsilon: float | None
    best: bool = False
    link: str = ""


def frontier(runs: Sequence[Run], axes: Sequence[Axis]) -> list[Point]:
    """Return the points of a sweep over defences; none for a sweep over anything else.

    Parameters
    ----------
    runs : sequence of Run
        Those without attacked images or without a trained model are left out.
    axes : sequence of Axis
        The swept keys.

    Returns
    -------
    list of Point
        Undefended first, then by protection and strength.
    """
    if not any(axis.key == "defense" for axis in axes):
        return []
    usable = [run for run in runs if run.results and _measured(run.results)]
    keys = [axis.key for axis in axes if axis.key != "seed"]
    usual = {key: _most_common(run.keys.get(key, ABSENT) for run in usable) for key in keys}
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in usable:
        groups.setdefault(tuple(run.keys.get(key, ABSENT) for key in keys), []).append(run)
    points = [_point(same, usual, keys) for same in groups.values()]
    points.sort(key=_order)
    return [replace(p, best=not any(_beats(other, p) for other in points)) for p in points]


def _measured(results: Results) -> bool:
    return bool(results.training) and any(row.batch_size for row in results.attacks)


def _most_common(values: Iterable[str]) -> str:
    """Return the most frequent value, the first of several; `ABSENT` of none."""
    return next((value for value, _ in Counter(values).most_common(1)), ABSENT)


def _point(same: list[Run], usual: dict[str, str], keys: list[str]) -> Point:
    known = [run.results for run in same if run.results]
    series, setting, strength = _named(same[0], usual, keys)
    totals = [results.summary() for results in known]

    def over(values: list[float | None]) -> Estimate:
        found = estimate(values)
        return found or Estimate(0.0, None, 0)

    budgets = [t["epsilon"] for t in totals if t["epsilon"] is not None]
    return Point(
        series=series,
        setting=setting,
        strength=strength,
        exact=sum(t["recovered"] for t in totals),
        images=sum(t["batch_size"] for t in totals),
        read=over([t["recovered"] / t["batch_size"] for t in totals]),
        psnr=over([middle(results.attacks, "psnr") for results in known]),
        ssim=over([middle(results.attacks, "ssim") for results in known]),
        labels=estimate(t["label_accuracy"] for t in totals),
        accuracy=over([t["accuracy"] for t in totals]),
        epsilon=max(budgets, default=None),
        link=same[0].link,
    )


def middle(rows: Iterable[AttackRow], name: str) -> float:
    """Return the median of a figure over all true images; one that was not found counts as 0."""
    values = [v or 0.0 for row in rows for v in getattr(row, name)]
    return median(values) if values else 0.0


def _named(run: Run, usual: dict[str, str], keys: list[str]) -> tuple[str, str, str]:
    """Return series, setting and strength of a run."""
    defence = run.keys.get("defense", "none")
    own = [k for k in keys if not k.startswith("defense") and run.keys.get(k) != usual[k]]
    titles = [] if defence == "none" else [title(name) for name in defence.split(" + ")]
    settings = [k for k in keys if k.startswith("defense.") and k in run.keys]
    if not settings:
        settings = [k for k in run.keys if k.startswith("defense.") and "_target_" not in k][:1]
    for key in own:
        if key.endswith(".name"):
            titles.append(title(run.keys[key]))
        else:
            settings = [*settings, key]
            titles += [] if titles else [title(key.rpartition(".")[2])]
    if not titles:
        return UNDEFENDED, "", ""
    name = " + ".join(titles)
    shown = [key.rpartition(".")[2] for key in settings]
    words = ", ".join(title(key) for key in shown if title(key) not in titles)
    return name[0].upper() + name[1:], words, ", ".join(_short(run.keys[k]) for k in settings)


def _short(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _order(point: Point) -> tuple[bool, str, float, str]:
    try:
        strength = float(point.strength)
    except ValueError:
        strength = 0.0
    return point.series != UNDEFENDED, point.series.lower(), strength, point.strength


def _beats(other: Point, point: Point) -> bool:
    """Tell whether another point leaks no more, costs no more, and is better in one of them."""
    mine = -point.ssim.mean, point.accuracy.mean
    theirs = -other.ssim.mean, other.accuracy.mean
    return theirs != mine and all(a >= b for a, b in zip(theirs, mine, strict=True))
