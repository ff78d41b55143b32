"""What every solver owes: closed-form recursions where its steps are affine, no coupling of images, honest refusals."""

from math import inf, sqrt

import pytest
import torch
from analytic import Dense, Shrink, Squares, correlated, isotropic, latent, patched

from data.seeding import Noise
from ldm import schedule
from ldm.denoiser import Prior
from ldm.sampling import ve_levels, vp_levels
from ldm.schedule import karras
from ldm.spectra import KNOTS
from solvers.baseline import Baseline
from solvers.codps import CoDPS, CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS, DPSLikelihood
from solvers.operators import CT, GaussianBlur, HighDynamicRange, MotionBlur
from solvers.operators.base import norm
from solvers.padis import PaDIS
from solvers.pnp import PnP
from solvers.problem import Clean, Gaussian, Poisson, Problem, measure
from solvers.psld import PSLD, back
from solvers.published.codps import PublishedCoDPS, PublishedCoDPSPlus
from solvers.published.daps import DAPSHMC, DAPSLangevin
from solvers.published.descent import AdamW
from solvers.published.padis import PaDISDPS
from solvers.published.padis_pc import PaDISPC
from solvers.published.psld import PublishedPSLD
from solvers.published.resample import PublishedReSample
from solvers.resample import ReSample
from solvers.solver import Step, check
from solvers.tv import TV

S0, SIGMA_Y, Y, TOP, LOW = 0.5, 0.2, 0.8, 10.0, 0.002


# --- affine recursions: an isotropic Gaussian prior, one pixel seen directly; mean and variance of the output are known


def particles(solver, count=20000) -> torch.Tensor:
    """Independent runs of the scalar problem, as the pixels of a few large images."""
    ids, side = ("a", "b"), int(sqrt(count / 2))
    shape = (1, side, side)
    y = torch.full((2, *shape), Y, dtype=torch.float64)
    problem = Problem(y, Identity(shape), Gaussian(SIGMA_Y), ids)
    *_, last = solver(problem, isotropic(shape, S0, LOW, TOP), Noise(ids, "solver"))
    return last.x0.flatten()


class Identity(Dense):
    """y = x, without a matrix of 10^8 entries."""

    def __init__(self, shape):
        self.shape = shape

    def forward(self, x):
        return x

    def adjoint(self, y):
        return y

    def solve(self, r, s2, v):
        return r / (s2 + v)

    def shape_out(self, shape):
        return shape


def levels(steps):
    return [*karras(steps, LOW, TOP).tolist(), 0.0]


def dps_recursion(steps):
    m, v = 0.0, TOP**2
    for s, s_next in zip(levels(steps), levels(steps)[1:]):
        k, w = S0**2 / (S0**2 + s**2), s_next**2 / s**2
        a = w + (1 - w) * (k - s**2 * k**2 / SIGMA_Y**2)
        m, v = a * m + (1 - w) * s**2 * k * Y / SIGMA_Y**2, a**2 * v + s_next**2 * (1 - w)
    return m, v


def codps_plus_recursion(steps):
    m, v = 0.0, TOP**2
    for s, s_next in zip(levels(steps), levels(steps)[1:]):
        k, w = S0**2 / (S0**2 + s**2), s_next**2 / s**2
        r2 = S0**2 * s**2 / (S0**2 + s**2)
        gain = r2 / (r2 + SIGMA_Y**2)
        a = w + (1 - w) * k * (1 - gain)
        m, v = a * m + (1 - w) * gain * Y, a**2 * v + s_next**2 * (1 - w)
    return m, v


def daps_recursion(steps):
    m, v = 0.0, TOP**2
    for s, s_next in zip(levels(steps), levels(steps)[1:]):
        k, r2 = S0**2 / (S0**2 + s**2), S0**2 * s**2 / (S0**2 + s**2)
        V = 1 / (1 / r2 + 1 / SIGMA_Y**2)
        a = V * k / r2
        m, v = a * m + V * Y / SIGMA_Y**2, a**2 * v + V + s_next**2
    return m, v


def daps_langevin_recursion(steps, K, M, lr):
    """Published DAPS at this prior: Euler steps and Langevin steps are affine too. tau = sigma_y, constant lr."""
    m, v = 0.0, TOP**2
    for s, s_next in zip(levels(steps), levels(steps)[1:]):
        grid = karras(K + 1, 0.01, s).tolist() if s > 0.01 else [s]
        shrink = 1.0
        for b, c in zip(grid, grid[1:]):
            shrink *= 1 + (c - b) / b * (1 - S0**2 / (S0**2 + b**2))
        # x0 = alpha x0_hat + beta y + noise of variance n, by M steps of x <- (1 - lr p) x + lr (x0_hat / s^2 + y / tau^2)
        p, alpha, beta, n = 1 / s**2 + 1 / SIGMA_Y**2, 1.0, 0.0, 0.0
        for _ in range(M):
            alpha, beta = (1 - lr * p) * alpha + lr / s**2, (1 - lr * p) * beta + lr / SIGMA_Y**2
            n = (1 - lr * p) ** 2 * n + 2 * lr
        m, v = alpha * shrink * m + beta * Y, (alpha * shrink) ** 2 * v + n + s_next**2
    return m, v


@pytest.mark.parametrize(
    "solver, expected",
    [
        (DPSLikelihood(steps=100, clip=False), dps_recursion(100)),
        (CoDPSPlus(steps=100, clip=False), codps_plus_recursion(100)),
        (DAPS(steps=50, sigma_max=TOP, sigma_min=LOW), daps_recursion(50)),
        (
            DAPSLangevin(
                steps=10, sigma_max=TOP, sigma_min=LOW, M=20, lr=1e-6, lr_min_ratio=1, tau=SIGMA_Y
            ),
            daps_langevin_recursion(10, 5, 20, 1e-6),
        ),
    ],
    ids=["dps", "codps+", "daps", "daps langevin"],
)
def test_affine_recursion(solver, expected):
    """Four standard errors of the mean and of the variance (v sqrt(2/n))."""
    x, (m, v) = particles(solver), expected
    assert abs(float(x.mean()) - m) < 4 * sqrt(v / len(x))
    assert abs(float(x.var()) - v) < 4 * v * sqrt(2 / len(x))


def test_recursions_give_the_known_numbers():
    """Worked out independently: DPS 0.79862 / 0.13899 at 400 steps; the exact draw tends to the posterior."""
    m, v = dps_recursion(400)
    assert (round(m, 5), round(sqrt(v), 5)) == (0.79862, 0.13899)
    m, v = daps_recursion(800)
    posterior = 1 / (1 / S0**2 + 1 / SIGMA_Y**2)
    assert abs(m - posterior * Y / SIGMA_Y**2) < 1e-3 and abs(v / posterior - 1) < 0.01


# --- images do not couple, and nothing global is touched

SHAPE, IDS = (1, 8, 8), ("a", "b", "c")
VP, EDM, LATENT, PATCH = (
    correlated(SHAPE, vp=True),
    isotropic(SHAPE),
    latent(SHAPE, error_variance=1e-3),
    patched(8, 3),
)
BY_FREQUENCY = isotropic(SHAPE)
BY_FREQUENCY.variances = [
    [s, *(0.05 * s * KNOTS**-0.7)] for s in (0.01, 10.0)
]  # errors as smooth as networks'
DENSE = Dense(
    torch.randn(20, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 8, SHAPE
)
SOLVERS = {
    "resample": (ReSample(steps=12, skip=3), LATENT),
    "resample fast": (ReSample(steps=12, skip=3, sigma_latent=0.0), LATENT),
    "resample pixel": (ReSample(steps=12, skip=3), VP),
    "resample by frequency": (ReSample(steps=12, skip=3), BY_FREQUENCY),
    "psld": (PSLD(steps=6), LATENT),
    "daps": (DAPS(steps=6), PATCH),
    "daps trace": (DAPS(steps=6, covariance="trace"), PATCH),
    "daps operator": (DAPS(steps=6, covariance="operator"), EDM),
    "daps latent": (DAPS(steps=6), LATENT),
    "daps by frequency": (DAPS(steps=6), BY_FREQUENCY),
    "daps hmc": (DAPSHMC(steps=4, M=5, lr=1e-5), LATENT),
    "pnp": (PnP(steps=6), PATCH),
    "pnp latent": (PnP(steps=6), LATENT),
    "pnp by frequency": (PnP(steps=6), BY_FREQUENCY),
    "codps": (CoDPS(steps=6), VP),
    "codps+": (CoDPSPlus(steps=6), PATCH),
    "codps+ by frequency": (CoDPSPlus(steps=6), BY_FREQUENCY),
    "dps": (DPS(steps=6), PATCH),
    "padis": (PaDIS(steps=6), PATCH),
    "padis by frequency": (PaDIS(steps=6), BY_FREQUENCY),
    "padis dps": (PaDISDPS(steps=6), PATCH),
    "padis pc": (PaDISPC(steps=6), PATCH),
    "tv": (TV(steps=6), VP),
}


def problem(ids=IDS, operator=DENSE) -> Problem:
    y = Noise(ids, "noise").normal((len(ids), *operator.shape_out(SHAPE)), torch.float64) / 4
    return Problem(y, operator, Gaussian(0.05), tuple(ids))


def final(solver, prior, ids=IDS, posed=None) -> Step:
    *_, last = solver(posed or problem(ids), prior, Noise(ids, "solver"))
    return last


@pytest.mark.parametrize("name", SOLVERS)
def test_batch_order_and_global_state(name):
    solver, prior = SOLVERS[name]
    before = torch.get_rng_state()
    together = final(solver, prior).x0
    assert torch.equal(torch.get_rng_state(), before)
    assert (
        together.shape == (3, *SHAPE)
        and torch.isfinite(together).all()
        and not together.requires_grad
    )
    for k in (2, 0):
        torch.testing.assert_close(
            final(solver, prior, (IDS[k],)).x0, together[k : k + 1], rtol=0, atol=1e-10
        )
    assert torch.equal(final(solver, prior).x0, together)


def test_solve_runs_to_the_end():
    """The last step's image; with draws those of each image in a row, the first being the one without."""
    solver, prior = SOLVERS["daps"]
    one = solver.solve(problem(), prior)
    assert torch.equal(one, final(solver, prior).x0)
    many = solver.solve(problem(), prior, draws=2)
    assert many.shape == (3, 2, *SHAPE) and not torch.equal(many[:, 0], many[:, 1])
    torch.testing.assert_close(many[:, 0], one, rtol=0, atol=1e-10)
    assert not torch.equal(solver.solve(problem(), prior, seed=1), one)
    with pytest.raises(ValueError, match="latent prior"):
        PSLD().solve(problem(), UNTOUCHED)


ITERATED = {  # without a closed form
    "motion blur": (DAPS(steps=5), MotionBlur(9), Gaussian(0.01)),
    "motion blur, codps": (CoDPS(steps=5), MotionBlur(9), Gaussian(0.01)),
    "motion blur without noise": (DAPS(steps=5), MotionBlur(9), Clean()),
    "ct of counts": (DAPS(steps=5), CT(10, bins=64, detector=20.0, box=10.0), Poisson(1e4)),
    "whole covariance": (
        DAPS(steps=5, covariance="operator"),
        GaussianBlur(7, 1.5),
        Gaussian(0.01),
    ),
}


@pytest.mark.parametrize("name", ITERATED)
def test_conjugate_gradients_keep_images_apart(name):
    """As far as rounding goes: of residuals that lost their orthogonality it made 1e-4 to 3e-2."""
    solver, operator, likelihood = ITERATED[name]
    prior = correlated((1, 16, 16), vp=isinstance(solver, CoDPS))
    operator = operator.draw(prior.shape, Noise(IDS, "mask"))
    x0 = Noise(IDS, "noise").normal((3, *prior.shape), torch.float64) / 3
    posed = measure(operator, x0.cumsum(2).tanh(), likelihood, Noise(IDS, "noise"))
    together = final(solver, prior, IDS, posed).x0
    for k in (2, 0):
        alone = Problem(posed.y[k : k + 1], operator.select([k]), likelihood, IDS[k : k + 1])
        torch.testing.assert_close(
            final(solver, prior, IDS[k : k + 1], alone).x0, together[k : k + 1], rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("s2", [0.1, 1e-3])
def test_psld_glues_by_iteration_where_there_is_no_closed_form(s2):
    operator = MotionBlur(9).draw((1, 16, 16), Noise(IDS, "mask"))
    r = Noise(IDS, "noise").normal((3, 1, 16, 16), torch.float64)
    error = operator.forward(
        back(operator, torch.zeros(3, 1, 16, 16), r, s2) - operator.correct(r, s2, 1.0)
    )
    assert not operator.exact and bool((norm(error) <= 1e-3 * norm(r)).all())


BROKEN = [(name, torch.nan) for name in SOLVERS if name != "tv"]
BROKEN += [
    (name, torch.inf) for name in ("codps", "codps+", "dps")
]  # whose clamp would make an image of it


@pytest.mark.parametrize("name, value", BROKEN)
def test_a_broken_output_stays_with_its_image(name, value):
    """The network's second row turns NaN or infinite from its third call on."""
    solver, prior = SOLVERS[name]
    clean, original, calls = final(solver, prior).x0, type(prior).denoise, []

    def broken(x, sigma, noise=None):
        calls.append(1)
        gate = torch.ones(len(x), 1, 1, 1, dtype=x.dtype)
        gate[1] = value if len(calls) > 2 else 1
        return original(prior, x, sigma, noise) * gate

    prior.denoise = broken
    try:
        x0 = final(solver, prior).x0
    finally:
        del prior.denoise
    assert not torch.isfinite(x0[1]).all()
    torch.testing.assert_close(x0[[0, 2]], clean[[0, 2]], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SOLVERS)
def test_grad_mode_is_the_callers(name):
    solver, prior = SOLVERS[name]
    for _ in solver(problem(), prior, Noise(IDS, "solver")):
        assert torch.is_grad_enabled()
    with torch.no_grad():
        for _ in solver(problem(), prior, Noise(IDS, "solver")):
            assert not torch.is_grad_enabled()


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 27, 101, 333, 1000])
def test_resample_takes_any_number_of_steps(steps):
    """The published code fails for 3, 27, 101, 333 and 1000."""
    for spacing in ("even", "leading"):
        last = final(PublishedReSample(steps=steps, adamw=None, spacing=spacing), VP, ("a",))
        assert torch.isfinite(last.x0).all()


def test_leading_times_are_the_published_ones():
    """1, 3, ..., 999 for 500 steps; the resampling variance at index 330 is 0.8841 (code) and 34.96 (paper)."""
    table = VP.alpha_bar
    found = vp_levels(VP, 500, "leading")
    assert found[:-1] == [float(table[t]) for t in range(999, 0, -2)] and found[-1] == float(
        table[0]
    )
    a, a_next = found[499 - 330], found[500 - 330]
    s2 = 40 * (1 - a_next) * (1 - a / a_next)
    assert round(a, 5) == 0.02466 and round(s2 / (1 - a), 4) == 0.8841 and round(s2 / a, 2) == 34.96


def test_published_forms_take_the_published_table_where_a_prior_has_none():
    """DDPM's: its levels up to the prior's largest, and none of EDM's; 100 of 1000 are guided diffusion's 0, 10, ..., 990."""
    table = schedule.linear_alpha_bar()
    own = Prior(Shrink(), SHAPE, LOW, 200.0)  # of whose levels the table has all
    for solver in (DPS(), PublishedCoDPS()):
        assert solver.levels(problem(), own) == [*table.flip(0).tolist(), 1.0]
    assert PublishedCoDPSPlus().levels(problem(), own) == [
        *table[torch.arange(990, -1, -10)].tolist(),
        1.0,
    ]
    usable = int((schedule.sigma_of(table) <= TOP).sum())
    assert (
        PublishedCoDPS().levels(problem(), EDM)
        == [*table[:usable].flip(0).tolist(), 1.0]
        == DPS().levels(problem(), EDM)
    )
    latents = schedule.scaled_linear_alpha_bar()
    for solver in (PublishedPSLD(steps=500), PublishedReSample(spacing="leading")):
        assert solver.levels(problem(), own) == [
            *latents[torch.arange(999, 0, -2)].tolist(),
            float(latents[0]),
        ]


def test_resample_counts_match_the_published_schedule():
    """500 steps: 17 consistencies in pixels, 16 in the latent, one at the end, and 665 network calls."""
    stages, calls = [], []
    solver = PublishedReSample(spacing="leading", look_ahead=5)
    prior = latent(SHAPE)
    inner = type(prior).denoise
    prior.denoise = lambda *args: calls.append(1) or inner(prior, *args)
    object.__setattr__(solver, "adamw", lambda x, problem, stage: stages.append(stage) or x)
    final(solver, prior, ("a",))
    assert (stages.count("pixel"), stages.count("latent"), len(calls)) == (17, 16 + 1, 665)


def test_levels_stay_inside_the_prior():
    assert ve_levels(EDM, 5, 0.01, 1000.0)[0] == pytest.approx(EDM.sigma_max)
    first = next(iter(DAPS(steps=3, sigma_max=1000.0)(problem(), EDM, Noise(IDS, "solver"))))
    assert first.sigma == pytest.approx(EDM.sigma_max)


# --- refusals, in one line and before any network runs


class Untouchable(Prior):
    def denoise(self, x, sigma, noise=None):
        raise AssertionError("a network ran")


UNTOUCHED = Untouchable(Shrink(), SHAPE, LOW, TOP)


@pytest.mark.parametrize(
    "solver, operator, prior, word",
    [
        (PSLD(), DENSE, UNTOUCHED, "latent prior"),
        (PSLD(), Squares(), LATENT, "linear operator"),
        (CoDPS(), Squares(), UNTOUCHED, "linear operator"),
        (CoDPSPlus(), DENSE, LATENT, "decoder"),
        (PaDIS(), Squares(), UNTOUCHED, "linear operator"),
        (PaDISDPS(), DENSE, LATENT, "latent"),
        (PaDISPC(), DENSE, LATENT, "decoder"),
        (
            DAPS(covariance="operator"),
            Squares(),
            UNTOUCHED,
            "^covariance: operator needs a linear operator",
        ),
        (
            DAPS(covariance="operator"),
            DENSE,
            LATENT,
            "^covariance: operator needs a pixel or patch prior",
        ),
        (DAPS(sigma_min=20.0), DENSE, UNTOUCHED, "outside the prior's"),
        (PaDIS(sigma_min=5.0, sigma_max=1.0), DENSE, UNTOUCHED, "at most sigma_max"),
        (PaDISPC(sigma_min=0.0), DENSE, UNTOUCHED, "above 0"),
        (DAPS(sigma_max=float("nan")), DENSE, UNTOUCHED, "at most sigma_max"),
        (ReSample(steps=2000), DENSE, VP, "between 1 and 1000"),
        (TV(), Squares(), UNTOUCHED, "linear operator"),
        (Baseline(), DENSE, UNTOUCHED, "no classical answer"),
    ],
)
def test_refusals(solver, operator, prior, word):
    with pytest.raises(ValueError, match=word) as caught:
        check(solver, problem(operator=operator), prior)
    assert "\n" not in str(caught.value)


def test_a_measurement_that_does_not_fit_is_refused():
    posed = problem()
    with pytest.raises(ValueError, match="does not fit the operator"):
        check(DAPS(), Problem(posed.y[:, :-1], DENSE, posed.likelihood, posed.ids), UNTOUCHED)
    y = posed.y.clone()
    y[1, 3] = torch.nan
    with pytest.raises(ValueError, match="measurement of b holds"):
        check(DAPS(), Problem(y, DENSE, posed.likelihood, posed.ids), UNTOUCHED)


def test_guidance_by_the_likelihood_needs_noise():
    posed = problem()
    with pytest.raises(ValueError, match="needs a noisy measurement"):
        check(DPSLikelihood(), Problem(posed.y, DENSE, Clean(), IDS), UNTOUCHED)


@pytest.mark.parametrize("cls", [ReSample, PSLD, DAPS, CoDPS, CoDPSPlus, DPS, PaDIS, PaDISPC, TV])
def test_counts_below_one_are_refused(cls):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        cls(steps=0)


@pytest.mark.parametrize(
    "cls, name, value, word",
    [
        (ReSample, "skip", 0, "at least 1"),
        (PublishedReSample, "look_ahead", -1, "at least 0"),
        (ReSample, "gamma", 0.0, "above 0"),
        (AdamW, "iterations_latent", 0, "at least 1"),
        (DAPSLangevin, "tau", 0.0, "above 0"),
        (DAPSLangevin, "lr", -1e-4, "above 0"),
        (DAPS, "s0", 0.0, "above 0"),
        (DAPSHMC, "momentum", 1.5, r"in \[0, 1\]"),
        (PublishedCoDPS, "scale", float("nan"), "above 0"),
        (CoDPSPlus, "inv_var", -1.0, "at least 0"),
        (CoDPS, "inv_var", None, "at least 0"),
        (DPS, "eta", 2.0, r"in \[0, 1\]"),
        (PaDIS, "eps", 5.0, r"in \(0, 4\]"),
        (PaDISPC, "r0", 0.0, "above 0"),
        (TV, "lam", 0.0, "above 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(cls, name, value, word):
    with pytest.raises(ValueError, match=f"{name} must (be|lie) {word}"):
        cls(**{name: value})


class Opposite(Noise):
    """The same noise with the other sign."""

    def _draw(self, *args):
        return -super()._draw(*args)


def test_pnp_swings_about_the_posterior_mean():
    """Of a Gaussian prior, at any noise level: x is linear in the noise, so that two runs of opposite noise have it between them.

    D contracts by S0^2 / (S0^2 + sigma^2) = 0.61 a step, which 70 times is 1e-15.
    """
    solver = PnP(steps=70, sigma_max=0.4, sigma_min=0.4)
    one, other = (
        list(solver(problem(), EDM, noise(IDS, "solver")))[-2].x.flatten(1)
        for noise in (Noise, Opposite)
    )
    A, y = DENSE.A, problem().y
    mean = torch.linalg.solve(A.T @ A / 0.05**2 + torch.eye(64) / S0**2, A.T @ y.T / 0.05**2).T
    assert (one - mean).abs().max() > 0.1
    torch.testing.assert_close((one + other) / 2, mean, rtol=0, atol=1e-10)


@pytest.mark.parametrize("coarse, first", [(False, 1.5), (True, 4.0)])
def test_pnp_begins_where_coarse_structure_is_found(coarse, first, monkeypatch):
    monkeypatch.setattr(type(DENSE), "leaves_coarse", coarse)
    assert PnP().levels(problem(), EDM)[0] == pytest.approx(first)
    assert PnP(sigma_max=0.4).levels(problem(), EDM)[0] == pytest.approx(0.4)


@pytest.mark.parametrize("lam", [0.23, 1.0])
def test_pnp_is_half_quadratic_splitting(lam):
    """At one noise level it ends at the minimum of |A x - y|^2 / sigma_y^2 + lambda (|x - z|^2 / sigma^2 + |z|^2 / S0^2)."""
    sigma = 0.4
    solver = PnP(steps=100, sigma_max=sigma, sigma_min=sigma, sigma_quiet=inf, lam=lam)
    steps = list(solver(problem(), EDM, Noise(IDS, "solver")))
    A, y = DENSE.A, problem().y
    prior = lam / (sigma**2 + S0**2)  # of x, z being at its own minimum
    best = torch.linalg.solve(A.T @ A / 0.05**2 + prior * torch.eye(64), A.T @ y.T / 0.05**2).T
    # `solve` leaves 1e-12 |r|, of which v |A| / sigma_y^2 reaches x; of all steps, D's contraction leaves 1 / (1 - 0.61) times it
    left = 1e-12 * y.norm() * sigma**2 / lam * torch.linalg.matrix_norm(A, 2) / 0.05**2 / (1 - 0.61)
    torch.testing.assert_close(steps[-2].x.flatten(1), best, rtol=0, atol=float(left))


# --- the data are met


MEETING = [
    "resample",
    "resample fast",
    "resample pixel",
    "daps",
    "daps latent",
    "pnp",
    "pnp latent",
    "codps+",
    "padis",
]


@pytest.mark.parametrize("name", MEETING)
def test_data_are_met_to_the_noise(name):
    """y is a measurement of a prior sample; a mean square residual of 20 entries above 4 has a chance below 1e-8."""
    solver, prior = SOLVERS[name]
    truth = 0.5 * Noise(IDS, "noise").normal((3, *SHAPE), torch.float64)
    posed = Problem(DENSE.forward(truth), DENSE, Gaussian(0.05), IDS)
    solver = type(solver)(**{**vars(solver), "steps": 40})
    assert (posed.residual(final(solver, prior, posed=posed).x0) < 2).all()


def test_an_estimate_that_explains_y_at_once_is_left_alone():
    """Of a saturated image HDR is flat: |A x - y| is 0, by which the latent-DPS step of ReSample divides."""
    posed = Problem(-torch.ones(3, *SHAPE, dtype=torch.float64), HighDynamicRange(), Clean(), IDS)
    black = Prior(Shrink(0.05, -1.0), SHAPE, LOW, TOP)
    assert torch.isfinite(
        final(PublishedReSample(steps=4, adamw=None, dps=0.5), black, posed=posed).x0
    ).all()
