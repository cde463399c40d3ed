"""A model that cannot be trained is refused before round 1; any other runs, whatever it returns."""

import sys
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, mse_loss

from fl_sim.cli import main
from fl_sim.errors import ScenarioError
from fl_sim.models import build_model
from fl_sim.models.trial import try_model
from fl_sim.records import Results

Outputs = namedtuple("Outputs", ["logits", "loss"])


class Body(nn.Module):
    """784 inputs, 256 units, ten outputs."""

    def __init__(self, outputs=10, inputs=784):
        super().__init__()
        self.wide = nn.Linear(inputs, 256)
        self.last = nn.Linear(256, outputs)

    def forward(self, x):
        return self.last(gelu(self.wide(x.flatten(1))))


class Child(Body):
    """No constructor of its own."""


class Open(Body):
    def __init__(self, **anything):
        super().__init__()


class Lazy(Body):
    def __init__(self):
        super().__init__()
        self.wide, self.last = nn.LazyLinear(256), nn.LazyLinear(10)


class ManyOutputs(Body):
    def __init__(self):
        super().__init__(12)


class Mapping(Body):
    def forward(self, x):
        return {"logits": super().forward(x), "features": x}


class Pair(Body):
    def forward(self, x):
        return super().forward(x), x


class Record(Body):
    def forward(self, x):
        return Outputs(super().forward(x), None)


WORK = [Body, Child, Open, Lazy, ManyOutputs, Mapping, Pair, Record]


@pytest.fixture
def fl_sim(tmp_path, monkeypatch, capfd):
    """Run the command line on one small batch of one client: (status, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(target, *overrides):
        monkeypatch.setattr(sys, "argv", ["fl-sim"])
        with pytest.raises(SystemExit) as stopped:
            main([*SMALL, f"model._target_={target}", *overrides])
        return stopped.value.code, capfd.readouterr().err

    return run


SMALL = ["tracker=none", "clients.count=2", "clients.per_round=1", "clients.batch_size=2",
         "hydra.run.dir=run"]  # fmt: skip


@pytest.mark.parametrize("kind", WORK, ids=lambda kind: kind.__name__)
def test_what_can_be_trained_is_trained_and_read(fl_sim, tmp_path, kind):
    assert fl_sim(f"{__name__}.{kind.__name__}") == (0, "")
    results = Results.load(tmp_path / "run")
    assert [row.loss is not None for row in results.training] == [True, True]
    assert results.attacks[0].certified == 2


class OneOutput(Body):
    def __init__(self):
        super().__init__(1)


class FewOutputs(Body):
    def __init__(self):
        super().__init__(5)


class Narrow(Body):
    def __init__(self):
        super().__init__(inputs=100)


class Bare(nn.Module):
    """Neither a constructor nor parameters."""

    def forward(self, x):
        return x


class Formless(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(784, 10)


class Unnamed(Body):
    def forward(self, x):
        return {"one": super().forward(x), "other": x}


class Wordy(Body):
    def forward(self, x):
        return "seven"


class Raising(Body):
    def forward(self, x):
        raise KeyError("lion")


class RaisingWhenEvaluated(Body):
    def forward(self, x):
        if not self.training:
            raise KeyError("lion")
        return super().forward(x)


class RaisingWhenTrained(Body):
    def forward(self, x):
        if self.training:
            raise KeyError("lion")
        return super().forward(x)


class Meta(Body):
    def __init__(self):
        super().__init__()
        self.last.to("meta")


class Coarse(Body):
    def __init__(self):
        super().__init__()
        self.bfloat16()


class Infinite(Body):
    def forward(self, x):
        return super().forward(x) / 0


class Squeezed(Body):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Map(Body):
    def forward(self, x):
        return super().forward(x)[:, :, None, None]


class Merging(Body):
    def forward(self, x):
        return super().forward(x).mean(0, keepdim=True)


class Detached(Body):
    def forward(self, x):
        return super().forward(x).detach()


class LazyAndUnused(Body):
    def __init__(self):
        super().__init__()
        self.spare = nn.LazyLinear(3)


class LazyAndNarrow(Narrow):
    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(10)


class Overwriting(Body):
    def forward(self, x):
        hidden = self.wide(x.flatten(1)).sigmoid()
        outputs = self.last(hidden)
        hidden.zero_()
        return outputs


def made():
    return Body


def untrained():
    return torch.zeros(3)


INSTANCE = Body()
TEN = "the data has 10 classes; the loss needs one output for each class."
ON = "fails on inputs of shape (2, 1, 28, 28): "
REFUSED = [
    ("OneOutput", f"gives 1 output for each input, but {TEN}"),
    ("FewOutputs", f"gives 5 outputs for each input, but {TEN}"),
    ("ManyOutputs", f"gives 12 outputs for each input, but {TEN}", "loss=mse"),
    ("ManyOutputs", f"gives 12 outputs for each input, but {TEN}", "defense=clip"),
    ("Narrow", f"{ON}RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x784 and 100x256)"),
    ("Bare", "makes a model without parameters to train."),
    ("Formless", f'{ON}NotImplementedError: Module [Formless] is missing the required "forward"'),
    ("Unnamed", f"{ON}The model returns a dict in which no prediction can be told."),
    ("Wordy", f"{ON}The model returns a str in which no prediction can be told."),
    ("Raising", f"{ON}KeyError: 'lion'"),
    ("RaisingWhenEvaluated", f"{ON}KeyError: 'lion'"),
    ("RaisingWhenTrained", f"{ON}KeyError: 'lion'"),
    ("Meta", "has 'last.weight' on the meta device, where it has a shape but no values."),
    ("Coarse", "has 'wide.weight' of type torch.bfloat16, which cannot be sent: "),
    ("Infinite", "gives outputs with NaN or infinite values on its first batch."),
    ("Squeezed", "gives outputs of shape (2,) for 2 inputs; it has to be (2, 10), one output"),
    ("Map", "gives outputs of shape (2, 10, 1, 1) for 2 inputs; it has to be (2, 10), one"),
    ("Merging", "gives outputs of shape (1, 10) for 2 inputs; it has to be (2, 10), one output"),
    ("Detached", "gives outputs that do not depend on its parameters, so it cannot be trained"),
    ("LazyAndUnused", "has lazy 'spare.weight', which no forward pass gives a shape."),
    ("LazyAndNarrow", f"{ON.split(':')[0]}, which its lazy layers take their shapes from: Runtime"),
    ("Overwriting", "has no gradient of the loss: RuntimeError: one of the variables needed for"),
    ("INSTANCE", "is a Body already made; it has to be a class or a function that makes a model."),
    ("made", "makes no torch.nn.Module, but a type."),
    ("untrained", "makes no torch.nn.Module, but a Tensor."),
    ("Nowhere", f"cannot be loaded: {__name__!r} has no 'Nowhere'."),
    ("Body.nowhere", f"cannot be loaded: '{__name__}.Body' has no 'nowhere'."),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_what_cannot_be_trained_is_refused_before_round_one(fl_sim, tmp_path, case):
    name, told, *overrides = case
    status, err = fl_sim(f"{__name__}.{name}", *overrides)
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith(f"fl-sim: model._target_={__name__}.{name} {told}")
    assert list(tmp_path.iterdir()) == []


FILES = [
    ("import nosuchlib", "its import ends with ModuleNotFoundError: No module named 'nosuchlib'."),
    ("def x(:", "its import ends with SyntaxError: invalid syntax (broken{}.py, line 1)."),
    ("import sys; sys.exit(3)", "its import ends with SystemExit: 3."),
    ("raise RuntimeError('two\\nlines')", "its import ends with RuntimeError: two lines."),
    ("from torch.nn import Nothing", "its import ends with ImportError: cannot import name"),
    ("Net = 3", "is neither a class nor a function."),
    ("", "cannot be loaded: 'broken{}' has no 'Net'."),
]


@pytest.mark.parametrize("number", range(len(FILES)))
def test_a_file_that_does_not_load_is_told_of(fl_sim, tmp_path, number):
    text, told = FILES[number]
    (tmp_path / f"broken{number}.py").write_text(text)
    status, err = fl_sim(f"broken{number}.Net")
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith(f"fl-sim: model._target_=broken{number}.Net ")
    assert told.format(number) in err


DOTTED = "it has to be a dotted name: Net in a file nets.py of this folder is nets.Net."
NAMES = [
    ("nofile.Net", "there is no module 'nofile', neither installed nor in this folder."),
    ("torch.nowhere.Net", "'torch' has no 'nowhere'."),
    ("torch.nn.Nowhere", "'torch.nn' has no 'Nowhere'."),
    ("nets.py", DOTTED),
    ("nets.py:Net", DOTTED),
    ("./nets.Net", DOTTED),
]


@pytest.mark.parametrize(("name", "told"), NAMES)
def test_a_name_that_is_none_is_told_of(fl_sim, name, told):
    status, err = fl_sim(name)
    assert (status, err) == (2, f"fl-sim: model._target_={name} cannot be loaded: {told}\n")


def test_lazy_layers_are_the_same_on_server_and_clients():
    config = {"_target_": f"{__name__}.Lazy"}
    one, two = (build_model(config, (1, 28, 28), 10, seed=3) for _ in range(2))
    other = build_model(config, (1, 28, 28), 10, seed=4)
    assert one.wide.weight.shape == (256, 784)
    assert one.training
    assert torch.equal(one.wide.weight, two.wide.weight)
    assert torch.equal(one.last.bias, two.last.bias)
    assert not torch.equal(one.wide.weight, other.wide.weight)


def test_a_trial_leaves_no_trace_on_the_random_state():
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5))

    before = torch.get_rng_state()
    model = build()
    torch.set_rng_state(before)
    inputs, labels = torch.rand(2, 4), torch.tensor([0, 2])
    try_model(lambda: model, "it", inputs, labels, 3, cross_entropy, (3,))
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.rand(2, 4)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize(
    ("loss", "target"), [(cross_entropy, torch.tensor([0, 1])), (mse_loss, torch.eye(2))]
)
def test_one_output_for_two_classes_is_refused_where_the_loss_needs_two(loss, target):
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 1))

    with pytest.raises(ScenarioError, match=r"has 2 classes; .* or set loss=bce_with_logits"):
        try_model(build, "it", torch.rand(2, 4), target, 2, loss, (2,))
