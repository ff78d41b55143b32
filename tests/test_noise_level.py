"""Denoising: plug and play answers in one call, and noise that a scan does not have is named."""

import json

import pytest
import torch
from analytic import isotropic, latent

import sample
from data.seeding import Noise
from ldm.sampling import full
from ldm.volume import VolumePrior
from solvers.measured.noise_level import estimated_sigma_y, overstated
from solvers.operators import Denoising, SuperResolution
from solvers.operators.volume import Slicewise
from solvers.pnp import PnP
from solvers.problem import Gaussian, Problem, measure

IDS = ("a", "b")


def noisy(sigma_y: float | None, size: int = 48, told: float | None = None) -> Problem:
    """Smooth pictures [2,1,size,size] with noise of sigma_y, of which the problem says `told`."""
    ramp = torch.linspace(-0.5, 0.5, size).expand(2, 1, size, size)
    problem = measure(
        Denoising().draw((1, size, size), Noise(IDS, "mask")),
        ramp,
        Gaussian(sigma_y),
        Noise(IDS, "noise"),
    )
    return Problem(problem.y, problem.operator, Gaussian(told), IDS)


def test_the_answer_is_the_denoiser_at_the_noise_of_y():
    prior, problem = isotropic((1, 48, 48)), noisy(0.2, told=0.2)
    solver = PnP(steps=10)
    *_, last = solver(problem, prior, Noise(IDS, "solver"))
    assert last.t == 0  # one call
    torch.testing.assert_close(last.x0, prior.denoise(problem.y, full(0.2, problem.y)))


def test_unknown_noise_is_each_image_s_own():
    problem = noisy(0.2)
    problem = Problem(
        problem.y * torch.tensor([1.0, 0.25])[:, None, None, None],
        problem.operator,
        Gaussian(None),
        IDS,
    )
    prior, solver = isotropic((1, 48, 48)), PnP()
    found = solver.solve(problem, prior)
    torch.testing.assert_close(found, prior.denoise(problem.y, estimated_sigma_y(problem)))
    torch.testing.assert_close(found[1:], solver.solve(problem.select([1]), prior))


def test_a_denoised_volume_is_tied_together_by_its_own_noise():
    """Not by the largest of the batch."""
    slices = noisy(0.2).y * torch.tensor([1.0, 0.25])[:, None, None, None]
    rough = slices[:, :, None] + 0.05 * Noise(IDS, "noise").normal((2, 1, 6, 48, 48))
    stack = Slicewise(Denoising()).draw((1, 6, 48, 48), Noise(IDS, "mask"))
    problem = Problem(rough, stack, Gaussian(None), IDS)
    prior, solver = VolumePrior(isotropic((1, 48, 48)), (1, 6, 48, 48)), PnP(z_tv=1.0)
    found = solver.solve(problem, prior)
    for i in range(2):
        torch.testing.assert_close(found[i : i + 1], solver.solve(problem.select([i]), prior))


def test_other_operators_and_latents_take_turns():
    assert len(PnP(steps=7).levels(noisy(0.2, 16, told=0.2), latent((1, 8, 8)))) == 8
    x = torch.zeros(2, 1, 16, 16)
    low = measure(
        SuperResolution().draw((1, 16, 16), Noise(IDS, "mask")),
        x,
        Gaussian(0.1),
        Noise(IDS, "noise"),
    )
    assert len(PnP(steps=7).levels(low, isotropic((1, 16, 16)))) == 8


@pytest.mark.parametrize("told, said", [(0.05, False), (0.09, False), (0.2, True)])
def test_noise_that_y_does_not_have_is_named(told, said):
    assert bool(overstated(noisy(0.05, told=told).select([0]))) == said


def test_a_volume_s_noise_is_estimated_and_what_it_lacks_is_said(tmp_path, capsys):
    nibabel = pytest.importorskip("nibabel")
    noise = Noise(["v"], "noise").normal((1, 32, 32, 6))[0]
    volume = 100 + 20 * torch.linspace(0, 1, 32)[:, None, None] + 2 * noise
    nibabel.save(
        nibabel.Nifti1Image(volume.float().numpy(), torch.eye(4).numpy()), tmp_path / "v.nii"
    )
    words = [
        "--data-root",
        str(tmp_path / "v.nii"),
        "--measurements",
        "--task",
        "denoising",
        "--model",
        "demo-pixel",
    ]
    assert sample.main([*words, "--save-dir", str(tmp_path / "told")]) == 0
    assert (
        "sigma_y is 0.2, but neighbours in y differ as by noise of" not in capsys.readouterr().out
    )
    assert (
        sample.main([*words, "--save-dir", str(tmp_path / "high"), "likelihood.params.sigma_y=0.5"])
        == 0
    )
    assert (
        "note: denoising-pnp: v: sigma_y is 0.5, but neighbours in y differ"
        in capsys.readouterr().out
    )
    assert (
        sample.main(
            [*words, "--save-dir", str(tmp_path / "found"), "likelihood.params.sigma_y=null"]
        )
        == 0
    )
    record = json.loads((tmp_path / "found/records.jsonl").read_text())
    low, high = record["contract"]
    assert record["sigma_y_estimated"] == pytest.approx(2 * 2 / (high - low), rel=0.1)
