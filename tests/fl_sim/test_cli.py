"""The command line, as a user types it: results, exit status, one-sentence errors, sweeps."""

import json
import math
import os
import signal
import subprocess
import sys
import threading

import pytest
from torch import nn

from attacks import Attack, TensorAttack
from fl_sim.cli import main
from fl_sim.federation import Federation
from fl_sim.records import Gallery, Results
from fl_sim.server import model_of
from fl_sim.sweep import finished_before, job_folder, jobs_begun, sweep_folder
from tests.fl_sim.report.synthetic import write_run

SMALL = ["tracker=none", "clients.batch_size=4", "model.width=256"]


@pytest.fixture
def fl_sim(tmp_path, monkeypatch, capfd):
    """Run the command line in this process, in a folder of its own: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fl-sim"])
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        return stopped.value.code, *capfd.readouterr()

    return run


def test_a_run_writes_what_it_promises(fl_sim, tmp_path):
    status, out, _ = fl_sim(*SMALL, "hydra.run.dir=run", "rounds=2")
    assert status == 0
    assert "The server read 16 of 16 private images exactly, all certified." in out
    content = json.loads((tmp_path / "run/results.json").read_text())
    assert content["schema"] == 1
    assert content["status"] == "complete"
    assert content["scenario"]["clients"]["batch_size"] == 4
    assert [row["round"] for row in content["training"]] == [0, 1, 2]
    promised = {
        "round", "client", "attack", "batch_size", "estimated_batch_size", "recovered",
        "certified", "false_certificates", "label_accuracy", "psnr", "ssim", "relative_error",
        "seconds",
    }  # fmt: skip
    for row in content["attacks"]:
        assert promised <= set(row)
        assert row["recovered"] == row["certified"] == row["estimated_batch_size"] == 4
        assert row["label_accuracy"] == 1
        assert max(row["relative_error"]) < 1e-3
    assert promised - {"round", "client", "attack"} <= set(content["summary"])
    assert content["summary"]["recovered"] == 16
    assert content["summary"]["wall_seconds"] > 0
    gallery = Gallery.load(tmp_path / "run")
    assert gallery.truth.shape == gallery.reconstruction.shape == (16, 1, 28, 28)
    assert abs(gallery.truth - gallery.reconstruction).max() < 1e-3
    assert "<html" in (tmp_path / "run/report.html").read_text()


def test_equal_seeds_give_equal_rows_and_other_seeds_others(fl_sim, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert fl_sim(*SMALL, f"hydra.run.dir={name}", f"seed={seed}")[0] == 0

    def rows(name):
        loaded = Results.load(tmp_path / name)
        for row in loaded.attacks:
            row.seconds = 0
        return loaded.attacks, loaded.training

    assert rows("a") == rows("b") != rows("c")


def test_a_gradient_reply_is_read_like_weights(fl_sim, tmp_path):
    assert fl_sim(*SMALL, "hydra.run.dir=run", "clients.reply=gradient")[0] == 0
    assert Results.load(tmp_path / "run").summary()["recovered"] == 8


def test_a_squared_loss_is_read_like_cross_entropy(fl_sim, tmp_path):
    assert fl_sim(*SMALL, "hydra.run.dir=run", "loss=mse")[0] == 0
    assert Results.load(tmp_path / "run").summary()["recovered"] == 8


@pytest.mark.parametrize("off", ["attack=none", "strategy=plain"])
def test_without_an_attack_training_is_the_same(fl_sim, tmp_path, off):
    assert fl_sim(*SMALL, "hydra.run.dir=on", "rounds=2")[0] == 0
    assert fl_sim(*SMALL, "hydra.run.dir=off", "rounds=2", off)[0] == 0
    on, without = Results.load(tmp_path / "on"), Results.load(tmp_path / "off")
    assert on.training == without.training
    assert on.attacks
    assert not without.attacks


def test_misbehaving_clients_are_reported_and_the_others_go_on(fl_sim, tmp_path):
    faults = "clients.faults={0:raise,1:nan,2:shape}"
    status, out, _ = fl_sim(*SMALL, "hydra.run.dir=run", "clients.per_round=4", faults)
    assert status == 0
    rows = Results.load(tmp_path / "run").attacks
    assert [row.status for row in rows] == ["client_failed", *["invalid_update"] * 2, "ok"]
    assert "fails on purpose" in rows[0].message
    assert "contains NaN" in rows[1].message
    assert "has shape" in rows[2].message
    assert rows[3].recovered == 4
    assert "fails on purpose" in out


@pytest.mark.parametrize("off", ["attack=none", "strategy=plain", "attack.rounds=[2]"])
def test_clients_that_fail_are_told_of_where_nothing_is_attacked(fl_sim, tmp_path, off):
    faults = "clients.faults={0:raise,1:nan}"
    settings = ["hydra.run.dir=run", "clients.per_round=4", "rounds=2", faults]
    status, out, _ = fl_sim(*SMALL, *settings, off)
    assert status == 0
    before, *rounds = Results.load(tmp_path / "run").training
    assert (before.asked, before.answered, before.failures) == (0, 0, {})
    for row in rounds:
        assert (row.asked, row.answered) == (4, 2)
        assert list(row.failures) == ["0", "1"]
        assert "fails on purpose" in row.failures["0"]
        assert "contains NaN" in row.failures["1"]
    told = "4 of 8 updates did not arrive or could not be used, most often: "
    assert told in " ".join(out.split())
    assert told in (tmp_path / "run/report.html").read_text()


def test_a_run_without_any_client_is_status_one(fl_sim, tmp_path):
    faults = "clients.faults={0:raise,1:raise}"
    settings = ["hydra.run.dir=run", "clients.count=2", "rounds=2", faults]
    status, _, err = fl_sim(*SMALL, *settings)
    assert status == 1
    assert err.startswith("fl-sim: No client ever sent an update that could be used: RuntimeError")
    assert err.count("\n") == 1
    assert Results.load(tmp_path / "run").status == "complete"
    assert (tmp_path / "run/report.html").is_file()


class Broken(Attack):
    """Cannot even begin."""

    def reconstruct(self, problem):
        raise RuntimeError("The lion is out.")


@pytest.mark.parametrize("sweep", [[], ["-m", "sweep.name=all", "seed=0,1"]])
def test_a_run_whose_attacks_all_fail_is_status_one(fl_sim, sweep):
    broken = [f"attack.method._target_={__name__}.Broken", "hydra.run.dir=run"]
    status, _, err = fl_sim(*sweep, *SMALL, *broken)
    assert status == 1
    told = "Every attack failed with an error: RuntimeError: The lion is out.\n"
    assert err.count(told) == max(1, len(sweep) - 1)
    status, _, err = fl_sim(*sweep, *SMALL, *broken)
    assert status == 1


class Stopper(Attack):
    """Presses Ctrl-C where it meets a certain model."""

    at = None

    def reconstruct(self, problem):
        if problem.model.layers[0].bias[0] == Stopper.at:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            threading.Event().wait(30)
        return TensorAttack().reconstruct(problem)


def test_a_sweep_that_is_stopped_has_a_page_of_what_is_done(fl_sim, tmp_path, scenario):
    config = scenario("model.width=256", "seed=1")
    Stopper.at = model_of(config, Federation(config)).layers[0].bias[0].item()
    status, out, err = fl_sim(
        "-m", *SMALL, f"attack.method._target_={__name__}.Stopper", "seed=0,1,2", "sweep.name=cut"
    )
    assert status == 130
    assert err == "fl-sim: Stopped by the user; what was finished is kept.\n"
    first, second, *rest = [line for line in out.splitlines() if line.startswith("[")]
    assert "read 8 of 8 private images" in first
    assert "interrupted after " in second
    assert "read none" not in second
    assert not rest
    assert "Report: multirun/cut/sweep.html" in out
    assert "1 of 2 runs did not complete." in (tmp_path / "multirun/cut/sweep.html").read_text()


BAD = [
    ("clients.foo=1", "clients.foo"),
    ("model=foo", "model/foo"),
    ("model.wdth=3", "model.wdth"),
    ("clients.per_round=5", "clients.per_round=5"),
    ("clients.count=-3", "clients.count=-3"),
    ("clients.batch_size=0", "clients.batch_size=0"),
    ("clients.batch_size=5000", "clients.batch_size=5000"),
    ("clients.lr=0", "clients.lr=0"),
    ("clients.faults={1:sleep}", "'sleep'"),
    ("clients.local_steps=2 clients.reply=gradient", "clients.local_steps=2"),
    ("model.activation=gulu", "model.activation='gulu'"),
    ("model.width=abc", "model.width='abc'"),
    ("rounds=1.5", "rounds=1.5"),
    ("data.partition=foo", "data.partition=foo"),
    ("data=image_folder data.root=/no/such/folder", "/no/such/folder"),
    ("attack.knows=[secrets]", "'secrets'"),
    ("attack.timeout=-1", "attack.timeout=-1.0 must be positive, or null for no limit."),
    ("attack.most=-1", "attack.most=-1 must be at least 1, or null for all."),
    ("attack.rounds=[1,3] rounds=2", "attack.rounds has 3, but the rounds are 1 to 2"),
    ("attack.rounds=[0]", "attack.rounds has 0"),
    ("attack.knows=labels", "write attack.knows=[labels]."),
    ("clients.momentum=1", "clients.momentum=1.0 must be"),
    ("clients.momentum=-0.5", "clients.momentum=-0.5 must be"),
    ("clients.momentum=0.9 clients.optimizer=adam", "is for clients.optimizer=sgd; adam has"),
    ("clients.batch_size=64 data.samples_per_client=32", "raise data.samples_per_client=32."),
    ("clients.batch_size=64 clients.count=1000", "set data.samples_per_client=64 or more"),
    ("clients.batch_size=999999", "training images in all."),
    ("defense=[clip,foo]", "defense has no 'foo'; it has central_dp, clip, "),
    ("defense.clip.norm=1", "needs a defense=clip, alone or in a list: defense=[clip,...]."),
    ("seed=-1", "seed=-1"),
    ("device=abacus", "device='abacus'"),
    ("defense=clip defense.clip.norm=-1", "norm=-1"),
    ("=3", "override"),
]


@pytest.mark.parametrize(("overrides", "named"), BAD)
def test_a_bad_override_is_one_sentence_and_status_two(fl_sim, overrides, named):
    status, _, err = fl_sim("tracker=none", *overrides.split())
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("fl-sim: ")
    assert named in err


def test_a_refused_command_leaves_no_folder_behind(fl_sim, tmp_path):
    assert fl_sim("tracker=none", "clients.lr=0")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_refused_command_leaves_what_was_there(fl_sim, tmp_path):
    (tmp_path / "outputs/mine").mkdir(parents=True)
    (tmp_path / "outputs/note.txt").write_text("kept")
    for folder in ("outputs/mine", "outputs/other"):
        assert fl_sim("tracker=none", "clients.lr=0", f"hydra.run.dir={folder}")[0] == 2
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == ["mine", "note.txt"]


@pytest.mark.parametrize("folder", ["hydra.run.dir=file/x", "-m hydra.sweep.dir=file/x seed=0,1"])
def test_a_folder_that_cannot_be_written_is_one_sentence(fl_sim, tmp_path, folder):
    (tmp_path / "file").write_text("not a folder")
    status, _, err = fl_sim(*folder.split(), "tracker=none")
    assert status == 1
    assert err.startswith("fl-sim: The output folder cannot be written: ")
    assert "file/x" in err
    assert err.count("\n") == 1


def test_a_run_that_breaks_is_status_one_and_keeps_what_it_has(fl_sim, tmp_path, monkeypatch):
    from fl_sim import recorder

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(recorder, "score", broken)
    status, _, err = fl_sim(*SMALL, "hydra.run.dir=run")
    assert status == 1
    assert err.strip() == "fl-sim: The run failed: OSError: disk full"
    kept = Results.load(tmp_path / "run")
    assert kept.status == "failed"
    assert [row.round for row in kept.training] == [0]


def test_a_loss_that_overflows_ends_with_a_report(fl_sim, tmp_path):
    settings = ["hydra.run.dir=run", "attack=none", "clients.lr=1e30", "rounds=3"]
    status, out, err = fl_sim(*SMALL, *settings)
    assert (status, err) == (0, "")
    assert Results.load(tmp_path / "run").training[-1].loss is None
    assert f"Report: {tmp_path / 'run/report.html'}" in out
    assert (tmp_path / "run/report.html").is_file()


def test_no_report_is_named_that_was_not_written(fl_sim, tmp_path, monkeypatch):
    from fl_sim import scenario

    def broken(folder):
        raise OSError("disk full")

    monkeypatch.setattr(scenario, "write_report", broken)
    status, out, err = fl_sim(*SMALL, "hydra.run.dir=run", "attack=none")
    assert status == 1
    assert err.startswith("fl-sim: The run failed: OSError: disk full (the results are kept in ")
    assert "Report:" not in out


def test_a_sweep_keeps_every_result_and_does_only_what_is_left(fl_sim, tmp_path):
    sweep = ["-m", *SMALL, "clients.count=2,3", "model.activation=relu,gulu"]
    status, out, err = fl_sim(*sweep)
    assert status == 1
    assert err.count("'gulu'") == 2
    folder = next((tmp_path / "multirun").iterdir())
    results = [Results.load(path.parent) for path in folder.glob("*/results.json")]
    assert sorted(r.status for r in results) == ["complete", "complete", "failed", "failed"]
    assert (folder / "sweep.html").exists()
    assert (folder / "sweep.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*relu*/results.json")}
    status, out, _ = fl_sim(*sweep)
    assert out.count("Done before.") == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}
    _, out, _ = fl_sim(*sweep, "sweep.resume=false")
    assert "Done before." not in out
    assert all(path.stat().st_mtime_ns > old for path, old in before.items())


def moody(num_classes, mood="good"):
    """Build a model, or fail like any other code of a user's."""
    if mood == "bad":
        raise RuntimeError("The lion is out.")
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))


def test_a_job_that_cannot_be_built_is_recorded(fl_sim, tmp_path):
    own = [f"model._target_={__name__}.moody", "+model.mood=bad,good", "attack=none"]
    status, _, err = fl_sim("-m", "tracker=none", "sweep.name=own", *own)
    assert status == 1
    assert "The run failed: RuntimeError: The lion is out." in err
    results = [Results.load(path.parent) for path in tmp_path.glob("multirun/own/*/results.json")]
    ends = {r.scenario["model"]["mood"]: (r.status, r.message) for r in results}
    assert ends["bad"] == ("failed", "RuntimeError: The lion is out.")
    assert ends["good"] == ("complete", "")


def test_a_job_with_faults_is_recognised_as_done(tmp_path):
    scenario = {"clients": {"faults": {1: math.nan, 2: "raise"}}, "seed": 0}
    Results(scenario, status="complete").save(tmp_path)
    assert finished_before(tmp_path, scenario) is not None
    assert finished_before(tmp_path, {**scenario, "seed": 1}) is None


def test_the_records_say_which_jobs_a_sweep_began(tmp_path):
    for name, status in (("old", "failed"), ("new", "failed"), ("good", "complete")):
        write_run(tmp_path / name, status=status, message="")
        (tmp_path / name / ".hydra").mkdir()
        (tmp_path / name / ".hydra/overrides.yaml").write_text("[]")
    (tmp_path / "lost/.hydra").mkdir(parents=True)
    (tmp_path / "lost/.hydra/overrides.yaml").write_text("[]")
    os.utime(tmp_path / "old/.hydra/overrides.yaml", (0, 0))
    (tmp_path / "multirun.yaml").write_text("")
    os.utime(tmp_path / "multirun.yaml", (1, 1))
    ends = {run.path: bool(run.problem) for run in jobs_begun(tmp_path)}
    assert ends == {"new": True, "good": False, "lost": True}


@pytest.mark.slow
def test_a_sweep_in_other_processes_ends_with_its_jobs_status(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = [sys.executable, "-m", "fl_sim", "-m", *SMALL, "attack=none", "sweep.name=two"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    settings = {"cwd": tmp_path, "text": True, "capture_output": True}
    bad = subprocess.run([*command, *launcher, "model.activation=relu,gulu"], **settings)
    assert bad.returncode == 1
    assert "[1/2] " in bad.stdout
    assert "[2/2] " in bad.stderr
    good = subprocess.run([*command, *launcher, "model.activation=relu,tanh"], **settings)
    assert good.returncode == 0


@pytest.mark.slow
def test_a_killed_sweep_does_only_the_rest(tmp_path):
    command = [sys.executable, "-m", "fl_sim", "-m", *SMALL, "seed=0,1,2,3", "sweep.name=killed"]
    settings = {"cwd": tmp_path, "text": True, "env": {**os.environ, "PYTHONUNBUFFERED": "1"}}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, **settings)
    for line in first.stdout:
        if line.startswith("[2/4]"):
            first.kill()
            break
    first.wait()
    done = len(list(tmp_path.glob("multirun/killed/*/results.json")))
    assert 2 <= done < 4
    second = subprocess.run(command, capture_output=True, check=True, **settings)
    again = second.stdout.count("Done before.")
    assert 2 <= again < 4
    assert all(
        Results.load(path.parent).status == "complete"
        for path in tmp_path.glob("multirun/killed/*/results.json")
    )


def test_the_same_command_names_the_same_folder():
    one = sweep_folder(["-m", "a=1,2", "b.c=x"])
    assert one == sweep_folder(["b.c=x", "-m", "a=1,2", "sweep.resume=false"])
    assert one != sweep_folder(["-m", "a=1,3", "b.c=x"])
    assert one.startswith("a+")
    assert sweep_folder(["-m", "a=1,2", "sweep.name=mine"]) == "mine"


def test_job_folders_are_file_names():
    assert job_folder("a=1,b=x") == "a=1,b=x"
    assert "/" not in job_folder("data.root=/some/where")
    assert len(job_folder("x" * 400)) < 200
    assert job_folder("x" * 400) != job_folder("x" * 401)


def test_module_and_script_are_the_same():
    run = subprocess.run(
        [sys.executable, "-m", "fl_sim", "--help"], capture_output=True, text=True, check=True
    )
    assert "fl-sim -m KEY=A,B" in run.stdout


def test_a_sweep_over_cases_is_the_union_of_small_grids(fl_sim, tmp_path):
    cases = "hydra.sweeper.cases=['defense=none','defense=clip defense.clip.norm=1,2']"
    sweep = ["-m", "hydra/sweeper=cases", cases, "sweep.name=union", "attack=none", *SMALL]
    status, out, err = fl_sim(*sweep, "seed=0,1")
    assert status == 0, err
    assert "Sweep of 6 jobs" in out
    assert len(list(tmp_path.glob("multirun/union/*/results.json"))) == 6
    _, out, _ = fl_sim(*sweep, "seed=0", "defense=sign")
    assert "Sweep of 1 job " in out
    ran = Results.load(next(tmp_path.glob("multirun/union/*defense=sign*")))
    assert list(ran.scenario["defense"]) == ["sign"]
