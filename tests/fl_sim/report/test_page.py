import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fl_sim.records import GALLERY_FILE, Gallery, Results, TrainingRow
from fl_sim.report.charts import VARIABLES, charts
from fl_sim.report.gallery import PAIRS, batches
from fl_sim.report.page import command_of, write_report
from fl_sim.report.trajectory import binomial, trajectory_chart
from tests.fl_sim.report.synthetic import attacked, write_run


class Links(HTMLParser):
    """Collects what a page would load, and checks that its elements close."""

    def __init__(self):
        super().__init__()
        self.loads, self.images, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        content = dict(attributes)
        self.loads += [content[k] for k in ("src", "data", "poster") if k in content]
        if tag == "link":
            self.loads.append(content["href"])
        if tag == "img":
            self.images.append(content)
        if tag not in {"img", "meta", "link", "br", "path", "use", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag in self.open:
            raise AssertionError(f"</{tag}> closes <{self.open[-1]}>")


def read(path):
    page = path.read_text()
    links = Links()
    links.feed(page)
    return page, links


def test_a_report_is_one_file_with_verdict_scenario_images_and_table(tmp_path):
    write_run(tmp_path, [attacked(0, [1e-7, None, 0.5]), attacked(1, [1e-6], client=3)])
    page, links = read(write_report(tmp_path))
    assert "The server read 2 of 4 private images exactly, all certified." in page
    assert "each training a 2-layer GELU network of width 64" in page
    assert len(links.images) == 1 + 4 + 3  # contact sheet, truths, reconstructions
    assert all(image["src"].startswith("data:image/png;base64,") for image in links.images)
    assert all(image["alt"] for image in links.images)
    assert all(load.startswith("data:") for load in links.loads)
    assert not re.search(r"url\((?!#)|@import", page)
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert page.count('class="lost"') == 1
    assert not links.open


@pytest.mark.parametrize("status", ["failed", "interrupted", "running", "complete"])
def test_a_run_without_attacks_has_a_report(tmp_path, status):
    write_run(tmp_path, status=status, message="The disk is full.")
    page, links = read(write_report(tmp_path))
    assert not links.images
    assert ("The disk is full." in page) == (status != "complete")


def test_a_damaged_gallery_is_named_and_not_fatal(tmp_path):
    write_run(tmp_path, [attacked(0, [1e-7])])
    (tmp_path / GALLERY_FILE).write_bytes(b"PK nonsense")
    page, links = read(write_report(tmp_path))
    assert f"{GALLERY_FILE} is damaged" in page
    assert not links.images
    assert "The server read 1 of 1 private image exactly, certified." in page


def test_what_comes_from_a_run_is_escaped(tmp_path):
    write_run(tmp_path, status="failed", message="<script>alert(1)</script>", data__name="<b>&")
    page, _ = read(write_report(tmp_path))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;&amp;" in page


def test_a_run_without_results_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results\.json is not a readable results file"):
        write_report(tmp_path)


def test_remarks_and_diagnostics_of_an_attack_are_shown(tmp_path):
    told = attacked(0, [None], message="Only rank 1 was found.", info={"rank": 1})
    write_run(tmp_path, [told])
    page, _ = read(write_report(tmp_path))
    assert "The attack remarks: Only rank 1 was found." in page
    assert "<code>rank</code></dt><dd>1</dd>" in page


def test_the_command_of_a_run(tmp_path):
    assert command_of(tmp_path) == ""
    (tmp_path / ".hydra").mkdir()
    overrides = tmp_path / ".hydra" / "overrides.yaml"
    overrides.write_text("- model.width=64\n- 'data.root=/a b'\n")
    assert command_of(tmp_path) == "fl-sim model.width=64 'data.root=/a b'"
    overrides.write_text("[")
    assert command_of(tmp_path) == ""


def test_a_long_gallery_stays_small_and_says_what_it_leaves_out(tmp_path):
    many = [attacked(k, [1e-7] * 40, client=k) for k in range(PAIRS // 20)]
    results = write_run(tmp_path, many)
    made = batches(Results.load(tmp_path), Gallery.load(tmp_path))
    assert sum(len(batch.pairs) for batch in made) <= PAIRS
    assert all(len(batch.pairs) + batch.hidden == 40 for batch in made)
    assert made[0].open
    assert not made[-1].open
    assert len(made) == len(results.attacks)
    page, _ = read(write_report(tmp_path))
    assert "20 further images of this batch are only in" in page


def test_unmatched_reconstructions_are_shown(tmp_path):
    row, gallery = attacked(0, [None])
    gallery.extra = np.zeros((1, 1, 6, 5), np.float32)
    gallery.extra_row, gallery.extra_certified = np.zeros(1, np.int64), np.zeros(1, bool)
    write_run(tmp_path, [(row, gallery)])
    page, _ = read(write_report(tmp_path))
    assert "1 reconstruction that is no image of this client" in page
    assert 'alt="Unmatched reconstruction 1"' in page


def test_curves_take_their_colours_and_fonts_from_the_page(tmp_path):
    rows = [attacked(k, [1e-7, 0.5], round_number=1 + k) for k in range(2)]
    made = charts(write_run(tmp_path, rows, training=3))
    assert [chart.title for chart in made] == [
        "Error of each image",
        "Images read per round",
        "Accuracy of the global model",
        "Loss of the global model",
    ]
    for chart in made:
        assert not any(colour in chart.svg for colour in VARIABLES)
        assert "var(--ink)" in chart.svg or "var(--leak)" in chart.svg
        assert "font-family" not in chart.svg
        assert "<style" not in chart.svg
    ids = [name for chart in made for name in re.findall(r'\bid="([^"]+)"', chart.svg)]
    assert len(ids) == len(set(ids))
    assert made[0].words.startswith("2 of 4 matched images")


def test_the_same_run_gives_the_same_page(tmp_path):
    write_run(tmp_path, [attacked(0, [1e-7, 0.5])], training=3)
    assert write_report(tmp_path).read_bytes() == write_report(tmp_path).read_bytes()


def test_a_run_of_several_rounds_shows_its_trajectory(tmp_path):
    """Reading gets worse from round to round; two clients each."""
    rows = [
        attacked(2 * r + c, [1e-7] * (4 - r) + [None] * (r + c), client=c, round_number=r)
        for r in (1, 2, 3)
        for c in (0, 1)
    ]
    write_run(tmp_path, rows, training=4)
    results = Results.load(tmp_path)
    chart = trajectory_chart(results)
    assert "Read in round 1: 67.5 ± 95.3 %" in chart.words  # 3 of 4 and 3 of 5, t = 12.706
    assert "accuracy from 10 % to > 99.9 %" in chart.words
    page, _ = read(write_report(tmp_path))
    assert "Leakage and accuracy as the model trains" in page
    results.attacks = results.attacks[:4]
    assert trajectory_chart(results) is None, "two rounds are no trajectory"


def test_an_accuracy_of_one_half_over_100_images_is_known_to_ten_percent():
    assert binomial(TrainingRow(1, 1.0, 0.5, tested=100)).half == pytest.approx(0.098)
    assert binomial(TrainingRow(1, 1.0, 0.5)).half is None


def test_a_loss_that_is_no_number_has_a_page(tmp_path):
    results = write_run(tmp_path, training=3)
    results.training[1].loss = results.training[2].loss = None
    results.save(tmp_path)
    page, _ = read(write_report(tmp_path))
    assert "2.000 to –, from round 0 to round 2. It is no finite number in 2 rounds." in page


def test_a_huge_loss_is_short(tmp_path):
    results = write_run(tmp_path, training=3)
    results.training[2].loss = 3.14e30
    results.save(tmp_path)
    assert "2.000 to 3.1e+30, from" in write_report(tmp_path).read_text()


def test_a_sum_over_clients_is_called_that(tmp_path):
    write_run(tmp_path, [attacked(0, [1e-7, 1e-6], client=-1, clients=[0, 2, 3])])
    page, _ = read(write_report(tmp_path))
    assert "<h3>3 clients, round 1</h3>" in page
    assert '<td data-sort="-1">3 clients</td>' in page
    assert "Client -1" not in page


def test_a_run_that_ended_early_says_how_many_rounds_there_were(tmp_path):
    stopped = {"status": "interrupted", "message": "Stopped by the user.", "rounds": 60}
    write_run(tmp_path, [attacked(0, [1e-7], round_number=3)], **stopped)
    page = write_report(tmp_path).read_text()
    assert "In the first 3 of 60 rounds, 2 of 4 clients" in page
    assert "In each of 60 rounds" not in page
    write_run(tmp_path, training=1, **stopped)
    assert "The plan: In each of 60 rounds" in write_report(tmp_path).read_text()
