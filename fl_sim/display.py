"""What the terminal shows: a progress bar while a run works, a table and a verdict at its end."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from fl_sim.config import ScenarioConfig
from fl_sim.records import AttackRow, Results, TrainingRow
from fl_sim.report.verdict import judge

MAX_ROWS = 20
"""Rows of the final table; longer ones end with a line that says what was left out."""


class Display:
    """Shows one run on a terminal.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; by default the standard output.
    brief : bool, default False
        Print one line at the end instead of the table, as a sweep wants it.
    title : str, default ""
        What the one line starts with.
    """

    def __init__(
        self, console: Console | None = None, brief: bool = False, title: str = ""
    ) -> None:
        self.console = console or Console(highlight=False)
        self.brief = brief
        self.title = title
        self._rounds = 1
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def started(self, config: ScenarioConfig) -> None:
        """Open the progress bar; its steps are the rounds' attacks and trainings."""
        self._rounds = config.rounds
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        attacked = config.rounds if config.attack.rounds is None else len(config.attack.rounds)
        each = min(config.clients.per_round, config.attack.most or config.clients.per_round)
        total = config.rounds + attacked * each
        self._task = self._progress.add_task(f"round 1 of {config.rounds}", total=total)
        self._progress.start()

    def attacked(self, row: AttackRow) -> None:
        """One more reply has been attacked."""
        if self._progress is not None:
            read = f"{row.subject}: {row.recovered} of {row.batch_size}"
            description = f"round {row.round} of {self._rounds}, {read}"
            self._progress.update(self._task, advance=1, description=description)

    def trained(self, row: TrainingRow) -> None:
        """One more round has ended; round 0 is the initial model."""
        if self._progress is not None and row.round > 0:
            self._progress.update(self._task, advance=1)

    def finished(self, results: Results, report: Path | None) -> None:
        """Close the progress bar and print what came out, and where its page is if there is one."""
        if self._progress is not None:
            self._progress.stop()
        verdict = judge(results)
        if self.brief:
            told = verdict.headline if results.status == "complete" else f"{results.status} after"
            self._say(f"{self.title}{told} {results.wall_seconds:.1f} s.", wrap=False)
            return
        if results.attacks:
            self.console.print(attack_table(results))
        if results.training:
            last = results.training[-1]
            self._say(f"Test accuracy {last.accuracy:.1%} after round {last.round}.")
        self._say(verdict.headline, f" {results.wall_seconds:.1f} s in all.", style="bold")
        for note in verdict.notes:
            self._say(note.text)
        if report is not None:
            self._say(f"Report: {report}", wrap=False)

    def skipped(self, results: Results) -> None:
        """Print that a job had been done before."""
        self._say(f"{self.title}{judge(results).headline} Done before.", wrap=False)

    def _say(self, text: str, rest: str = "", style: str = "", wrap: bool = True) -> None:
        """Print a line, its first part in a style; nothing in it is read as markup."""
        self.console.print(Text.assemble((text, style), rest), soft_wrap=not wrap)


def attack_table(results: Results) -> Table:
    """Return the rows of a run as a table for the terminal, within 80 columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, caption_justify="left")
    wrong = any(row.false_certificates for row in results.attacks)
    false = ["false"] if wrong else []
    names = ["round", "client", "read", "certified", *false, "labels", "PSNR", "error", "time"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in results.attacks[:MAX_ROWS]:
        psnr = [v for v in row.psnr if v is not None]
        errors = [v for v in row.relative_error if v is not None]
        read = f"{row.recovered} of {row.batch_size}"
        table.add_row(
            str(row.round),
            f"{len(row.clients)} in one" if row.clients else str(row.client),
            read if row.status == "ok" or row.recovered else row.status.replace("_", " "),
            str(row.certified),
            *([str(row.false_certificates)] if wrong else []),
            "-" if row.label_accuracy is None else f"{row.label_accuracy:.0%}",
            f"{median(psnr):.0f} dB" if psnr else "-",
            f"{max(errors):.0e}" if errors else "-",
            f"{row.seconds:.1f} s",
        )
    if (more := len(results.attacks) - MAX_ROWS) > 0:
        table.caption = f"and {more} more rows in results.json"
    return table
