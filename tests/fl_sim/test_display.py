"""What the terminal shows is what was said: no part of it is taken for markup."""

import io

import pytest
from rich.console import Console

from fl_sim.display import Display
from fl_sim.records import Results, TrainingRow
from tests.fl_sim.report.synthetic import attacked, scenario

FOREIGN = "IndexError: [/foo] grant it with attack.knows=[batch_size] :smile:"


@pytest.mark.parametrize("brief", [False, True])
def test_foreign_text_is_shown_as_it_is(tmp_path, brief):
    row, _ = attacked(0, [None], status="attack_failed", message=FOREIGN)
    results = Results(scenario(), [row], [TrainingRow(1, None, 0.4)], "complete")
    stream = io.StringIO()
    console = Console(file=stream, width=400, force_terminal=True, color_system=None)
    display = Display(console, brief, title="[1/2] defense=[clip,sign]: ")
    display.finished(results, tmp_path / "[bold]" / "report.html")
    told = stream.getvalue()
    if brief:
        assert told.startswith("[1/2] defense=[clip,sign]: The server did not read")
    else:
        assert FOREIGN in told
        assert "[bold]/report.html" in told
