"""A client that drops pixels before its first layer: features are certified, images never."""

import json
import subprocess
import sys

import pytest

OWN = """
from torch import nn

class Dropped(nn.Sequential):
    def __init__(self, num_classes=10):
        super().__init__(
            nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(256), nn.GELU(),
            nn.Linear(256, num_classes),
        )
"""

SMALL = (
    "rounds=1", "clients.count=1", "clients.per_round=1", "clients.batch_size=4",
    "data.samples_per_client=8", "data.test_samples=20", "tracker=none", "hydra.run.dir=run",
    "model._target_=mine.Dropped",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["features", "tensor", "analytic"])
def test_dropout_in_front_takes_the_images_certificates_away(tmp_path, attack):
    (tmp_path / "mine.py").write_text(OWN)
    command = [sys.executable, "-m", "fl_sim", *SMALL, f"attack={attack}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, told
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["attacks"]
    assert row["certified"] == row["false_certificates"] == row["recovered"] == 0
    assert "in training mode '1' changes what '2' sees" in row["message"]
    page = (tmp_path / "run" / "report.html").read_text()
    if attack != "features":
        assert row["status"] == "not_applicable"
        assert row["features_certified"] == 0
        return
    assert row["status"] == "ok"
    assert row["features_certified"] == 4
    assert "What a layer saw of 4 images is certified; the images themselves are" in told
    assert "4 features certified, their images estimated" in page
