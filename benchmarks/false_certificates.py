"""Counts false certificates: inputs certified by the tensor attack that were not in the batch.

    python benchmarks/false_certificates.py --trials 10000 --workers 2
    python benchmarks/false_certificates.py --trials 2000 --kind alike   # harder: images of a kind
    python benchmarks/false_certificates.py --trials 2000 --kind deep    # near-copies, few outputs
    python benchmarks/false_certificates.py --trials 1000 --kind half    # in float16 and bfloat16
    python benchmarks/false_certificates.py --trials 2000 --kind wrappers  # see `wrapped_trials`
    python benchmarks/false_certificates.py --summary                    # what there is so far

Thousands of small random trials; see `certificate_trials`. A certified input further than 1 % from
every true one is a false certificate; the target is none. Every hundred finished trials add lines
to results/certificates/trials.csv and are not run again as long as the attack's code is the same.
"""

from __future__ import annotations

import argparse
import ast
import collections
import csv
import hashlib
import multiprocessing
from pathlib import Path

from rich.progress import track

from benchmarks.certificate_trials import ALIKE, BATCHES, DEEP, HALF, run
from benchmarks.wrapped_trials import KIND
from benchmarks.wrapped_trials import run as run_wrapper

RUNS = Path(__file__).parent / "results" / "certificates" / "trials.csv"
WRAPPED = RUNS.with_name("wrappers.csv")
ATTACKS = Path(__file__).parent.parent / "attacks"
CHUNK = 100
KEY = ("code", "kind", "first")
COUNTS = ("trials", "samples", "certified", "false", "crashed")
FIELDS = (*KEY, "corruption", *COUNTS)
WRAPPED_COUNTS = (*COUNTS, "readable", "read")
WRAPPED_FIELDS = ("code", "first", "dtype", *WRAPPED_COUNTS)

Row = dict[str, str]
Chunk = tuple[int, str | None]


def code(*folders: str) -> str:
    """Eight digits that stand for the attack as it is; comments and docstrings do not count.

    Trials on plain networks depend on the attack alone, those on wrapped ones on how models are
    read as well: `folders` of the attacks that count.
    """
    digest = hashlib.sha256()
    for path in (path for folder in folders for path in sorted((ATTACKS / folder).glob("*.py"))):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:8]


def _is_text(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def run_chunk(chunk: Chunk) -> tuple[Chunk, dict[str, collections.Counter[str]], list[str]]:
    """Counts of a hundred seeds per corruption, and what has to be looked at."""
    first, kind = chunk
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    remarks = []
    for seed in range(first, first + CHUNK):
        trial, certified, false, batch, worst = run(seed, kind)
        crashed = worst.startswith("crashed")
        counts[trial.corruption].update(
            trials=1, samples=batch, certified=certified, false=false, crashed=crashed
        )
        if crashed:
            remarks.append(f"{worst}: {trial}")
        if false:
            remarks.append(f"FALSE {false} of {certified} certified, worst {worst}: {trial}")
    return chunk, counts, remarks


def recorded() -> list[Row]:
    """All lines so far."""
    return _lines(RUNS)


def table(rows: list[Row]) -> str:
    """Totals per version of the code, kind and corruption."""
    totals: dict[tuple[str, str, str], collections.Counter[str]] = {}
    for row in rows:
        for corruption in (row["corruption"], "all"):
            key = (row["code"], row["kind"] or "any", corruption)
            totals.setdefault(key, collections.Counter()).update(
                {name: int(row[name]) for name in COUNTS}
            )
    lines = ["| code | batches | gradient | " + " | ".join(COUNTS) + " |"]
    lines.append("|" + "---|" * (3 + len(COUNTS)))
    for key, row in sorted(totals.items(), key=lambda item: (item[0][:2], item[0][2] != "all")):
        lines.append("| " + " | ".join([*key, *(str(row[name]) for name in COUNTS)]) + " |")
    return "\n".join(lines)


def wrapped_chunk(first: int) -> tuple[int, dict[str, collections.Counter[str]], list[str]]:
    """Counts of a hundred wrapped networks per dtype, and what has to be looked at."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    remarks = []
    for seed in range(first, first + CHUNK):
        o = run_wrapper(seed)
        counts[o.dtype].update(
            trials=1, samples=o.batch, certified=o.certified, false=o.false, crashed=o.crashed,
            readable=o.readable, read=o.whole,
        )  # fmt: skip
        if o.false or o.crashed or o.readable > o.whole:
            remarks.append(f"seed {seed}: {o}")
    return first, counts, remarks


def run_wrapped(options: argparse.Namespace) -> None:
    """Run the wrapped networks that are not there yet and print a table per dtype."""
    version = code("tensor", "reading", "features")
    rows = _lines(WRAPPED)
    done = {row["first"] for row in rows if row["code"] == version}
    firsts = range(options.first, options.first + options.trials, CHUNK)
    left = [] if options.summary else [first for first in firsts if str(first) not in done]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        outcomes = pool.imap_unordered(wrapped_chunk, left)
        for first, counts, remarks in track(outcomes, "hundreds", total=len(left)):
            print(*remarks, sep="\n", end="\n" * bool(remarks), flush=True)
            lines = [
                [version, first, dtype, *(int(row[name]) for name in WRAPPED_COUNTS)]
                for dtype, row in counts.items()
            ]
            _append(WRAPPED, WRAPPED_FIELDS, lines)
    totals: dict[tuple[str, str], collections.Counter[str]] = {}
    for row in _lines(WRAPPED):
        for dtype in (row["dtype"], "all"):
            numbers = {name: int(row[name]) for name in WRAPPED_COUNTS}
            totals.setdefault((row["code"], dtype), collections.Counter()).update(numbers)
    text = ["| code | client computes in | " + " | ".join(WRAPPED_COUNTS) + " |"]
    text.append("|" + "---|" * (2 + len(WRAPPED_COUNTS)))
    for key, row in sorted(totals.items(), key=lambda item: (item[0][0], item[0][1] != "all")):
        numbers = [str(row[name]) for name in WRAPPED_COUNTS]
        text.append("| " + " | ".join([*key, *numbers]) + " |")
    title = "# Networks written and run in random ways"
    WRAPPED.with_suffix(".md").write_text("\n".join([title, "", *text]) + "\n")
    print(*text, sep="\n")


def _lines(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(path: Path, fields: tuple[str, ...], lines: list[list[object]]) -> None:
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(fields)
        writer.writerows(lines)


def main() -> None:
    """Run the trials that are not there yet and print a table per corruption."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="rounded up to hundreds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--kind", choices=(*BATCHES, ALIKE, DEEP, HALF, KIND), help="of this kind only"
    )
    parser.add_argument("--summary", action="store_true", help="run nothing")
    options = parser.parse_args()
    if options.kind == KIND:
        run_wrapped(options)
        return
    version = code("tensor")
    done = {tuple(row[name] for name in KEY) for row in recorded()}
    firsts = range(options.first, options.first + options.trials, CHUNK)
    chunks = [
        (first, options.kind)
        for first in ([] if options.summary else firsts)
        if (version, options.kind or "", str(first)) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        outcomes = pool.imap_unordered(run_chunk, chunks)
        for (first, kind), counts, remarks in track(outcomes, "hundreds", total=len(chunks)):
            print(*remarks, sep="\n", end="\n" * bool(remarks), flush=True)
            lines = [
                [version, kind or "", first, corruption, *(int(row[name]) for name in COUNTS)]
                for corruption, row in counts.items()
            ]
            _append(RUNS, FIELDS, lines)
    text = table(recorded())
    (RUNS.parent / "table.md").write_text("# False certificates\n\n" + text + "\n")
    print(text)


if __name__ == "__main__":
    main()
