"""What is said of the data reaches whoever runs: terminal, results.json, page and sweep page."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fl_sim.records import Results
from fl_sim.report.verdict import judge, judge_sweep

TINY = ("clients.count=2", "clients.per_round=1", "clients.batch_size=2", "model.width=32",
        "tracker=none", "attack=analytic")  # fmt: skip


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "fl_sim", "data=image_folder", *arguments, *TINY],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes: 12 bits in 16, and bytes in a folder whose name is markup; and odd files."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("<b>x<", "[red]ünï"):
        (root / name).mkdir()
        for k in range(5):
            wide = generator.integers(4096, size=(6, 6)).astype(np.uint16)
            wide[0, 0] = 4095
            Image.fromarray(wide if k else (wide // 16).astype(np.uint8)).save(
                root / name / f"{k}.png"
            )
    Image.new("L", (6, 6)).save(root / "<i>loose<.png")
    (root / ".DS_Store").write_text("")
    (root / "\x1b[31mnotes.txt").write_text("")
    return root


@pytest.mark.slow
def test_a_run_says_it_everywhere_and_escapes_it(pictures, tmp_path):
    done = run(tmp_path, f"data.root={pictures}", "data.source.size=6", "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    notes = json.loads((tmp_path / "out" / "results.json").read_text())["data_notes"]
    assert notes == [
        "Left out: loose pictures beside the folders (<i>loose<.png).",
        "Left out: hidden files and folders (.DS_Store).",
        "Left out: files that are no pictures, by their suffix (\\x1b[31mnotes.txt).",
        "Values of pictures of whole numbers beyond 8 bits (<b>x</1.png, <b>x</2.png, "
        "<b>x</3.png and 5 more): 0 is black and 4,095 white, the range of the 12 bits that hold "
        "the largest, 4,095.",
    ]
    shown = " ".join(done.stdout.split())
    assert all(note in shown for note in notes)
    assert "\x1b" not in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "(&lt;i&gt;loose&lt;.png)" in page
    assert "(&lt;b&gt;x&lt;/1.png, " in page
    assert "<i>loose" not in page
    assert "<b>x" not in page


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_ends_the_run_in_one_sentence(pictures, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run(tmp_path, "data.root=root")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("fl-sim: root/a/x.png is not a readable picture: ")
    assert done.stderr.count("\n") == 1


def test_notes_follow_what_is_more_serious():
    results = Results({}, status="failed", message="No disk left.", data_notes=["One.", "Two."])
    notes = [(note.kind, note.text) for note in judge(results).notes]
    assert notes[0][0] == "warning"
    assert notes[1:] == [("plain", "One."), ("plain", "Two.")]


def test_a_sweep_says_each_note_once():
    runs = [Results({}, status="complete", data_notes=notes) for notes in (["A."], ["A.", "B."])]
    assert [note.text for note in judge_sweep(runs, 2).notes] == ["A.", "B."]


def test_notes_survive_the_file(tmp_path):
    Results({}, data_notes=["ünï <b>."]).save(tmp_path)
    assert Results.load(tmp_path).data_notes == ["ünï <b>."]
    content = json.loads((tmp_path / "results.json").read_text())
    del content["data_notes"]  # as runs before notes were kept
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert Results.load(tmp_path).data_notes == []
