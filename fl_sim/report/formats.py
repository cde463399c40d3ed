"""Numbers as a reader wants them: short, with units, the same on every page."""

from __future__ import annotations

from fl_sim.evaluation.confidence import Estimate

NOTHING = "–"


def count(number: float | None) -> str:
    """Return an integer with thousands separated, a dash for None."""
    return NOTHING if number is None else f"{number:,.0f}"


def plural(number: int, noun: str, many: str = "") -> str:
    """Return "1 image", "2 images"; `many` where the plural is not noun + s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def share(value: float | None) -> str:
    """Return a ratio in [0, 1] as a percentage; never rounds up to 100 % or down to 0 %."""
    if value is None:
        return NOTHING
    percent = 100 * value
    if 0 < percent < 0.05:
        return "< 0.1 %"
    if 99.95 <= percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f}".removesuffix(".0") + " %"


def decibel(value: float | None) -> str:
    """Return a PSNR in dB."""
    return NOTHING if value is None else f"{value:.1f} dB"


def ratio(value: float | None) -> str:
    """Return a number in [0, 1] with three digits, e.g. an SSIM."""
    return NOTHING if value is None else f"{value:.3f}"


def loss(value: float | None) -> str:
    """Return a loss with three digits, a large one as "3.1e+09"."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if value < 1e4 else f"{value:.1e}"


def percent_within(value: Estimate | None) -> str:
    """Return a ratio's mean and confidence: "72.4 ± 1.3 %"."""
    return _within(value, 100.0, " %")


def decibel_within(value: Estimate | None) -> str:
    """Return a PSNR's mean and confidence: "43.1 ± 2.0 dB"."""
    return _within(value, 1.0, " dB")


def ratio_within(value: Estimate | None) -> str:
    """Return a number in [0, 1] with its confidence: "0.97 ± 0.02"."""
    return _within(value, 1.0, "", digits=2)


def _within(value: Estimate | None, scale: float, unit: str, digits: int = 1) -> str:
    if value is None:
        return NOTHING
    half = "" if value.half is None else f" ± {scale * value.half:.{digits}f}"
    return f"{scale * value.mean:.{digits}f}{half}{unit}"


def error(value: float | None) -> str:
    """Return a relative error: 0.25 as "0.25", small and large ones as "3.1e-7"."""
    if value is None:
        return NOTHING
    if value == 0 or 0.01 <= value < 1000:
        return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def seconds(value: float | None) -> str:
    """Return a duration: "0.42 s", "8.4 s", "3 min 05 s", "2 h 10 min"."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0 s"
    if value < 59.95:
        return f"{value:.2f} s" if value < 0.995 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def listing(words: list[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def number(value: float | None) -> str:
    """Return a mean of counts: "3", "0.67"."""
    return NOTHING if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def note(value: object) -> str:
    """Return a diagnostic as text; numbers with four digits, lists with at most eight entries."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = [note(entry) for entry in value[:8]]
        return ", ".join([*shown, f"… ({len(value)} in all)"] if len(value) > 8 else shown)
    if isinstance(value, dict):
        return ", ".join(f"{key} {note(entry)}" for key, entry in value.items())
    return str(value)
