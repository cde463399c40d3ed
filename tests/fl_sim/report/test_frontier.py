"""Settings joined over seeds, protections told apart, the frontier that of both measures."""

import pytest

from fl_sim.records import TrainingRow
from fl_sim.report.frontier import UNDEFENDED, frontier
from fl_sim.report.frontier_chart import frontier_chart
from fl_sim.report.runs import find_runs, swept_axes
from fl_sim.report.strength_chart import strength_charts
from fl_sim.report.sweep import write_sweep_report
from tests.fl_sim.report.synthetic import attacked, write_run


def write(folder, accuracy, errors, epsilon=None, **scenario):
    results = write_run(folder, [attacked(0, errors)], **scenario)
    results.training.append(TrainingRow(9, 0.5, accuracy, epsilon))
    results.save(folder)


def prune(keep):
    return {"prune": {"_target_": "d.Prune", "keep": keep}}


@pytest.fixture
def sweep(tmp_path):
    for seed in (0, 1):
        step = 0.02 * seed
        settings = {
            "plain": (0.8, [1e-7] * 4, {}),
            "batch": (0.85, [1e-7] * 4, {"clients__batch_size": 64}),
            "sum": (0.8, [1e-7, 1e-7, None, None], {"strategy__name": "secure_aggregation"}),
            "weak": (0.79, [1e-7, 1e-7, 0.05, 0.05], {"defense": prune(0.9)}),
            "strong": (0.6, [None] * 4, {"defense": prune(0.1)}),
            "sign": (0.5, [None] * 4, {"defense": {"sign": {"_target_": "d.Sign"}}}),
        }
        for name, (accuracy, errors, scenario) in settings.items():
            write(tmp_path / f"{name}{seed}", accuracy + step, errors, seed=seed, **scenario)
    return tmp_path


def points_of(folder):
    runs = find_runs(folder)
    return {(p.series, p.strength): p for p in frontier(runs, swept_axes(runs))}


def test_a_point_joins_the_seeds_of_one_setting(sweep):
    points = points_of(sweep)
    assert list(points) == [
        (UNDEFENDED, ""), ("Batch size", "64"), ("Pruning", "0.1"), ("Pruning", "0.9"),
        ("Secure aggregation", ""), ("Sign compression", ""),
    ]  # fmt: skip
    weak = points["Pruning", "0.9"]
    assert (weak.exact, weak.images, weak.setting) == (4, 8, "keep")
    assert weak.accuracy.mean == pytest.approx(0.80)
    assert weak.accuracy.half == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert weak.read.mean == 0.5


def test_images_that_were_not_found_count_as_nothing(sweep):
    points = points_of(sweep)
    assert points["Secure aggregation", ""].psnr.mean == pytest.approx(70.0)  # half of 140 dB
    assert points["Pruning", "0.1"].ssim.mean == 0


def test_the_frontier_holds_what_no_other_beats(sweep):
    best = {key for key, point in points_of(sweep).items() if point.best}
    assert best == {("Batch size", "64"), ("Secure aggregation", ""), ("Pruning", "0.1")}


def test_the_largest_budget_of_the_seeds_is_shown(tmp_path):
    write(tmp_path / "plain", 0.8, [1e-7])
    for seed, epsilon in ((0, 3.0), (1, 4.0)):
        noisy = {"dp_sgd": {"_target_": "d.DpSgd", "noise_multiplier": 1.0, "delta": 1e-5}}
        write(tmp_path / str(seed), 0.3, [None], epsilon, defense=noisy, seed=seed)
    points = points_of(tmp_path)
    assert points["DP-SGD", "1"].epsilon == 4.0
    assert points["DP-SGD", "1"].setting == "noise multiplier"
    assert points[UNDEFENDED, ""].epsilon is None


def test_a_sweep_without_defences_has_no_frontier(tmp_path):
    for count in (2, 4):
        write(tmp_path / str(count), 0.8, [1e-7], clients__count=count)
    assert points_of(tmp_path) == {}
    assert "What protects" not in write_sweep_report(tmp_path).read_text()


def test_the_page_has_plot_and_table(sweep):
    page = write_sweep_report(sweep).read_text()
    assert "What protects, and what it costs" in page
    assert page.count("<tr class=best>") == 3
    assert "Pruning</a></td>" in page
    assert "keep 0.9" in page
    runs = find_runs(sweep)
    chart = frontier_chart(frontier(runs, swept_axes(runs)))
    assert "6 settings" in chart.words
    assert "pruning 0.1" in chart.words
    assert "Pruning (keep)" in chart.svg


@pytest.fixture
def noisy(tmp_path):
    """DP-SGD at five multipliers; exact reading ends at the third, any at the fourth."""
    found = [[1e-7] * 4, [1e-7, 0.1, 0.1, 0.1], [0.3] * 4, [0.97] * 4, [None] * 4]
    write(tmp_path / "plain", 0.8, [1e-7] * 4)
    for k, errors in enumerate(found):
        defence = {"dp_sgd": {"_target_": "d.DpSgd", "noise_multiplier": 10.0 ** (k - 4)}}
        write(tmp_path / str(k), 0.8 - 0.1 * k, errors, 10.0 ** (4 - k), defense=defence)
    return tmp_path


def test_a_defence_with_many_strengths_has_a_curve_with_its_budgets(noisy):
    (chart,) = strength_charts(list(points_of(noisy).values()))
    assert chart.title == "DP-SGD over its strength"
    assert "exactly from noise multiplier 0.01 on (accuracy 60.0 %, ε 100)" in chart.words
    assert "SSIM is below 0.1 from noise multiplier 0.1 on (accuracy 50.0 %, ε 10)" in chart.words
    assert "ε it buys" in chart.svg
    assert chart.title in write_sweep_report(noisy).read_text()


def test_few_strengths_have_none(sweep):
    assert strength_charts(list(points_of(sweep).values())) == []
