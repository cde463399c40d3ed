"""What is typed and what is told: paths reach the scenario as they are, errors are one sentence."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from fl_sim.wording import in_quotes, quoted

PATHS = [
    "out/a=1,b=2/x",
    "out/a=1",
    "out/[1,2]",
    "out/{a:b}",
    'out/it\'s/"x"',
    "out/a b/(c)",
    "out/back\\slash\\",
    "out/back\\'quote",
    "out/#x",
]


def value_of(override):
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sweeping", [False, True])
def test_a_path_that_is_there_is_one_value(tmp_path, monkeypatch, path, sweeping):
    monkeypatch.chdir(tmp_path)
    (tmp_path / path).mkdir(parents=True)
    assert value_of(quoted(f"data.root={path}", sweeping)) == path
    assert value_of(f"x={in_quotes(path)}") == path


def test_a_path_that_is_not_there_yet_is_one_value_where_it_can_be_nothing_else():
    assert value_of(quoted("hydra.run.dir=no/such=1,b=2", False)) == "no/such=1,b=2"


UNTOUCHED = [
    ("seed=0,1", True),
    ("data.root=/no/such/a,/no/such/b", True),
    ("data.root=/no/such/a=1,/no/such/b=2", True),
    ("clients.faults={1:nan}", False),
    ("hydra.sweeper.cases=['data.root=/a/b','x=1']", False),
    ("data.root='/quoted/a=1'", False),
    ("data.root=[/unclosed/a=1", False),
    ("data.root=/etc", False),
    ("data.root=/", False),
    ("--config-dir=/a=b/c", False),
    ("rounds=", False),
    ("data.root=" + "/x=" * 5000 + ",", True),
]


@pytest.mark.parametrize(("argument", "sweeping"), UNTOUCHED)
def test_what_is_no_such_path_stays_as_it_was_typed(argument, sweeping):
    assert quoted(argument, sweeping) == argument
