"""What the README says to do is done, letter by letter."""

import re
import sys
import types
from pathlib import Path

import pytest

from fl_sim.cli import main
from fl_sim.records import Results

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def block(heading, language):
    """Return the first code block of a language below a heading."""
    section = README.split(f"\n## {heading}")[1].split("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


def test_an_attack_is_added_as_the_readme_says(tmp_path, monkeypatch, capfd):
    module = types.ModuleType("attacks.mine")
    monkeypatch.setitem(sys.modules, "attacks.mine", module)
    monkeypatch.setattr("attacks.mine", module, raising=False)
    exec(block("Add an attack", "python"), vars(module))
    config = tmp_path / "conf/attack/mine.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(block("Add an attack", "yaml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fl-sim"])
    with pytest.raises(SystemExit) as stopped:
        main([
            "attack=mine", "attack.method.steps=500", "tracker=none", "clients.batch_size=2",
            "hydra.run.dir=run", f"hydra.searchpath=[file://{tmp_path / 'conf'}]",
        ])  # fmt: skip
    assert stopped.value.code == 0, capfd.readouterr().err
    results = Results.load(tmp_path / "run")
    assert [row.status for row in results.attacks] == ["ok", "ok"]
    assert {row.attack for row in results.attacks} == {"mine"}
    assert results.scenario["attack"]["name"] == "mine"
    assert results.scenario["attack"]["method"]["steps"] == 500
