"""Every matching attack takes its steps behind every family of image classifiers in torchvision.

Families are cut down to one block or two of each kind; the models as people use them are slow.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.ops import SqueezeExcitation

import attacks
from attacks import NotApplicable
from attacks.matching.client import private_model
from attacks.matching.quiet import quieten

CLASSES = 4


def efficientnet():
    stages = [
        FusedMBConvConfig(2, 3, 1, 8, 8, 1),
        MBConvConfig(2, 3, 2, 8, 16, 1),
    ]
    return models.EfficientNet(stages, 0.2, stochastic_depth_prob=0.5, num_classes=CLASSES)


def mobilenet_v3():
    stages = [
        InvertedResidualConfig(8, 3, 16, 8, True, "HS", 1, 1, 1.0),
        InvertedResidualConfig(8, 5, 16, 16, True, "RE", 2, 1, 1.0),
    ]
    return models.MobileNetV3(stages, 32, num_classes=CLASSES)


def swin(**settings):
    return models.SwinTransformer(
        [4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=CLASSES, **settings
    )


def regnet():
    blocks = BlockParams([1, 1], [8, 16], [8, 8], [1.0, 1.0], [2, 2], 0.25)
    return models.RegNet(blocks, num_classes=CLASSES, stem_width=8)


FAMILIES = {
    "resnet": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES),
    "resnext": lambda: models.ResNet(
        Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, groups=4, width_per_group=4
    ),
    "densenet": lambda: models.DenseNet(4, (2, 2), 8, drop_rate=0.2, num_classes=CLASSES),
    "densenet recomputed": lambda: models.DenseNet(
        4, (2, 2), 8, num_classes=CLASSES, memory_efficient=True
    ),
    "mobilenet_v2": lambda: models.MobileNetV2(
        CLASSES, 0.1, [[2, 8, 1, 2], [2, 16, 1, 2]], round_nearest=4
    ),
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "convnext": lambda: models.ConvNeXt(
        [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], 0.5, num_classes=CLASSES
    ),
    "vit": lambda: models.VisionTransformer(
        32, 8, 2, 2, 16, 32, dropout=0.1, attention_dropout=0.1, num_classes=CLASSES
    ),
    "swin": swin,
    "swin_v2": lambda: swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
    "maxvit": lambda: models.MaxVit((32, 32), 8, 4, [8], [1], 4, 0.5, num_classes=CLASSES),
    "shufflenet": lambda: models.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 64], num_classes=CLASSES),
    "mnasnet": lambda: models.MNASNet(0.1, num_classes=CLASSES),
    "regnet": regnet,
    "squeezenet": lambda: models.squeezenet1_1(num_classes=CLASSES),
}
WHOLE = {
    "resnet18": models.resnet18,
    "densenet121": models.densenet121,
    "mobilenet_v3_small": models.mobilenet_v3_small,
    "efficientnet_b0": models.efficientnet_b0,
    "convnext_tiny": models.convnext_tiny,
    "googlenet": partial(models.googlenet, aux_logits=False, init_weights=False),
    "regnet_y_400mf": models.regnet_y_400mf,
}
ROWS = [
    *(pytest.param(make, id=name) for name, make in FAMILIES.items()),
    *(
        pytest.param(partial(make, num_classes=CLASSES), id=name, marks=pytest.mark.slow)
        for name, make in WHOLE.items()
    ),
]
ATTACKS = {
    "deep_leakage": lambda: attacks.DeepLeakage(2, restarts=1),
    "idlg": lambda: attacks.DeepLeakage(2, restarts=1, labels="infer"),
    "inverting_gradients": lambda: attacks.InvertingGradients(2),
    "see_through": lambda: attacks.SeeThroughGradients(2, seeds=1, stages=1),
    "feature_matching": lambda: attacks.FeatureMatching(2),
}
WITHOUT_A_HEAD = "no Linear - elementwise activation - Linear that sees one vector per sample"


KNOWN = {"input_shape": (3, 32, 32), "knows": {"batch_size": 2}}


def has_a_head(model):
    return isinstance(model, models.MobileNetV3 | models.MaxVit)


def observed(make, training):
    """A model and the gradient of one batch, as its client computes it."""
    torch.manual_seed(0)
    model, inputs = make().train(training), torch.rand(2, 3, 32, 32)
    value = nn.functional.cross_entropy(model(inputs), torch.tensor([0, 2]))
    grads = torch.autograd.grad(value, list(model.parameters()))
    return model, list(grads)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("make", ROWS)
def test_two_steps_of_every_attack(make, training):
    model, gradient = observed(make, training)
    before = torch.get_rng_state()
    for name, attack in ATTACKS.items():
        if name == "feature_matching" and not has_a_head(model):
            with pytest.raises(NotApplicable, match=WITHOUT_A_HEAD):
                attack().run(model, gradient, **KNOWN)
            continue
        found = attack().run(model, gradient, **KNOWN)
        assert found.inputs.shape == (2, 3, 32, 32), name
        assert found.inputs.isfinite().all(), name
        assert found.info["evaluations"] == 2, name
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training == training


def test_the_head_of_mobilenet_is_matched_by_features():
    model, gradient = observed(FAMILIES["mobilenet_v3"], training=False)
    found = attacks.FeatureMatching(2).run(model, gradient, **KNOWN)
    assert found.info["layer"] == "classifier.0"


class Noisy(nn.Module):
    """Draws in every mode."""

    def forward(self, x):
        return x + torch.randn_like(x)


class Functional(nn.Module):
    """Dropout as a function, behind a layer that draws nothing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5, self.training)


RANDOM = {
    "dropout": (nn.Dropout(0.5), True),
    "function": (Functional(), True),
    "nested": (nn.Sequential(Functional(), nn.BatchNorm1d(6), nn.Sequential(Functional())), True),
    "rrelu": (nn.RReLU(), True),
    "attention": (nn.TransformerEncoderLayer(6, 2, 8, 0.5), True),
    "noise": (Noisy(), False),
    "noise and dropout": (nn.Sequential(nn.RReLU(), Noisy()), False),
    "nothing": (nn.BatchNorm1d(6), True),
}


@pytest.mark.parametrize(("layer", "quiet"), RANDOM.values(), ids=RANDOM)
def test_what_draws_in_training_mode_is_switched_off(layer, quiet):
    model = private_model(nn.Sequential(layer, nn.BatchNorm1d(6)), torch.float32).train()
    before = torch.get_rng_state()
    x = torch.arange(24.0).view(4, 6)
    assert quieten(model, x) is quiet
    assert torch.equal(torch.get_rng_state(), before)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert norms
    assert all(norm.training for norm in norms)
    assert torch.equal(model(x), model(x)) is quiet
    kinds = nn.RReLU | nn.Dropout | Functional
    assert not any(m.training for m in model.modules() if isinstance(m, kinds))


def test_an_attack_on_a_model_that_always_draws_repeats_itself():
    model = nn.Sequential(nn.Flatten(), Noisy(), nn.Linear(16, 3))
    gradient = [torch.rand_like(p) for p in model.parameters()]
    before = torch.get_rng_state()
    one, two = (
        attacks.InvertingGradients(4).run(
            model, gradient, input_shape=(1, 4, 4), knows={"batch_size": 2}
        )
        for _ in range(2)
    )
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_squeeze_and_excitation_with_a_hard_sigmoid_is_descended_on():
    torch.manual_seed(0)
    excite = SqueezeExcitation(4, 2, scale_activation=nn.Hardsigmoid)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), excite, nn.Flatten(), nn.Linear(144, 3))
    inputs, labels = torch.rand(1, 1, 8, 8), torch.tensor([2])
    value = nn.functional.cross_entropy(model(inputs), labels)
    gradient = list(torch.autograd.grad(value, list(model.parameters())))
    attack = attacks.DeepLeakage(400, labels="infer")
    found = attack.run(model, gradient, input_shape=(1, 8, 8), knows={"batch_size": 1})
    assert found.info["objective"] < 1e-4
