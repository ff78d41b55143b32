"""The fixed-layout patch baselines of PaDIS."""

import pytest
import tiny
import torch
from analytic import Shrink

from data.seeding import Noise
from ldm import checkpoints
from ldm.patch import FixedPatchPrior


class Corner(torch.nn.Module):
    """Answers with the x coordinate of each patch's own left edge, so that one sees whose pixel it is."""

    def forward(self, x, sigma, label, position):
        return position[:, :1, :1, :1].expand_as(x).to(x)


@pytest.mark.parametrize("blend", ["average", "stitch"])
def test_a_pixelwise_denoiser_is_assembled_whole(blend):
    prior = FixedPatchPrior(Shrink(), 1, 256, 56, blend=blend)
    assert prior.starts.tolist() == [4, 52, 100, 148, 196, 244]
    x = Noise(["a"], "solver").normal((1, *prior.shape), torch.float64)
    found = prior.denoise(x, torch.ones(1, dtype=torch.float64))
    expected = prior.pad(prior.crop(x) * 0.2)  # s0^2 / (s0^2 + 1), s0 = 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_where_patches_overlap():
    """Columns 52 to 59 belong to the patches that start at 4 and at 52; coordinates are 2u / 303 - 1."""
    left, right = (2 * u / 303 - 1 for u in (4, 52))
    for blend, expected in (("average", (left + right) / 2), ("stitch", right)):
        prior = FixedPatchPrior(Corner(), 1, 256, 56, blend=blend)
        row = prior.denoise(torch.zeros(1, *prior.shape, dtype=torch.float64), torch.ones(1))[
            0, 0, 100
        ]
        assert float(row[55]) == pytest.approx(expected) and float(row[51]) == pytest.approx(left)


def test_loaded_from_a_model_folder(tmp_path):
    """Where a prior is built without memory before its weights are read."""
    node = {**tiny.patch(), "target": "ldm.patch.FixedPatchPrior"}
    node["params"]["overlap"] = 2
    prior = checkpoints.load(tiny.folder(tmp_path / "fixed", node))
    assert prior.starts.tolist() == [6, 12, 18]
    assert torch.isfinite(prior.denoise(torch.zeros(1, *prior.shape), torch.ones(1))).all()


def test_an_impossible_layout_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        FixedPatchPrior(Shrink(), 1, 256, 56, overlap=56)
