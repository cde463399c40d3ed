"""Curves as inline SVG whose colours are the page's CSS variables, so that they follow its theme.

Matplotlib draws with stand-in colours, one per variable; the SVG text then says `var(--name)` in
their place. Text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_sim.records import EXACT, AttackRow, Results, TrainingRow
from fl_sim.report.formats import loss as loss_of
from fl_sim.report.formats import plural, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fl_sim.evaluation.confidence import Estimate

INK, SOFT, LINE, LEAK, SEAL, BACK = (f"#0000{k:02x}" for k in range(0xA1, 0xA7))
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", LEAK: "leak", SEAL: "seal", BACK: "card"}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.labelcolor": SOFT,
}


@dataclass(frozen=True)
class Chart:
    """A drawing for the page: its title, the SVG, and what it shows in words (for alt text)."""

    title: str
    svg: str
    words: str


def charts(results: Results, rounds: bool = True) -> list[Chart]:
    """Return the curves a run has data for, those over its rounds only if asked."""
    made = []
    if any(e is not None for row in results.attacks for e in row.relative_error):
        made.append(error_chart(results.attacks))
    if rounds and len({row.round for row in results.attacks}) > 1:
        made.append(recovery_chart(results.attacks))
    if rounds and max((row.round for row in results.training), default=0) > 1:
        made += training_charts(results.training)
    return made


def error_chart(rows: list[AttackRow]) -> Chart:
    """Draw how the relative errors of all matched images are distributed, on a log axis."""
    errors = [e for row in rows for e in row.relative_error if e is not None]
    missing = sum(e is None for row in rows for e in row.relative_error)
    logs = np.log10(np.maximum(errors, 1e-16))
    exact = int((logs <= math.log10(EXACT)).sum())
    low = min(-3.0, math.floor(logs.min()))
    high = max(0.0, math.ceil(logs.max()))
    bins = np.linspace(low, high, round((high - low) * 4) + 1).tolist()

    def draw(axes: Axes) -> None:
        axes.hist(logs[logs <= math.log10(EXACT)], bins, color=LEAK, rwidth=0.86)
        axes.hist(logs[logs > math.log10(EXACT)], bins, color=SOFT, rwidth=0.86)
        axes.axvline(math.log10(EXACT), color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.text(
            math.log10(EXACT), 1.02, "← exact ", ha="right", transform=axes.get_xaxis_transform()
        )
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(whole_numbers())
        axes.xaxis.set_major_formatter(lambda x, _: f"1e{round(x)}")
        axes.yaxis.set_major_locator(whole_numbers())
        axes.set_xlabel("relative error")
        axes.set_ylabel("images")

    gone = f", {missing:,} were not found" if missing else ""
    words = (
        f"{exact:,} of {plural(len(errors), 'matched image')} have a relative error of at most "
        f"{EXACT:g}; the median is {np.median(errors):.1e}{gone}."
    )
    return Chart("Error of each image", _svg(draw, "errors"), words)


def recovery_chart(rows: list[AttackRow]) -> Chart:
    """Draw the images read exactly in each round, of those attacked."""
    read: dict[int, int] = defaultdict(int)
    total: dict[int, int] = defaultdict(int)
    for row in rows:
        read[row.round] += row.recovered
        total[row.round] += row.images
    rounds = sorted(total)

    def draw(axes: Axes) -> None:
        wide: dict[str, Any] = {"width": 0.72, "linewidth": 0.8}
        axes.bar(rounds, [total[r] for r in rounds], color=BACK, edgecolor=SOFT, **wide)
        axes.bar(rounds, [read[r] for r in rounds], color=LEAK, edgecolor=LEAK, **wide)
        axes.xaxis.set_major_locator(whole_numbers())
        axes.yaxis.set_major_locator(whole_numbers())
        axes.set_xlabel("round")
        axes.set_ylabel("images read, of those attacked")

    told = "; ".join(f"round {r}: {read[r]} of {total[r]}" for r in rounds[:24])
    more = "; and so on" if len(rounds) > 24 else ""
    return Chart("Images read per round", _svg(draw, "recovered"), f"{told}{more}.")


def training_charts(rows: list[TrainingRow]) -> list[Chart]:
    """Draw the global model's accuracy and loss over the rounds."""
    rounds = [row.round for row in rows]
    first, last = rows[0], rows[-1]
    without = sum(row.loss is None for row in rows)

    def curve(values: list[float], label: str, percent: bool) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            axes.plot(rounds, values, color=INK, marker="o", markeredgecolor=BACK)
            axes.xaxis.set_major_locator(whole_numbers())
            if percent:
                axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
            axes.set_xlabel("round")
            axes.set_ylabel(label)

        return draw

    accuracy = curve([row.accuracy for row in rows], "test accuracy", True)
    loss = curve([math.nan if row.loss is None else row.loss for row in rows], "test loss", False)
    span = f"from round {first.round} to round {last.round}"
    gaps = f" It is no finite number in {plural(without, 'round')}." if without else ""
    return [
        Chart(
            "Accuracy of the global model",
            _svg(accuracy, "accuracy"),
            f"{share(first.accuracy)} to {share(last.accuracy)}, {span}.",
        ),
        Chart(
            "Loss of the global model",
            _svg(loss, "loss"),
            f"{loss_of(first.loss)} to {loss_of(last.loss)}, {span}.{gaps}",
        ),
    ]


def whole_numbers() -> Any:
    """Return a locator that puts ticks at few whole numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=7, integer=True)


@contextmanager
def _style(salt: str) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        yield


def _svg(draw: Callable[[Axes], None], name: str) -> str:
    """Return a drawing on one pair of axes as an <svg> element."""

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)

    return drawing(fill, name)


def band(
    axes: Axes, x: Sequence[float], values: list[Estimate], color: str, label: str, style: Any
) -> None:
    """Draw means joined by a line, and their intervals, cut to [0, 1], as a band."""
    means = [v.mean for v in values]
    low = [max(0.0, v.mean - (v.half or 0.0)) for v in values]
    high = [min(1.0, v.mean + (v.half or 0.0)) for v in values]
    axes.fill_between(x, low, high, color=color, alpha=0.14, linewidth=0)
    axes.plot(x, means, color=color, linestyle=style, marker="o", markeredgecolor=BACK, label=label)


def drawing(
    fill: Callable[[Figure], None], name: str, size: tuple[float, float] = (5.2, 2.9)
) -> str:
    """Return a figure as an <svg> element that is as wide as its container.

    Parameters
    ----------
    fill : callable (Figure)
        Draws, in the colours of `VARIABLES`.
    name : str
        Unique on its page.
    size : tuple of two floats
        In inches; text has 9 points.
    """
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        fill(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(stream.getvalue(), name)


def _inline(document: str, name: str) -> str:
    """Strip an SVG document to an element for a page: no prolog, own ids, colours as variables."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg xmlns:xlink="[^"]*" ', "<svg ", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
