"""Volumes from priors of slices: the denoiser slice by slice, planes averaged, a belief that couples slices, exact posteriors."""

import calibrate_volumes
import numpy as np
import pytest
import torch
from analytic import Shrink, isotropic
from calibrate import calibrate
from torch import nn

from data.files import Refusal
from data.seeding import Noise
from ldm import resize
from ldm.denoiser import EDM, Prior
from ldm.networks.residual_unet import ResidualUNet
from ldm.volume import PLANES, VolumePrior
from solvers.beliefs import Belief, Spectral
from solvers.condition import condition, conditioned
from solvers.daps import DAPS
from solvers.operators import CartesianMRI, GaussianBlur
from solvers.operators.volume import MissingSlices, Slicewise, ThroughPlane, axis
from solvers.operators.volume.mri import VolumeMRI
from solvers.operators.volume.slicewise import LinearStack
from solvers.pnp import PnP
from solvers.problem import Gaussian, measure
from solvers.tv import gradient, gradient_adjoint, smoothed_along_slices

IDS = ("a", "b")
KNOTS = 16
ROWS = [[s, *(0.3 * s**2 / (s**2 + 0.25) / (1 + np.arange(KNOTS)))] for s in (0.05, 0.5, 5.0)]


def noise(*shape: int, ids=IDS, purpose="noise") -> torch.Tensor:
    return Noise(ids[: shape[0]], purpose).normal(shape, torch.float64)


class Network(nn.Module):
    """Convolves a slice with an uneven kernel: it knows rows from columns, and a network of any size."""

    any_size = True

    def forward(self, x, time, label=None):
        return x + 0.5 * x.roll(1, -1) + 0.25 * x.roll(1, -2)


def any_size(shape=(1, 8, 8)) -> Prior:
    return Prior(EDM(Network()), shape, variances=ROWS)


def test_a_volume_is_denoised_slice_by_slice_whatever_the_batch():
    x, sigma = noise(2, 1, 5, 8, 8), torch.tensor([0.3, 2.0], dtype=torch.float64)
    slices = any_size()
    for batch in (1, 3, 100):
        found = VolumePrior(slices, (1, 5, 8, 8), batch=batch).denoise(x, sigma)
        for d in range(5):
            torch.testing.assert_close(
                found[:, :, d], slices.denoise(x[:, :, d], sigma), rtol=0, atol=1e-12
            )


def test_planes_are_averaged_each_with_its_own_slices():
    x, sigma = noise(1, 1, 5, 6, 7), torch.ones(1, dtype=torch.float64)
    slices = any_size((1, 6, 7))
    found = VolumePrior(slices, (1, 5, 6, 7), ("axial", "coronal", "sagittal")).denoise(x, sigma)
    axial = torch.stack([slices.denoise(x[:, :, i], sigma) for i in range(5)], 2)
    coronal = torch.stack([slices.denoise(x[:, :, :, i], sigma) for i in range(6)], 3)
    sagittal = torch.stack([slices.denoise(x[..., i], sigma) for i in range(7)], 4)
    torch.testing.assert_close(found, (axial + coronal + sagittal) / 3, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [0.0, 0.7, 3.0])
def test_errors_of_neighbours_go_together_as_was_stated(length):
    """The correlation between slices of V, entry by entry, is exp(-distance / length), up to what wraps around."""
    depth = 64
    prior = VolumePrior(any_size(), (1, depth, 8, 8), length=length)
    correlation = np.fft.ifft(prior.across(0.5, PLANES["axial"], 8, 8).flatten().numpy()).real
    assert correlation[0] == pytest.approx(1)
    expected = [float(np.exp(-d / length)) if length else 0.0 for d in (1, 2, 3)]
    np.testing.assert_allclose(correlation[1:4], expected, atol=1e-9)


def test_the_belief_of_a_volume_is_a_dense_covariance():
    """V x against the matrix F^H diag F between two diagonals, on a volume of odd sizes; the mean variance is an entry's."""
    shape = (1, 3, 5, 4)
    prior = VolumePrior(any_size((1, 5, 4)), shape)
    mean = noise(1, *shape)
    problem = measure(MissingSlices([1]), mean, Gaussian(0.1), Noise(IDS[:1], "noise"))
    belief = Belief.of(prior, mean, 0.5, problem)
    assert isinstance(belief, Spectral)
    density = prior.density(0.5).numpy()
    n = density.size
    basis = np.eye(n).reshape(n, *density.shape)
    T = belief.place.flatten().numpy()
    filtered = (
        np.fft.ifftn(np.sqrt(density) * np.fft.fftn(basis, axes=(1, 2, 3)), axes=(1, 2, 3))
        .real.reshape(n, n)
        .T
    )
    H = T[:, None] * filtered * T
    x = noise(1, *shape, purpose="mask")
    np.testing.assert_allclose(
        belief.apply(x).flatten().numpy(), H @ H @ x.flatten().numpy(), atol=1e-12
    )
    assert float(belief.entry) == pytest.approx(density.mean())


def test_a_missing_slice_is_filled_from_its_neighbours_exactly():
    """The update under the volume's belief is the dense Gaussian conditional mean; slices that are independent stay apart."""
    shape = (1, 6, 4, 4)
    x = noise(1, *shape)
    problem = measure(MissingSlices([2]), x, Gaussian(0.05), Noise(IDS[:1], "noise"))
    for length in (1.5, 0.0):
        prior = VolumePrior(any_size((1, 4, 4)), shape, length=length)
        belief = Spectral(
            torch.zeros(1, *shape, dtype=torch.float64), prior.density(0.5)[None, None, ..., :3]
        )
        belief.accuracy = 1e-12  # type: ignore[misc]
        found = condition(belief, problem)
        n = 96
        V = np.stack(
            [
                belief.apply(e.reshape(1, *shape)).flatten().numpy()
                for e in torch.eye(n, dtype=torch.float64)
            ]
        )
        A = np.diag(MissingSlices([2]).forward(torch.ones(1, *shape)).flatten().numpy())
        gain = V @ A.T @ np.linalg.inv(0.05**2 * np.eye(n) + A @ V @ A.T)
        np.testing.assert_allclose(
            found.flatten().numpy(), gain @ problem.y.flatten().numpy(), atol=1e-8
        )
        assert (float(found[:, :, 2].abs().max()) > 0.01) == (length > 0)


SLOW = [
    pytest.param(operator, marks=pytest.mark.slow)
    for operator in (ThroughPlane(2.0), Slicewise(GaussianBlur(3, 1.0)))
]


@pytest.mark.parametrize("operator", [MissingSlices([0, 3]), *SLOW], ids=repr)
def test_daps_samples_the_exact_posterior_of_a_correlated_volume(operator):
    """x0 ~ N(0, S) on 4x4x4 entries, correlated along all axes, its exact D in place of a network and V = Cov[x0 | x] whole:
    means of 400 draws within 5 standard errors of the dense posterior's, variances within 5 of theirs (64 entries each; the
    chance of one beyond is 4e-5 an operator)."""
    shape, count, sigma_y = (1, 4, 4, 4), 400, 0.2
    index = np.arange(4)
    line = np.exp(-np.abs(index[:, None] - index) / 1.5)
    S = 0.25 * np.kron(np.kron(line, line), line)
    prior = volume_of(S, shape)
    drawn = operator.draw(shape, Noise(("truth",), "mask"))
    truth = torch.from_numpy(np.linalg.cholesky(S)) @ noise(1, 64, ids=("truth",)).T
    problem = measure(
        drawn, truth.T.reshape(1, *shape), Gaussian(sigma_y), Noise(("truth",), "noise")
    ).repeat(count)
    solver = DAPS(steps=30, sigma_max=5.0, sigma_min=0.02, covariance="operator", rank=64)
    *_, last = solver(problem, prior, Noise(("truth",) * count, "solver", 0, range(count)))
    draws = last.x0.flatten(1).numpy()
    A = np.stack(
        [
            drawn.forward(e.reshape(1, *shape)).flatten().numpy()
            for e in torch.eye(64, dtype=torch.float64)
        ],
        1,
    )
    gain = S @ A.T @ np.linalg.inv(sigma_y**2 * np.eye(len(A)) + A @ S @ A.T)
    mean, variance = gain @ problem.y[0].flatten().numpy(), np.diag(S - gain @ A @ S)
    assert (np.abs(draws.mean(0) - mean) / np.sqrt(variance / count)).max() < 5
    assert (np.abs(draws.var(0, ddof=1) / variance - 1) / np.sqrt(2 / (count - 1))).max() < 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", calibrate_volumes.OPERATORS)
def test_the_card_calls_the_whole_covariance_a_sampler(kind):
    """8x8x8 entries, four measurements, 24 draws of each: the first lines of the card in docs/volumes.md."""
    known = calibrate_volumes.truth()
    solver = calibrate_volumes.SOLVERS["DAPS, exact draw, whole covariance"]
    operator, prior = calibrate_volumes.OPERATORS[kind], calibrate_volumes.Exact(known)
    card = calibrate(solver, known, 4, 24, other=operator, prior=prior)
    assert card.sampler, card


class Correlated(nn.Module):
    """The exact D of N(0, S), S given by its eigenvectors."""

    def __init__(self, S: np.ndarray):
        super().__init__()
        values, vectors = np.linalg.eigh(S)
        self.values, self.vectors = torch.from_numpy(values), torch.from_numpy(vectors)

    def forward(self, x, sigma, label=None):
        share = self.values / (self.values + sigma[:, None].double() ** 2)
        return ((x.flatten(1) @ self.vectors * share) @ self.vectors.T).reshape(x.shape)


def volume_of(S: np.ndarray, shape: tuple[int, ...]) -> VolumePrior:
    """A volume prior whose denoiser is exact instead of slice by slice."""

    class Exact(VolumePrior):
        def denoise(self, x, sigma, noise=None):
            return exact(x, sigma)

    exact = Correlated(S)
    return Exact(isotropic(shape[:1] + shape[2:]), shape)


RUNNING = [PnP(steps=4), PnP(steps=4, z_tv=0.5), DAPS(steps=4, sigma_max=1.0)]


@pytest.mark.parametrize("solver", RUNNING, ids=lambda s: type(s).__name__)
def test_solvers_run_on_volumes_and_explain_the_data(solver):
    prior = VolumePrior(Prior(Shrink(0.5), (1, 6, 5), variances=ROWS), (1, 4, 6, 5))
    x = 0.5 * noise(2, 1, 4, 6, 5)
    operator = Slicewise(CartesianMRI("random", 2.0, 0.2)).draw((1, 4, 6, 5), Noise(IDS, "mask"))
    problem = measure(operator, x, Gaussian(0.05), Noise(IDS, "noise"))
    *_, last = solver(problem, prior, Noise(IDS, "solver"))
    assert last.x0.shape == x.shape and float(problem.residual(last.x0).max()) < 1.6
    *_, alone = solver(problem.select([1]), prior, Noise(IDS[1:], "solver"))
    torch.testing.assert_close(last.x0[1:], alone.x0, rtol=0, atol=1e-10)


def test_total_variation_along_slices_is_of_volumes():
    problem = measure(
        GaussianBlur(3, 1.0), noise(1, 1, 6, 5), Gaussian(0.05), Noise(IDS[:1], "noise")
    )
    with pytest.raises(Refusal, match="z_tv ties the slices of a volume"):
        PnP(steps=2, z_tv=0.5).solve(problem, isotropic((1, 6, 5)))


def test_the_shipped_network_takes_every_plane():
    prior = Prior(EDM(ResidualUNet(1, (8, 16), blocks=1)), (1, 16, 16))
    volume = VolumePrior(prior, (1, 5, 9, 12), ("axial", "sagittal"))
    assert volume.denoise(torch.zeros(1, 1, 5, 9, 12), torch.ones(1)).shape == (1, 1, 5, 9, 12)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: VolumePrior(any_size(), (1, 4, 8, 8), ("oblique",)), "one or more of axial"),
        (lambda: VolumePrior(any_size(), (1, 4, 8, 8), ()), "one or more of axial"),
        (lambda: VolumePrior(any_size(), (2, 4, 8, 8)), "slices of 1 channels, not 2"),
        (lambda: VolumePrior(isotropic((1, 8, 8)), (1, 4, 8, 9)), "slices of 8x8, not 8x9"),
        (lambda: VolumePrior(isotropic((1, 8, 8)), (1, 8, 8, 8), ("coronal",)), "takes any size"),
        (lambda: VolumePrior(any_size(), (1, 4, 8, 8), ("coronal",), (3.0, 1.0, 1.0)), "3 x 1 mm"),
        (lambda: VolumePrior(any_size(), (1, 4, 8, 8), spacing=(3.0, 1.0, 1.7)), "1 x 1.7 mm"),
    ],
)
def test_refused_in_one_line(make, says):
    with pytest.raises(Refusal, match=says):
        make()


def test_settings_of_volumes_are_taken_and_channels_are_counted():
    """What `fit` chooses itself can be chosen, with spacing and without."""
    prior, shape = Prior(Shrink(), (1, 6, 5)), (1, 4, 6, 5)
    for spacing in (None, (1.0, 1.0, 1.0)):
        fit, note = resize.fit(prior, shape, spacing=spacing, length=2.0, planes=["axial"])
        assert isinstance(fit, VolumePrior) and (fit.length, fit.planes) == (2.0, ("axial",))
        assert note == ""
    with pytest.raises(Refusal, match="coronal planes need a prior whose network takes any size"):
        resize.fit(prior, shape, planes=("coronal",))
    gray = Prior(Shrink(), (3, 6, 5))
    gray.gray = True
    for one in (prior, gray):
        assert resize.fit(one, shape)[0].image_shape == shape
        with pytest.raises(Refusal, match="images of 1 channels, not 3"):
            resize.fit(one, (3, 4, 6, 5))


def test_noise_of_neighbours_goes_together_and_every_slice_stays_standard_normal():
    """An autoregression: over 400 volumes each entry has mean 0 and variance 1, neighbours d mm apart correlate by exp(-d / 6).

    Bounds are 5 standard errors of 400 x 30 entries a slice: the chance that one of 16 figures misses is 1e-5.
    """
    prior = VolumePrior(any_size((1, 6, 5)), (1, 4, 6, 5), spacing=(3.0, 1.0, 1.0), coupling=6.0)
    ids = tuple(f"v{i}" for i in range(400))
    z = prior.coupled(Noise(ids, "solver").normal((400, 1, 4, 6, 5), torch.float64))
    n = 400 * 30
    assert float(z.mean((0, 1, 3, 4)).abs().max()) < 5 / n**0.5
    assert float((z.var((0, 1, 3, 4)) - 1).abs().max()) < 5 * (2 / n) ** 0.5
    for lag in (1, 2, 3):
        found = (z[:, :, lag:] * z[:, :, :-lag]).mean((0, 1, 3, 4))
        assert float((found - np.exp(-3 * lag / 6)).abs().max()) < 5 * (1 / n) ** 0.5 * 1.5
    white = Noise(ids[:2], "solver").normal((2, 1, 4, 6, 5), torch.float64)
    assert torch.equal(VolumePrior(any_size((1, 6, 5)), (1, 4, 6, 5)).coupled(white), white)


def test_planes_take_turns_and_meet_at_the_last_level():
    prior = VolumePrior(any_size((1, 8, 8)), (1, 8, 8, 8), tuple(PLANES), turns=True)
    prior.begin([1.0, 0.5, 0.25, 0.1, 0.0])
    assert [prior.turn(sigma) for sigma in (1.0, 0.5, 0.25)] == [
        ("axial",),
        ("coronal",),
        ("sagittal",),
    ]
    assert prior.turn(0.1) == tuple(PLANES)
    prior.begin([0.1, 0.5, 0.99, 1.0])  # alpha_bar
    assert prior.levels == pytest.approx([3.0, 1.0, (1 / 0.99 - 1) ** 0.5])


@pytest.mark.parametrize(
    "operator",
    [
        ThroughPlane(2.5),
        MissingSlices([1]),
        VolumeMRI(torch.eye(6, 5)),
        VolumeMRI(torch.ones(6, 5)),
    ],
    ids=["through plane", "missing slices", "k-space, a diagonal", "k-space, all of it"],
)
def test_slices_are_mixed_apart_at_every_frequency(operator):
    """The preconditioner is the dense inverse where errors are as large anywhere."""
    shape = (1, 6, 4, 5)
    drawn = operator.draw(shape, Noise(IDS[:1], "mask"))
    prior = VolumePrior(any_size((1, 4, 5)), shape, length=1.5)
    belief = Spectral(
        torch.zeros(1, *shape, dtype=torch.float64), prior.density(0.5)[None, None, ..., :3]
    )
    solve = drawn.inverse_under(belief.density, torch.tensor(0.01, dtype=torch.float64))
    y = drawn.forward(noise(1, *shape))
    r = noise(1, *y.shape[1:])
    back = 0.01 * solve(r) + drawn.forward(belief.apply(drawn.adjoint(solve(r))))
    torch.testing.assert_close(back, r, rtol=0, atol=1e-9)


@pytest.mark.parametrize("same", [False, True])
def test_a_stack_of_k_space_is_met_in_few_steps(same, monkeypatch):
    """At the mean it has without each slice's own inverse, in half the steps at most; two volumes in a batch."""
    shape, ids = (1, 4, 32, 32), Noise(IDS[:2], "mask")
    operator = Slicewise(CartesianMRI(acceleration=4.0, centre=0.1), same).draw(shape, ids)
    x = noise(2, *shape)
    problem = measure(operator, x, Gaussian(0.005), ids.of("noise"))
    prior = VolumePrior(any_size((1, 32, 32)), shape, length=1.5)
    belief = Belief.of(prior, 0.1 * noise(2, *shape, purpose="mask"), 0.5, problem)
    quick, mean = (conditioned(belief, problem, accuracy=share) for share in (None, 1e-6))
    monkeypatch.setattr(LinearStack, "inverse_under", lambda *_: None)
    slow, same_mean = (conditioned(belief, problem, accuracy=share) for share in (None, 1e-6))
    torch.testing.assert_close(mean.x, same_mean.x, rtol=0, atol=1e-6)
    assert (2 * quick.iterations < slow.iterations).all()


def test_an_inverse_that_would_outgrow_the_volume_is_done_without(monkeypatch):
    """Its small systems are m^2 numbers for each frequency; the update without it comes to the same mean."""
    shape = (1, 6, 4, 4)
    problem = measure(ThroughPlane(1.5), noise(1, *shape), Gaussian(0.05), Noise(IDS[:1], "noise"))
    prior = VolumePrior(any_size((1, 4, 4)), shape)
    belief = Belief.of(prior, 0.1 * noise(1, *shape, purpose="mask"), 0.5, problem)
    belief.accuracy = 1e-12  # type: ignore[misc]
    with_inverse = condition(belief, problem)
    s2 = torch.tensor(0.0025, dtype=torch.float64)
    held = 4 * 3 * 4**2 * 8  # bytes: 4 x 3 frequencies in the plane, 4 slices in float64
    monkeypatch.setattr(axis, "HELD", held)
    assert problem.operator.inverse_under(belief.density, s2) is not None
    monkeypatch.setattr(axis, "HELD", held - 1)
    assert problem.operator.inverse_under(belief.density, s2) is None
    torch.testing.assert_close(condition(belief, problem), with_inverse, rtol=0, atol=1e-8)


def test_three_dimensional_tv_has_the_gradient_and_its_transpose():
    x = noise(2, 1, 4, 3, 5)
    g = gradient(x)
    assert g.shape == (2, 3, 1, 4, 3, 5)
    torch.testing.assert_close(g[:, 0, :, :-1], x[:, :, 1:] - x[:, :, :-1])
    assert bool((g[:, 0, :, -1] == 0).all() and (g[:, 2, ..., -1] == 0).all())
    z = noise(6, 1, 4, 3, 5, ids=tuple("abcdef")).reshape(2, 3, 1, 4, 3, 5)
    torch.testing.assert_close((g * z).sum(), (x * gradient_adjoint(z)).sum())


def test_tv_along_slices_is_its_minimiser():
    """Two steps: the mean of each plateau moves by weight / length towards the other's (hand values); no weight, no change."""
    x = torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=torch.float64).reshape(1, 1, 6, 1, 1)
    u = smoothed_along_slices(x, 0.3, steps=2000).flatten()
    assert u.tolist() == pytest.approx([0.1] * 3 + [0.9] * 3, abs=1e-4)
    assert torch.equal(smoothed_along_slices(x, 0.0), x)
    rough = noise(1, 1, 9, 3, 3)
    smooth = smoothed_along_slices(rough, 0.5)
    assert float(smooth.diff(dim=2).abs().sum()) < 0.5 * float(rough.diff(dim=2).abs().sum())
