"""Every task file builds, names its paper, and measures; the published scripts' task names lead to one of them."""

from pathlib import Path

import pytest
import torch
import yaml

from data.seeding import Noise
from ldm.config import build, load
from solvers.measured.scanner import Scanner
from solvers.operators import Inpainting
from solvers.operators.base import LinearOperator
from solvers.problem import Clean, Gaussian, Poisson, measure

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "tasks"
TASKS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "aliases")
LISTED = (
    "super_resolution super_resolution_average gaussian_deblur motion_deblur uniform_deblur inpainting_random inpainting_box "
    "inpainting_mask outpainting destriping denoising center_tile nonlinear_deblur nonlinear_deblur_bkse phase_retrieval hdr "
    "ct_parallel_20 ct_parallel_8 ct_parallel_60 ct_fan_180 ct_limited_angle mri_x4 mri_x8 compressed_sensing "
    "through_plane_x4 missing_slices volume_deblur mri_volume_x4"
).split()


def test_all_tasks_are_there():
    assert set(LISTED) <= {path.stem for path in TASKS}


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_builds_and_measures(path, tmp_path):
    """On a small image where the sizes are relative, and at the published 256 otherwise; the user's own files aside."""
    assert path.read_text().startswith("# ")
    config = load([path])
    assert set(config) == {"operator", "likelihood"}
    likelihood = build(config["likelihood"])
    assert isinstance(likelihood, (Gaussian, Poisson, Clean))
    shape = (1, 12, 64, 64) if "operators.volume." in config["operator"]["target"] else (1, 64, 64)
    x = torch.zeros(1, *shape)
    noise = Noise(["a"], "noise")
    if path.stem == "nonlinear_deblur_bkse":
        with pytest.raises(ValueError, match="needs a weights file"):
            build(config["operator"])
        return
    if path.stem == "inpainting_mask":
        with pytest.raises(ValueError, match="needs a value for 'mask'"):
            build(config["operator"])
        operator = Inpainting(torch.eye(64))
    else:
        operator = build(config["operator"])
    if isinstance(operator, Scanner):
        with pytest.raises(ValueError, match="--measurements FILE"):
            operator.draw(shape, noise)
        return
    operator = operator.draw(shape, noise)
    y = measure(operator, x, likelihood, noise).y
    assert tuple(y.shape[1:]) == operator.shape_out(shape) and bool(torch.isfinite(y).all())
    if isinstance(operator, LinearOperator):
        assert operator.adjoint(y).shape == x.shape


def test_published_names_lead_somewhere():
    aliases = yaml.safe_load((FOLDER / "aliases.yaml").read_text())
    names = {path.stem for path in TASKS}
    assert set(aliases.values()) <= names and not set(aliases) & names
    assert {
        "down_sampling",
        "inpainting_rand",
        "gaussian_blur",
        "motion_blur",
        "nonlinear_blur",
    } <= set(aliases)
