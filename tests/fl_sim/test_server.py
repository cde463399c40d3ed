"""What the server measures after a round."""

import pytest
import torch

from fl_sim.federation import Federation
from fl_sim.server import evaluate_model, model_of


@pytest.mark.parametrize("asked", [70, "null", 10**6])
def test_a_row_says_how_many_images_were_tested(scenario, asked):
    config = scenario(f"data.test_samples={asked}", "model.width=8")
    federation = Federation(config)
    row = evaluate_model(model_of(config, federation), federation, config, 3)
    assert row.round == 3
    assert row.tested == (70 if asked == 70 else len(federation.data.test_labels))


def test_a_loss_that_is_no_number_is_none(scenario):
    config = scenario("data.test_samples=20", "model.width=8")
    federation = Federation(config)
    model = model_of(config, federation)
    torch.nn.init.constant_(model.layers[0].bias, torch.nan)
    assert evaluate_model(model, federation, config, 1).loss is None
