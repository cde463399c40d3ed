import csv
import json
import os
import re

import pytest

from fl_sim.report.cli import run
from fl_sim.report.heatmap import first_choice, heat_map, sweep_data
from fl_sim.report.runs import find_runs, flatten, swept_axes
from fl_sim.report.sweep import write_sweep_report
from tests.fl_sim.report.synthetic import attacked, scenario, write_run


@pytest.fixture
def sweep(tmp_path):
    """Twelve runs: clients x activation x seed; tanh at 10 clients reads half."""
    for count in (2, 4, 10):
        for activation in ("relu", "tanh"):
            for seed in (0, 1):
                errors = [1e-7, 0.9 if (count, activation) == (10, "tanh") else 1e-6]
                write_run(
                    tmp_path / f"clients.count={count},model.activation={activation},seed={seed}",
                    [attacked(0, errors)],
                    clients__count=count,
                    model__activation=activation,
                    seed=seed,
                )
    return tmp_path


def axes_of(folder):
    return {axis.key: axis.values for axis in swept_axes(find_runs(folder))}


def test_swept_keys_are_those_that_differ(sweep):
    assert axes_of(sweep) == {
        "clients.count": ["2", "4", "10"],
        "model.activation": ["relu", "tanh"],
        "seed": ["0", "1"],
    }


def test_what_a_name_says_is_said_once(tmp_path):
    tensor = {"name": "tensor", "method": {"_target_": "a.Tensor", "starts": 4}}
    deep = {"name": "deep", "method": {"_target_": "a.Deep", "steps": 100}}
    write_run(tmp_path / "a", attack=tensor, sweep={"resume": True})
    write_run(tmp_path / "b", attack=deep, sweep={"resume": False})
    assert axes_of(tmp_path) == {"attack.name": ["tensor", "deep"]}
    write_run(tmp_path / "c", attack={**deep, "method": {"_target_": "a.Deep", "steps": 7}})
    assert axes_of(tmp_path) == {
        "attack.name": ["tensor", "deep"],
        "attack.method.steps": ["7", "100"],
    }


def test_defences_are_one_axis_and_their_parameters_others(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", defense={"clip": {"_target_": "d.Clip", "norm": 1.0}})
    assert axes_of(tmp_path) == {"defense": ["none", "clip"]}
    write_run(tmp_path / "c", defense={"clip": {"_target_": "d.Clip", "norm": 0.1}})
    assert axes_of(tmp_path) == {"defense": ["none", "clip"], "defense.clip.norm": ["0.1", "1.0"]}


def test_flatten_keeps_lists_as_values():
    flat = flatten(scenario(attack__knows=["labels"]))
    assert flat["attack.knows"] == '["labels"]'
    assert flat["defense"] == "none"


def test_heat_maps_average_over_the_other_keys(sweep):
    runs = find_runs(sweep)
    axes = swept_axes(runs)
    data = sweep_data(runs, axes)
    assert first_choice(data) == (0, 1)
    drawn = heat_map(data, 0, 1)
    assert [(head, [cell.text for cell in cells]) for head, cells in drawn.rows] == [
        ("relu", ["100 %", "100 %", "100 %"]),
        ("tanh", ["100 %", "100 %", "50 %"]),
    ]
    assert drawn.rows[1][1][2].words == "mean of 2 runs"
    assert drawn.averaged.endswith("that differ only in seed: their mean value.")
    assert [cell.level for cell in drawn.rows[1][1]] == [10, 10, 5]
    alone = heat_map(data, 2, None)
    assert [cell.text for cell in alone.rows[0][1]] == ["91.7 %", "91.7 %"]


def test_a_cell_of_one_run_leads_to_it_and_an_empty_one_says_so(tmp_path):
    for count, batch in ((2, 8), (4, 16)):
        folder = tmp_path / f"clients.count={count}, batch #{batch}"
        write_run(folder, [attacked(0, [1e-7])], clients__count=count, clients__batch_size=batch)
    runs = find_runs(tmp_path)
    drawn = heat_map(sweep_data(runs, swept_axes(runs)), 0, 1)
    cells = [cell for _, row in drawn.rows for cell in row]
    assert [cell.text for cell in cells] == ["100 %", "no run", "no run", "100 %"]
    assert cells[0].link == "clients.count%3D2%2C%20batch%20%238/report.html"
    assert cells[1].level is None


def test_the_page_links_every_run_and_the_csv_has_a_row_for_each(sweep):
    page = write_sweep_report(sweep).read_text()
    assert page.count("/report.html") >= 12
    assert "read private images exactly, 22 of 24 in all" in page
    for link in set(re.findall(r'href="([^"]+/report\.html)"', page)):
        assert (sweep / link.replace("%3D", "=").replace("%2C", ",")).is_file()
    data = json.loads(re.search(r'id="sweep-data">(.*?)</script>', page).group(1))
    assert len(data["runs"]) == 12
    with (sweep / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    assert rows[0]["clients.count"] == "2"
    assert {row["recovered"] for row in rows} == {"1", "2"}
    assert all(row["status"] == "complete" for row in rows)


def test_failed_broken_and_missing_runs_are_listed(sweep, capsys):
    write_run(sweep / "x", status="failed", message="The lion is out.")
    (sweep / "y").mkdir()
    (sweep / "y" / "results.json").write_text('{"schema": 1,')
    (sweep / "z" / ".hydra").mkdir(parents=True)
    (sweep / "z" / ".hydra" / "overrides.yaml").write_text("[]\n")
    page = write_sweep_report(sweep).read_text()
    told = capsys.readouterr().err
    assert "3 of 15 runs did not complete." in page
    for words in ("The lion is out.", "not a readable results file", "It left no results.json."):
        assert words in page
    assert "y: results.json is not a readable results file" in told
    assert "z: It left no results.json." in told
    with (sweep / "sweep.csv").open() as stream:
        ends = {row["run"]: row["status"] for row in csv.DictReader(stream)}
    assert (ends["x"], ends["y"], ends["z"]) == ("failed", "unreadable", "missing")


def test_runs_that_do_not_differ_have_no_heat_map(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "deep" / "er" / "b")
    page = write_sweep_report(tmp_path).read_text()
    assert "2 runs, in which no image was attacked." in page
    assert 'id="heat"' not in page


def test_a_swept_key_does_not_hide_a_total_of_the_same_name(tmp_path):
    write_run(tmp_path / "a", loss="mse")
    write_run(tmp_path / "b", loss="cross_entropy")
    write_sweep_report(tmp_path)
    with (tmp_path / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["scenario.loss"] for row in rows] == ["mse", "cross_entropy"]
    assert rows[0]["loss"] == "1.5"


def test_cli_reports_a_run_or_a_sweep(sweep, capsys):
    one = sweep / "clients.count=2,model.activation=relu,seed=0"
    assert run([str(one)]) == 0
    assert capsys.readouterr().out.strip() == str(one / "report.html")
    assert run([str(sweep)]) == 0
    assert capsys.readouterr().out.strip() == str(sweep / "sweep.html")


def test_cli_refuses_what_is_no_folder_of_runs(tmp_path, capsys):
    (tmp_path / "begun" / ".hydra").mkdir(parents=True)
    (tmp_path / "begun" / ".hydra" / "overrides.yaml").write_text("[]\n")
    (tmp_path / "empty").mkdir()
    nothing = "No results.json in or below"
    for folder, words in (("gone", "not a folder."), ("empty", nothing), ("begun", nothing)):
        assert run([str(tmp_path / folder)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("fl-sim-report: ")
        assert words in told
        assert told.count("\n") == 1


def test_reports_of_runs_are_renewed_when_they_are_old(sweep):
    one = sweep / "clients.count=2,model.activation=relu,seed=0"
    write_sweep_report(sweep)
    before = (one / "report.html").read_text()
    write_run(one, [attacked(0, [0.9, 0.9])])
    os.utime(one / "report.html", (0, 0))
    write_sweep_report(sweep)
    assert (one / "report.html").read_text() != before


def test_every_run_says_what_stood_in_the_way_of_more(tmp_path):
    reason = "400 features do not determine 784 pixels."
    rows = [attacked(0, [0.5], message=reason), attacked(1, [1e-6])]
    write_run(tmp_path / "seed=0", rows, seed=0)
    write_run(tmp_path / "seed=1", [attacked(0, [1e-6])], seed=1)
    page = write_sweep_report(tmp_path).read_text()
    assert page.count(f"1 of 2 attacks: {reason}") == 1
    with (tmp_path / "sweep.csv").open() as stream:
        told = [row["message"] for row in csv.DictReader(stream)]
    assert told == [f"1 of 2 attacks: {reason}", ""]


def test_a_run_whose_report_fails_does_not_take_the_sweeps_page_down(sweep, monkeypatch, capsys):
    from fl_sim.report import sweep as module

    def picky(folder):
        if "tanh" in folder.name:
            raise TypeError("The lion is out.")

    monkeypatch.setattr(module, "write_report", picky)
    assert run([str(sweep)]) == 0
    assert (sweep / "sweep.html").is_file()
    assert capsys.readouterr().err.count("its report failed: TypeError: The lion is out.") == 6
