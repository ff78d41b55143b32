"""Non-Cartesian MRI: the transform by its sum, at whole numbers the Cartesian one, densities, derivatives, and BART's hand."""

import pickle
import sys

import bart
import numpy as np
import pytest
import torch

from data.seeding import Noise
from solvers.operators import NonCartesianMRI, SpiralMRI, SpokesMRI
from solvers.operators.base import conjugate_gradients
from solvers.operators.kspace import fourier, to_complex, to_real
from solvers.operators.mri_density import areas
from solvers.operators.mri_recipes import simulated
from solvers.operators.mri_trajectories import radial, spiral
from solvers.operators.nufft import NonuniformFourier

NOISE = Noise(["a"], "noise")


def complex_image(*shape: int) -> torch.Tensor:
    z = Noise(["z"], "noise").normal((1, 2, *shape), torch.float64)
    return torch.complex(z[0, 0], z[0, 1])


@pytest.mark.parametrize("shape", [(16, 12), (17, 23), (9, 8)], ids=str)
def test_the_transform_is_its_sum(shape):
    """exp(-2 pi i k (r - n//2) / n) over root (H W), odd sizes too; its adjoint is the transpose to rounding."""
    k = (Noise(["k"], "noise").uniform((1, 2, 40), torch.float64)[0] - 0.5) * torch.tensor(
        shape
    ).view(2, 1)
    z, F = complex_image(*shape), NonuniformFourier(k, shape)
    y, x = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    phase = k[0][:, None, None] * y[:, None] / shape[0] + k[1][:, None, None] * x / shape[1]
    matrix = torch.exp(-2j * torch.pi * phase).flatten(1) / (shape[0] * shape[1]) ** 0.5
    torch.testing.assert_close(F.forward(z), matrix @ z.flatten(), rtol=0, atol=1e-12)
    samples = complex_image(1, 40)[0]
    back = (matrix.mH @ samples).reshape(shape)
    torch.testing.assert_close(F.adjoint(samples), back, rtol=0, atol=1e-12)
    gap = torch.vdot(F.forward(z), samples) - torch.vdot(z.flatten(), F.adjoint(samples).flatten())
    assert abs(complex(gap)) < 1e-12 * float(z.norm() * samples.norm())


@pytest.mark.parametrize("shape", [(17, 23), (16, 12)], ids=str)
def test_whole_numbers_are_the_cartesian_transform(shape):
    grid = torch.meshgrid(*(torch.arange(n) - n // 2 for n in shape), indexing="ij")
    A = NonCartesianMRI(torch.stack(grid).double(), complex_image=True).draw((2, *shape), NOISE)
    z = complex_image(*shape)
    found = to_complex(A.forward(to_real(z[None, None])))[0, 0]
    torch.testing.assert_close(found, fourier(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        A.areas, torch.ones_like(A.areas), rtol=0, atol=1e-4, msg="each stands for one"
    )


def test_derivatives_either_way_are_the_map_itself():
    """As latent priors and nonlinear solvers take them: jvp, vjp."""
    A = SpokesMRI(3, 10, coils=2).draw((1, 8, 6), NOISE)
    x, t = (Noise([name], "noise").normal((1, 1, 8, 6), torch.float64) for name in "xt")
    _, along = torch.func.jvp(A.forward, (x,), (t,))
    torch.testing.assert_close(along, A.forward(t), rtol=0, atol=1e-12)
    value, pull = torch.func.vjp(A.forward, x)
    torch.testing.assert_close(pull(value)[0], A.adjoint(value), rtol=0, atol=1e-12)


def test_areas_of_enough_spokes_grow_as_the_radius():
    """Neighbours of a fully sampled disc stand for |k| times the angle between spokes, away from middle and edge."""
    spokes, n = 128, 64
    angle = torch.arange(spokes).double()[:, None] * torch.pi / spokes
    along = (torch.arange(2 * n).double() - n) / 2
    k = torch.stack([along * angle.sin(), along * angle.cos()])
    found = areas(NonuniformFourier(k.flatten(1), (n, n))).reshape(spokes, 2 * n)
    ring = (along.abs() > 4) & (along.abs() < 26)
    due = along.abs() * torch.pi / spokes / 2
    share = (found / due)[:, ring]
    assert 0.97 < float(share.mean()) < 1.03 and float(share.std()) < 0.05
    assert float(found.sum()) == pytest.approx(np.pi * 32**2, rel=0.05)


@pytest.mark.parametrize(
    "recipe, least", [(SpokesMRI(48, 96, coils=4), 21), (SpiralMRI(12, 4.0, 1.0, 256, 4), 21)]
)
def test_gridding_and_sense_restore_a_disc(recipe, least):
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 48).double(),) * 2, indexing="ij")
    disc = 2 * torch.sigmoid(20 * (0.5 - x.square() - y.square())) * (0.6 + 0.3 * x) - 1
    image, A = disc[None, None], recipe.draw((1, 48, 48), NOISE)
    measured = A.forward(image)

    def psnr(found: torch.Tensor) -> float:
        return float(10 * torch.log10(4 / (found - image).square().mean()))

    assert psnr(A.baseline(measured, (1, 48, 48))) > least
    sense = conjugate_gradients(lambda p: A.adjoint(A.forward(p)), A.adjoint(measured), cap=20).x
    assert psnr(sense) > 40


def test_plans_do_not_travel_and_rows_of_a_batch_have_their_own_trajectory():
    k = torch.stack([radial(8, 8, 3, 16), radial(8, 8, 3, 16).flip(0)])
    A = NonCartesianMRI(k).draw((1, 8, 8), Noise(["a", "b"], "noise"))
    x = Noise(["a", "b"], "noise").normal((2, 1, 8, 8), torch.float64)
    y = A.forward(x)
    torch.testing.assert_close(A.select([1]).forward(x[1:]), y[1:], rtol=0, atol=0)
    again = pickle.loads(pickle.dumps(A))
    torch.testing.assert_close(again.forward(x), y, rtol=0, atol=0)


def test_single_precision_says_nothing(capfd):
    """finufft prints a warning of its own where single precision is asked for too much."""
    A = SpokesMRI(4, 64).draw((1, 32, 32), NOISE)
    A.adjoint(A.forward(torch.ones(1, 1, 32, 32)))
    assert capfd.readouterr() == ("", "")


def test_without_finufft_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(ValueError, match=r"needs finufft: pip install 'palimpsest\[mri\]'"):
        SpokesMRI(4).draw((1, 8, 8), NOISE)


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda k: k / 32, "cycles per pixel"),
        (lambda k: 2 * k, "a matrix of 32×32 ends at 16 and 16"),
        (lambda k: torch.full_like(k, torch.nan), "not finite"),
        (lambda k: k.moveaxis(0, -1), r"\[2,shots,samples\]"),
    ],
)
def test_a_trajectory_in_other_units_is_one_line(change, line):
    with pytest.raises(ValueError, match=line):
        NonCartesianMRI(change(radial(32, 32, 5, 64))).draw((1, 32, 32), NOISE)


def test_spirals_have_equal_speed_and_stay_in_the_matrix():
    k = spiral(64, 64, 4, 3.0, 400, 1.5)
    steps = k.diff(dim=2).norm(dim=0)
    assert float(steps.std() / steps.mean()) < 0.01 and float(k.norm(dim=0).max()) <= 32


def barts(k: torch.Tensor, folder) -> None:
    """k [2,shots,samples] as BART has trajectories: [3, samples, shots]."""
    data = torch.cat([k, torch.zeros_like(k[:1])]).mT.numpy().astype(np.complex64)
    (folder / "k.hdr").write_text(f"# Dimensions\n3 {k.shape[2]} {k.shape[1]}\n")
    (folder / "k.cfl").write_bytes(data.tobytes(order="F"))


@bart.needed
def test_samples_are_those_of_barts_transform(tmp_path):
    """bart nufft -s, the exact sum, which does not divide by the root of the number of pixels."""
    k, z = radial(16, 12, 5, 20), complex_image(16, 12)
    barts(k, tmp_path)
    theirs = bart.run(
        tmp_path, f"nufft -s {tmp_path / 'k'} {{z}} {{out}}", z=z.numpy(), raw=True
    ).reshape(20, 5)
    F = NonuniformFourier(k.flatten(1), (16, 12))
    ours = F.forward(z).reshape(5, 20).T * (16 * 12) ** 0.5
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-4)


@bart.needed
def test_least_squares_are_those_of_pics_along_a_trajectory(tmp_path):
    """bart traj -r -G, samples by our transform, and pics on them: pictures differ by less than 2 % of the brightest."""
    n, coils = 32, 4
    path = bart.run(tmp_path, "traj -r -G -x 64 -y 24 {out}", raw=True).real
    k = torch.from_numpy(path[:2, :, :, 0].transpose(0, 2, 1).copy()).double() / 2
    S = simulated(coils, n, n)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n).double(),) * 2, indexing="ij")
    z = torch.exp(-4 * (x.square() + y.square()) + 1j * x) + 0j
    A = NonCartesianMRI(k, S, complex_image=True).draw((2, n, n), NOISE)
    samples = A.forward(to_real(z[None, None]))
    barts(k, tmp_path)
    data = to_complex(samples)[0].numpy().transpose(2, 1, 0)[None]  # [1, samples, shots, coils]
    (tmp_path / "y.hdr").write_text(f"# Dimensions\n{' '.join(map(str, data.shape))}\n")
    (tmp_path / "y.cfl").write_bytes(data.astype(np.complex64).tobytes(order="F"))
    command = f"pics -w1 -S -i100 -l2 -r0.001 -t {tmp_path / 'k'} {tmp_path / 'y'} {{S}} {{out}}"
    theirs = torch.from_numpy(bart.run(tmp_path, command, S=to_complex(S)[0].numpy()))[0]
    b = A.adjoint(samples)
    ours = conjugate_gradients(lambda p: A.adjoint(A.forward(p)) + 0.001 * p, b, cap=100).x
    ours = to_complex(ours)[0, 0]
    assert float((ours - z).abs().max() / z.abs().max()) < 0.02
    assert float((ours - theirs).norm() / theirs.norm()) < 0.02
