"""The phase of an MRI scan: made smooth where k-space alone says it, corrected together with the image where a prior helps."""

from dataclasses import replace

import pytest
import torch

from data.seeding import Noise
from ldm.analytic import gaussian
from ldm.denoiser import Prior
from solvers.measured import joint_phase
from solvers.measured.phase import COSINES, cosines, smooth
from solvers.operators.kspace import equispaced, to_complex, to_real
from solvers.operators.mri import MRI
from solvers.operators.mri_noncartesian import NonCartesianMRI
from solvers.operators.mri_recipes import simulated
from solvers.operators.mri_trajectories import radial
from solvers.pnp import PnP
from solvers.problem import Gaussian, from_measurement, measure
from solvers.tv import TV

SIZE = 24
MASK = equispaced(SIZE, SIZE, 3.0, 0.25, Noise(["mask"], "mask"))


def waves(seed, size, most=COSINES):
    """A phase of the lowest `most` half waves, of about one radian."""
    c = Noise(["phase"], "noise", seed).normal((1, most, most), torch.float64)[0]
    rows, columns = (cosines(n)[:most] for n in size)
    return rows.T @ c @ columns / most**0.5


def images(count):
    """Draws from a Gaussian prior of smooth images in [-1, 1], and that prior."""
    place = torch.arange(SIZE, dtype=torch.float64)
    near = torch.exp(-(((place[:, None] - place) / 4) ** 2) / 2)
    covariance = 0.15 * torch.kron(near, near) + 1e-4 * torch.eye(SIZE**2)
    model = gaussian(covariance)
    normal = Noise([f"x{i}" for i in range(count)], "noise").normal((count, SIZE**2), torch.float64)
    x = model.draw(torch.zeros(count), normal).reshape(count, 1, SIZE, SIZE)
    return x, Prior(model, (1, SIZE, SIZE)).double()


def operator(phase, kind=MRI):
    """Four coils whose maps hold a phase [B,1,H,W]; columns of k-space, or spokes."""
    turn = torch.exp(1j * phase)
    S = to_real(to_complex(simulated(4, SIZE, SIZE)) * turn)
    path = MASK if kind is MRI else radial(SIZE, SIZE, 10, 2 * SIZE)[None]
    return kind(path.double(), S, open_phase=True)


def scan(kind=MRI):
    """Measurements of two images through maps of the right phase, posed with maps that are 0.15 radians off; that phase."""
    x, prior = images(2)
    right = torch.stack([waves(i, (SIZE, SIZE), 4)[None] for i in range(2)])
    wrong = right + 0.3 * torch.stack([waves(7 + i, (SIZE, SIZE), 4)[None] for i in range(2)])
    noise = Noise(["a", "b"], "noise")
    seen = measure(operator(right, kind).draw(x.shape[1:], noise), x, Gaussian(0.005), noise)
    given = from_measurement(
        operator(wrong, kind), seen.stored(), Gaussian(0.005), noise, x.shape[1:]
    )
    return seen, given, prior, x


def apart(one, other):
    """The root mean square of the angle between the maps of two problems [B]."""
    S, T = (to_complex(p.operator.sensitivities) for p in (one, other))
    return (S * T.conj()).sum(1).angle().square().mean((1, 2)).sqrt()


@pytest.mark.parametrize("kind", [MRI, NonCartesianMRI])
def test_a_wrong_phase_moves_to_where_the_image_explains_the_data(kind):
    seen, given, prior, x = scan(kind)
    found = joint_phase.with_joint_phase(given, prior)
    before, after = apart(given, seen), apart(found, seen)
    assert (before > 0.1).all() and (after < before / 3).all(), (before, after)
    assert (found.residual(x) < given.residual(x) / 2).all()


def test_the_problem_found_is_that_of_the_same_samples():
    _, given, prior, x = scan()
    found = joint_phase.with_joint_phase(given, prior)
    torch.testing.assert_close(found.stored(), given.stored(), rtol=0, atol=1e-12)
    assert found.operator.open_phase and found.likelihood == given.likelihood
    alone = joint_phase.with_joint_phase(given.select([1]), prior)
    torch.testing.assert_close(alone.y, found.y[1:], rtol=0, atol=1e-9)
    assert joint_phase.moved(given, given) == 0


def test_what_is_known_or_cannot_be_found_stays_as_it_is():
    _, given, prior, _ = scan()
    known = replace(given, operator=given.operator.bind(given.operator.shape, open_phase=False))
    assert joint_phase.refined(known, prior, PnP()) == (known, [])
    assert joint_phase.refined(given, prior, TV())[0] is given
    latent = Prior(prior.denoiser, prior.shape)
    latent.kind = "latent"
    assert joint_phase.refined(given, latent, PnP())[0] is given
    assert [joint_phase.calls(given, prior, solver) for solver in (PnP(), TV())] == [10, 0]
    found, said = joint_phase.refined(given, prior, PnP())
    assert found is not given and "rad corrected" in said[0]


@pytest.mark.parametrize("settings", [{}, {"complex_image": True, "sensitivities": 1}])
def test_a_phase_is_open_only_where_there_is_one(settings):
    maps = {"sensitivities": simulated(4, SIZE, SIZE)} if settings else {}
    with pytest.raises(ValueError, match="open_phase is that of real images"):
        MRI(MASK, **(settings | maps), open_phase=True).draw((1, SIZE, SIZE), Noise(["a"], "noise"))


def test_a_smooth_phase_is_found_behind_noise_and_through_whole_turns():
    shape = (60, 48)
    slope = torch.linspace(-30, 30, 60, dtype=torch.float64)[
        :, None
    ]  # ten turns, as of an image out of the middle
    phi = slope + waves(3, shape, 6)
    noise = Noise(["n"], "noise").normal((1, 2, *shape), torch.float64)[0]
    y, x = torch.meshgrid(torch.arange(60) - 30, torch.arange(48) - 24, indexing="ij")
    body = ((y / 26.0) ** 2 + (x / 20.0) ** 2 < 1).double()
    z = body * torch.exp(1j * phi) + 0.05 * torch.complex(*noise)
    found = smooth(z / z.abs(), body * z.abs().square())
    error = (found * torch.exp(-1j * phi)).angle()[body > 0]
    # 144 numbers found from 1,621 pixels of 0.05 rad: 0.05 sqrt(144 / 1621) = 0.0149, and three deviations, each 1 / sqrt(288)
    assert error.square().mean().sqrt() < 0.0176


def test_a_phase_with_jumps_is_left_alone():
    p = torch.ones(40, 40, dtype=torch.complex128)
    p[10:30, 15:20] = -1
    assert smooth(p, torch.ones(40, 40)) is p
