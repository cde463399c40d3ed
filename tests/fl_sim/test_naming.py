"""Folders of sweeps: their names stay what they were, and each belongs to one job."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from fl_sim.errors import ScenarioError
from fl_sim.naming import asks_for_sweep, claim, job_folder, name_sweep, owner, sweep_folder
from tests.fl_sim.command import TINY, run

LONG = "x" * 400
SHA = "7b0bd700"  # the first digits of sha256 of 400 times x

NAMES = [
    ("", "default"),
    ("clients.count=2,model.activation=relu", "clients.count=2,model.activation=relu"),
    ("data.root=/some/where", "data.root=_some_where"),
    ("data.root=../../etc", "data.root=.._.._etc"),
    ("model.act=a\nb", "model.act=a_b"),
    ("model.act=a\x00b", "model.act=a_b"),
    ("model.act='é ü'", "model.act=_é_ü_"),
    ("clients.faults={0:nan}", "clients.faults=_0_nan_"),
    ("a=\udcff", "a=_"),
    ("x" * 120, "x" * 120),
    (LONG, "x" * 120 + "-" + SHA),
]


@pytest.mark.parametrize(("overrides", "name"), NAMES)
def test_a_job_has_the_name_it_always_had(overrides, name):
    assert job_folder(overrides) == name


@pytest.mark.parametrize("letter", ["x", "é", "漢", "𝕏"])
@pytest.mark.parametrize("length", [60, 119, 120, 121, 1000])
def test_any_file_system_takes_the_name_of_a_long_value(tmp_path, letter, length):
    name = claim(tmp_path, job_folder(letter * length), [f"a={letter * length}"])
    other = claim(tmp_path, job_folder(letter * length), [f"a={letter * length}!"])
    assert len(name.encode()) <= 255
    assert len(other.encode()) <= 255
    assert {name, other} == {path.name for path in tmp_path.iterdir()}


ALIKE = {
    "slashes": ["a=/d/a/b", "a=/d/a_b", "a=_d_a_b", "a=/d//a/b"],
    "case": ["a=Relu", "a=relu", "a=RELU"],
    "sharp s": ["a=straße", "a=STRASSE"],
    "composed": ["a=e\u0301", "a=e_"],
    "newline": ["a=x\ny", "a=x y", "a='x/y'"],
    "blanks": ["a=x ", "a=x/", "a=x\t"],
    "a hash of another": ["a=/b", "a=_b", "a=_b-e74f36ec"],
    "long": ["a=" + "/" * 500, "a=" + "/" * 501],
}


@pytest.mark.parametrize("overrides", ALIKE.values(), ids=ALIKE)
def test_no_two_jobs_have_names_that_any_file_system_takes_for_one(tmp_path, overrides):
    names = [claim(tmp_path, job_folder(text), [text]) for text in overrides]
    assert names[0] == job_folder(overrides[0])
    assert len({name.casefold() for name in names}) == len(overrides)
    again = [claim(tmp_path, job_folder(text), [text]) for text in reversed(overrides)]
    assert again == names[::-1]


def test_a_job_in_another_process_does_not_take_a_folder_that_was_just_claimed(tmp_path):
    folder = tmp_path / "a=1" / ".hydra"
    folder.mkdir(parents=True)
    (folder / "claim.json").write_text("")  # begun by another, not written yet
    assert claim(tmp_path, "a=1", ["a=1"]).startswith("a=1-")
    assert owner(tmp_path / "a=1") == []


def test_a_folder_from_before_there_were_claims_is_known_by_its_overrides(tmp_path):
    for name, typed in (("a=_b", "- a=/b\n- sweep.resume=false\n"), ("a=_c", "- {broken")):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra/overrides.yaml").write_text(typed)
    assert claim(tmp_path, "a=_b", ["a=/b"]) == "a=_b"
    assert claim(tmp_path, "a=_b", ["a=_b"]) != "a=_b"
    assert claim(tmp_path, "a=_c", ["a=/c"]) == "a=_c"


@pytest.mark.parametrize("name", ["..", "a/../..", "/etc", "~/x", "'../x'", '"/x"'])
def test_a_sweep_stays_below_its_folder(name):
    with pytest.raises(ScenarioError, match="has to be a name below multirun/"):
        sweep_folder([f"sweep.name={name}"])


@pytest.mark.parametrize("name", ["mine", "group/mine", "a..b", "a,b"])
def test_a_sweep_has_the_name_that_was_typed(name):
    assert sweep_folder(["-m", "a=1,2", f"sweep.name={name}"]) == name
    assert sweep_folder(["-m", "a=1,2", f"+sweep.name={name}"]) == name


@pytest.mark.parametrize("name", ["", "null"])
def test_no_name_is_one_made_from_the_keys(name):
    assert sweep_folder(["-m", "a=1,2", f"sweep.name={name}"]).startswith("a+")


@pytest.mark.parametrize("argument", ["-m", "--multirun", "--multi", "hydra.mode=MULTIRUN"])
def test_each_way_to_ask_for_a_sweep_names_its_folder(monkeypatch, argument):
    monkeypatch.setenv("FL_SIM_SWEEP", "of another command")
    assert asks_for_sweep(argument)
    name_sweep([argument, "a=1,2"])
    assert os.environ["FL_SIM_SWEEP"].startswith("a+")
    name_sweep(["a=1", "--", "model.name=-m"])
    assert "FL_SIM_SWEEP" not in os.environ


def test_jobs_that_claim_a_folder_at_once_get_one_each(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(lambda i: claim(tmp_path, "a", [f"a={i}"]), range(64)))
    assert len(set(names)) == 64
    assert all(owner(tmp_path / name) == [f"a={i}"] for i, name in enumerate(names))


def pictures(folder, shade):
    from PIL import Image

    for number in range(12):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade + number).save(path)


def test_a_sweep_over_paths_that_read_alike_keeps_every_job(tmp_path):
    roots = [tmp_path / "d/a/b", tmp_path / "d/a_b", tmp_path / "D/a,c=1"]
    for number, root in enumerate(roots):
        pictures(root, 10 * number)
    sweep = ["-m", *TINY, "data=image_folder", "clients.count=2", "sweep.name=all"]
    values = f"data.root={roots[0]},{roots[1]},'{roots[2]}'"
    first = run(tmp_path, *sweep, values)
    assert (first.returncode, first.stderr) == (0, "")
    results = list((tmp_path / "multirun/all").glob("*/results.json"))
    ran = {json.loads(path.read_text())["scenario"]["data"]["root"] for path in results}
    assert ran == set(map(str, roots))
    for path in tmp_path.glob("multirun/all/*/.hydra/claim.json"):
        path.unlink()  # as a sweep left them before there were claims
    again = run(tmp_path, *sweep, values)
    assert again.stdout.count("Done before.") == 3
    assert list((tmp_path / "multirun/all").glob("*/results.json")) == results


def test_a_sweep_over_values_that_are_no_file_names_keeps_every_job(tmp_path):
    values = ["x" * 3000, "x" * 3001, "漢" * 120, "漢" * 121, "a\nb", "a b", "../..", "é"]
    names = ",".join(f"'{value}'" for value in values)
    done = run(tmp_path, "-m", *TINY, "sweep.name=all", f"model.name={names}")
    assert (done.returncode, done.stderr) == (0, "")
    results = (tmp_path / "multirun/all").glob("*/results.json")
    ran = [json.loads(path.read_text())["scenario"]["model"]["name"] for path in results]
    assert sorted(ran) == sorted(values)


@pytest.mark.slow
def test_jobs_at_the_same_time_do_not_take_each_others_folder(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep.name=two"]
    names = "model.name=a/b,a_b,A_b,'a b'"
    done = run(tmp_path, "-m", *TINY, *launcher, names)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "multirun/two").glob("*/results.json"))) == 4
