from fl_sim.records import Results, TrainingRow
from fl_sim.report.charts import recovery_chart
from fl_sim.report.figures import key_figures
from fl_sim.report.verdict import judge, judge_sweep
from tests.fl_sim.report.synthetic import attacked, scenario


def results(*attacks, status="complete", message=""):
    return Results(
        scenario(), [row for row, _ in attacks], [TrainingRow(1, 1.5, 0.4)], status, message, 2.0
    )


def test_everything_read_and_certified():
    verdict = judge(results(attacked(0, [1e-7, 1e-6]), attacked(1, [1e-7])))
    assert verdict.headline == "The server read 3 of 3 private images exactly, all certified."
    assert (verdict.tone, verdict.read, verdict.total, verdict.notes) == ("leak", 3, 3, [])


def test_a_part_read_is_no_more_than_a_part():
    verdict = judge(results(attacked(0, [1e-7, 1e-6, None], certified=[True, False, False])))
    assert verdict.headline == "The server read 2 of 3 private images exactly, 1 of them certified."
    assert verdict.tone == "partial"


def test_nothing_read():
    verdict = judge(results(attacked(0, [0.9, None])))
    assert verdict.headline == "The server read none of 2 private images exactly."
    assert verdict.tone == "safe"


def test_close_images_are_not_called_safe():
    verdict = judge(results(attacked(0, [0.05, 0.9])))
    assert verdict.tone == "partial"
    assert verdict.notes[-1].text.startswith("1 image came back close")


def test_false_certificates_are_in_the_headline_and_an_alarm():
    verdict = judge(results(attacked(0, [1e-7, 0.5], certified=[True, True])))
    assert verdict.headline.endswith("1 of its 2 certificates is false.")
    assert verdict.notes[0].kind == "alarm"


def test_an_attack_that_failed_does_not_mean_safety():
    verdict = judge(results(attacked(0, [None], status="attack_failed", message="It broke.")))
    assert verdict.tone == "open"
    assert "says nothing about the clients' safety. It broke." in verdict.notes[0].text


def test_a_timeout_is_named_and_what_it_found_counts():
    verdict = judge(results(attacked(0, [1e-7, None], status="timeout"), attacked(1, [1e-7])))
    assert (verdict.read, verdict.total) == (2, 3)
    assert "1 of 2 attacks ran out of time" in verdict.notes[0].text


def test_runs_without_attacks():
    assert judge(results()).headline == "No update was attacked."
    failed = judge(results(status="failed", message="No disk left."))
    assert failed.headline == "The run failed before any update was attacked."
    assert failed.notes[0].text.endswith("after round 1 of 1: No disk left.")
    assert judge(results(status="running")).tone == "open"


def test_a_client_that_failed_adds_no_images():
    lost = attacked(0, [], status="client_failed", batch_size=None, label_accuracy=None)
    assert judge(results(lost)).headline == "The server had no update to read."


def test_key_figures_leave_out_what_is_unknown():
    names = [figure.name for figure in key_figures(results())]
    assert names == ["Test accuracy", "Wall time"]
    names = [figure.name for figure in key_figures(results(attacked(0, [1e-7])))]
    assert names[:3] == ["Read exactly", "Certified", "Batch sizes"]


def test_a_sweep_counts_runs_and_images():
    leaking, dense = results(attacked(0, [1e-7, 1e-7])), results(attacked(0, [0.9, 0.9]))
    verdict = judge_sweep([leaking, dense], runs=3)
    assert verdict.headline == (
        "In 1 of 3 runs the server read private images exactly, 2 of 4 in all, "
        "with no false certificate."
    )
    assert verdict.notes[0].text == "1 of 3 runs did not complete."
    assert "read none of 2 private images" in judge_sweep([dense], runs=1).headline
    assert judge_sweep([results()], runs=1).tone == "open"


def test_lost_updates_are_told_once():
    lost = TrainingRow(1, 1.5, 0.4, asked=4, answered=2, failures={"0": "Gone.", "3": "Gone."})
    unseen = Results(scenario(), [], [lost], "complete")
    told = [note.text for note in judge(unseen).notes]
    assert told == ["2 of 4 updates did not arrive or could not be used: Gone."]
    assert {f.name: f.value for f in key_figures(unseen)}["Updates"] == "2"
    rows = [attacked(k, [], status="client_failed", message="Gone.")[0] for k in (0, 3)]
    seen = Results(scenario(), rows, [lost], "complete")
    assert [note.text for note in judge(seen).notes] == [
        "2 of 2 attacks got no update, because the client failed. Gone."
    ]


def test_an_attack_that_the_user_stopped_hides_no_image():
    stopped = attacked(1, [None, 0.9, 1e-7], status="interrupted")
    verdict = judge(results(attacked(0, [1e-7, 1e-6]), stopped, status="interrupted"))
    assert verdict.headline == "The server read 3 of 3 private images exactly, all certified."
    run = results(attacked(0, [1e-7, 1e-6]), stopped, status="interrupted")
    assert "round 1: 3 of 3" in recovery_chart(run.attacks).words
    assert [f.hint for f in key_figures(run) if f.name == "Read exactly"] == ["of 3"]
    nothing = attacked(0, [None], status="interrupted")
    verdict = judge(results(nothing, status="interrupted"))
    assert verdict.headline == "The run stopped before any attack had ended."
    assert verdict.tone == "open"


def test_certified_features_without_images_are_no_safety():
    row = attacked(0, [0.5, 0.6], certified=[False, False], features_certified=2)
    verdict = judge(results(row))
    assert verdict.tone == "partial"
    assert verdict.notes[0].kind == "warning"
    assert verdict.notes[0].text == (
        "What a layer saw of 2 images is certified; the images themselves are estimates."
    )
