import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fl_sim.report.page import write_report
from fl_sim.report.sweep import write_sweep_report
from tests.fl_sim.report.synthetic import attacked, write_run

CHECK = Path(__file__).parents[3] / ".ci" / "check_report.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and CHECK.exists()), reason="needs Chromium and .ci/"
    ),
]


def check(*pages):
    return subprocess.run(
        [sys.executable, str(CHECK), *map(str, pages)], capture_output=True, text=True, timeout=300
    )


def test_reports_pass_in_a_real_browser(tmp_path):
    write_run(tmp_path / "none", status="failed", message="The disk is full.")
    for count in (2, 4):
        for activation in ("relu", "tanh", "gelu"):
            errors = [1e-7, 0.02 * count, None]
            write_run(
                tmp_path / "sweep" / f"clients.count={count},model.activation={activation}",
                [
                    attacked(k, errors, [True, count == 4, False], round_number=1 + k)
                    for k in (0, 1)
                ],
                training=3,
                clients__count=count,
                model__activation=activation,
            )
    page = write_sweep_report(tmp_path / "sweep")
    done = check(page, write_report(tmp_path / "none"), *sorted(page.parent.glob("*/report.html")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed, 0 failed" in done.stdout


def test_the_check_itself_finds_what_is_wrong(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><title>x</title><h1>" + "word " * 40 + "</h1>"
        '<p style="color:#bbb">pale</p><img src="gone.png" alt="gone"><p style="width:3000px">wide'
        "<script>console.log('chatter'); broken()</script>"
    )
    done = check(page)
    assert done.returncode == 1
    for words in ("poor contrast", "not decoded: gone", "wider than", "console log: chatter",
                  "exception: ReferenceError", "request for file:"):  # fmt: skip
        assert words in done.stdout
