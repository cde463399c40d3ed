import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_sim.records import TrainingRow
from fl_sim.tracking.none import NullTracker
from fl_sim.tracking.rounds import Round, beside, caption
from fl_sim.tracking.wandb import WandbTracker, sweep_of, tags_of
from tests.fl_sim.report.synthetic import attacked, scenario

ROOT = Path(__file__).parents[3]

RUN = """
    import socket, sys
    from pathlib import Path

    real, attempts = socket.socket.connect, []

    def connect(self, address):
        host = address[0] if isinstance(address, tuple) else "unix"
        if host not in ("unix", "localhost") and not str(host).startswith(("127.", "::1")):
            attempts.append(address)
            raise OSError(f"refused {address}")
        return real(self, address)

    socket.socket.connect = connect
    from fl_sim.records import TrainingRow
    from fl_sim.tracking.wandb import WandbTracker
    from tests.fl_sim.report.synthetic import attacked, write_run

    folder = Path(sys.argv[1])
    rows = [attacked(0, [1e-7, None], client=1), attacked(1, [1e-6, 0.5], client=3),
            attacked(2, [0.9], client=1, round_number=2)]
    results = write_run(folder, rows, training=3)
    tracker = WandbTracker(images=3)
    tracker.start(results.scenario, folder)
    tracker.log_training(results.training[0])
    for (row, gallery), trained in zip(rows, [None, results.training[1], results.training[2]]):
        tracker.log_attack(row, gallery)
        if trained:
            tracker.log_training(trained)
    tracker.finish(results)
    tracker.finish(results)
    assert not attempts, attempts
"""


def run_offline(folder, sweep="", without_network=False):
    """Log a run in a process of its own, and return that process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "FL_SIM"))}
    environment |= {"HOME": str(folder), "PYTHONPATH": str(ROOT)}
    if sweep:
        environment["FL_SIM_SWEEP"] = sweep
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(folder)]
    if without_network:
        command = ["unshare", "--net", "--map-root-user", "sh", "-c",
                   'ip link set lo up 2> /dev/null; exec "$@"', "sh", *command]  # fmt: skip
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def inspect(folder, *options):
    (run,) = folder.glob("wandb/offline-run-*")
    told = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(run)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return run, told.stdout


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """An offline run that belongs to a sweep."""
    folder = tmp_path_factory.mktemp("multirun") / "nightly" / "seed=0"
    done = run_offline(folder, sweep="nightly")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_an_offline_run_is_silent_and_connects_to_nothing(logged):
    _, done = logged
    assert (done.stdout, done.stderr) == ("", "")


def test_an_offline_run_holds_the_scenario_and_the_summary(logged):
    _, told = inspect(logged[0], "--summary")
    summary = json.loads(told)
    assert summary["state"] == "finished"
    assert summary["project"] == "fl-sim"
    # W&B keeps no empty mappings
    assert summary["config"] == {k: v for k, v in scenario().items() if v != {}}
    assert summary["tags"] == ["fashion_mnist_mini", "mlp", "tensor"]
    assert summary["summary"]["recovered"] == 2
    assert summary["summary"]["status"] == "complete"
    assert summary["summary"]["attack/table"]["nrows"] == 3


def test_an_offline_run_holds_one_step_per_round_with_scalars_and_images(logged):
    run, told = inspect(logged[0])
    records = [json.loads(line) for line in told.splitlines()]
    (begun,) = [r["run"] for r in records if r["type"] == "run"]
    assert (begun["run_group"], begun["job_type"]) == ("nightly", "attack")
    steps = [r["history"]["item"] for r in records if r["type"] == "history"]
    rounds = [step for step in steps if "round" in step]
    assert [step["round"] for step in rounds] == [0, 1, 2]
    assert [step["training/loss"] for step in rounds] == [2.0, 1.5, 1.0]
    assert [step.get("attack/recovered") for step in rounds] == [None, 2, 0]
    assert rounds[1]["attack/share_recovered"] == 0.5
    assert rounds[1]["reconstructions.captions"] == [
        "client 1 · label 0, read as 0 · PSNR 140.0 dB · certified",
        "client 3 · label 0, read as 0 · PSNR 120.0 dB · certified",
        "client 1 · label 1 · not found",
    ]
    for step in rounds[1:]:
        for name in step["reconstructions.filenames"]:
            picture = Image.open(run / "files" / name)
            assert picture.size[0] > 2 * 100
    assert len(list((run / "files" / "media" / "images").glob("*.png"))) == 4


def test_an_offline_run_leaves_no_process_behind(logged):
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(logged[0]) not in listed


def test_an_offline_run_needs_no_network_at_all(tmp_path):
    probe = subprocess.run(["unshare", "--net", "--map-root-user", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("cannot take the network away here")
    done = run_offline(tmp_path, without_network=True)
    assert (done.returncode, done.stderr) == (0, "")
    _, told = inspect(tmp_path, "--summary")
    assert json.loads(told)["summary"]["recovered"] == 2


def test_online_without_a_key_is_one_clear_sentence(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from fl_sim.tracking.base import TrackerError
        from fl_sim.tracking.wandb import WandbTracker
        try:
            WandbTracker(mode="online").start({}, Path(sys.argv[1]))
        except TrackerError as error:
            print(error)
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env={**environment, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tracker.mode=online needs a W&B key: run `wandb login`")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"mode": "on"}, "tracker.mode=on is not one of"), ({"images": 109}, "tracker.images=109")],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        WandbTracker(**settings)


def test_wandb_is_not_imported_before_it_is_used():
    code = "import sys, fl_sim.tracking.wandb; sys.exit('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_a_sweep_is_the_group_of_its_own_runs_only(tmp_path, monkeypatch):
    monkeypatch.delenv("FL_SIM_SWEEP", raising=False)
    assert sweep_of(tmp_path) is None
    monkeypatch.setenv("FL_SIM_SWEEP", "nightly")
    assert sweep_of(tmp_path) is None
    assert sweep_of(tmp_path / "nightly" / "seed=1") == "nightly"


def test_tags_name_the_choices():
    assert tags_of(scenario(defense={"clip": {}})) == [
        "fashion_mnist_mini",
        "mlp",
        "tensor",
        "clip",
    ]
    assert tags_of({}) == []


def test_images_of_a_round_are_shared_out_over_its_clients():
    both = Round(1, attacks=[attacked(0, [1e-7] * 5, client=0), attacked(1, [1e-7], client=1)])
    told = [words.split(" · ")[0] for _, words in both.pairs(4)]
    assert told == ["client 0", "client 1", "client 0", "client 0"]
    assert list(both.pairs(0)) == []


def test_truth_is_left_and_reconstruction_right():
    row, gallery = attacked(0, [1e-7, None])
    gallery.reconstruction[0] = 1 - gallery.truth[0]
    pair = beside(gallery, 0)
    zoom = pair.shape[0] // 6
    small = pair[::zoom, ::zoom].astype(int)
    assert small.shape == (6, 11)
    assert np.abs(small[:, :5] + small[:, 6:] - 255).max() <= 1
    assert caption(row, gallery, 1).endswith("not found")
    assert set(np.unique(beside(gallery, 1)[::zoom, ::zoom][:, 6:])) <= {48, 120}


def test_the_null_tracker_takes_everything(tmp_path):
    tracker = NullTracker()
    tracker.start(scenario(), tmp_path)
    tracker.log_training(TrainingRow(0, 1.0, 0.1))
    tracker.log_attack(*attacked(0, [1e-7]))
    tracker.finish(None)
    assert list(tmp_path.iterdir()) == []
