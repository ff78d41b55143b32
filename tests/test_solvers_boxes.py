"""Every solver against its algorithm box in NumPy: the same noise, float64, a batch of three against one vector at a time.

Tolerance 1e-10: some thousand float64 operations on numbers of order one whose condition numbers stay below 1e3.
"""

from functools import partial

import numpy as np
import pytest
import torch
from analytic import BEND, Dense, correlated, latent
from transcriptions import World
from transcriptions import codps as codps_box
from transcriptions import daps_exact as daps_exact_box
from transcriptions import daps_published as daps_published_box
from transcriptions import dps as dps_box
from transcriptions import padis as padis_box
from transcriptions import padis_pc as padis_pc_box
from transcriptions import psld as psld_box
from transcriptions import resample as resample_box
from transcriptions import tv as tv_box

from data.seeding import Noise
from ldm.sampling import ve_levels, vp_levels
from solvers.codps import CoDPS, CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS
from solvers.operators import Inpainting
from solvers.padis import PaDIS
from solvers.problem import Gaussian, Problem
from solvers.psld import PSLD
from solvers.published.codps import PublishedCoDPS, PublishedCoDPSPlus
from solvers.published.daps import DAPSHMC, DAPSLangevin, DAPSMetropolis
from solvers.published.descent import AdamW
from solvers.published.padis import PaDISDPS, PaDISLangevin
from solvers.published.padis_pc import PaDISPC
from solvers.published.psld import PublishedPSLD
from solvers.published.resample import PublishedReSample
from solvers.tv import TV

SHAPE, SIGMA_Y, IDS = (1, 4, 4), 0.05, ("a", "b", "c")
A = torch.randn(6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4


class Tape:
    """The solver's random stream of one image, as NumPy numbers."""

    def __init__(self, image_id):
        self.noise = Noise((image_id,), "solver")

    def normal(self, n):
        return self.noise.normal((1, n), torch.float64)[0].numpy()

    def uniform(self):
        return float(self.noise.uniform((1,), torch.float64))


def problem(ids=IDS) -> Problem:
    y = Noise(ids, "noise").normal((len(ids), len(A)), torch.float64) / 2
    return Problem(y, Dense(A, SHAPE), Gaussian(SIGMA_Y), tuple(ids))


def world(prior, image_id) -> World:
    y = problem((image_id,)).y[0].numpy()
    tape = Tape(image_id)
    if prior.kind == "latent":
        order = (
            torch.nn.functional.pixel_shuffle(torch.arange(16.0).reshape(1, 4, 2, 2), 2)
            .flatten()
            .long()
            .numpy()
        )
        return World(A.numpy(), y, SIGMA_Y, np.eye(16), np.zeros(16), tape, order, BEND)
    mixture = prior.denoiser.denoiser if prior.alpha_bar is not None else prior.denoiser
    return World(
        A.numpy(), y, SIGMA_Y, mixture.covariances[0].numpy(), mixture.means[0].numpy(), tape
    )


VP, EDM, LATENT = correlated(SHAPE, vp=True), correlated(SHAPE), latent(SHAPE)
VP10, STRIDED, LEADING = (
    vp_levels(VP, 10),
    vp_levels(VP, 10, "strided"),
    vp_levels(LATENT, 6, "leading"),
)
EDM8, LATENT8 = ve_levels(EDM, 8, 0.05, 5.0), ve_levels(LATENT, 6, 0.1, 5.0)
CHAIN = dict(M=4, lr=1e-4, lr_min_ratio=0.1, tau=0.03)
BOX_CHAIN = dict(M=4, lr=1e-4, lmr=0.1, tau=0.03)
DESCENT = AdamW(iterations_pixel=30, iterations_latent=30, patience=5, stop=1e-4, weight_decay=0.01)
BOX_DESCENT = (1e-2, 30, 5e-3, 30, 5, 1e-4, 0.01)
EDGES = dict(sigma_min=0.05, sigma_max=5.0)

CASES = {
    "dps": (VP, DPS(steps=10, zeta=0.3, clip=False), partial(dps_box, levels=VP10, zeta=0.3)),
    "dps clipped": (
        VP,
        DPS(steps=10, zeta=0.3),
        partial(dps_box, levels=VP10, zeta=0.3, clip=True),
    ),
    "dps ddim": (
        VP,
        DPS(steps=10, zeta=0.3, clip=False, eta=0.0),
        partial(dps_box, levels=VP10, zeta=0.3, eta=0.0),
    ),
    "dps latent": (
        LATENT,
        DPS(steps=10, zeta=0.3),
        partial(dps_box, levels=vp_levels(LATENT, 10), zeta=0.3),
    ),
    "codps": (
        VP,
        PublishedCoDPS(steps=10, scale=0.1, t_div=3, div_ratio=10.0, inv_var=0.1),
        partial(codps_box, levels=STRIDED, scale=0.1, t_div=3, div_ratio=10, lam=0.1, plus=False),
    ),
    "codps+": (
        VP,
        PublishedCoDPSPlus(steps=10, scale=0.1, t_div=3, div_ratio=5.0, inv_var=2.0),
        partial(codps_box, levels=STRIDED, scale=0.1, t_div=3, div_ratio=5, lam=2.0, plus=True),
    ),
    "codps+ without prior variance": (
        VP,
        PublishedCoDPSPlus(steps=10, scale=0.4, t_div=2, div_ratio=100.0, inv_var=0.0),
        partial(codps_box, levels=STRIDED, scale=0.4, t_div=2, div_ratio=100, lam=0.0, plus=True),
    ),
    "codps free of tuning": (
        VP,
        CoDPS(steps=10, inv_var=4.0),
        partial(codps_box, levels=VP10, scale=None, t_div=0, div_ratio=1, lam=4.0, plus=False),
    ),
    "codps+ free of tuning, ddim": (
        VP,
        CoDPSPlus(steps=10, eta=0.5),
        partial(
            codps_box, levels=VP10, scale=None, t_div=0, div_ratio=1, lam=4.0, plus=True, eta=0.5
        ),
    ),
    "daps exact": (
        EDM,
        DAPS(steps=8, **EDGES),
        partial(daps_exact_box, sigmas=EDM8, s0=0.5, covariance="heuristic"),
    ),
    "daps trace": (
        EDM,
        DAPS(steps=8, covariance="trace", **EDGES),
        partial(daps_exact_box, sigmas=EDM8, s0=0.5, covariance="trace"),
    ),
    "daps langevin": (
        EDM,
        DAPSLangevin(steps=8, ode_steps=3, **EDGES, **CHAIN),
        partial(
            daps_published_box,
            sigmas=EDM8,
            ode="euler",
            K=3,
            s_end=0.01,
            inner="langevin",
            momentum=0,
            **BOX_CHAIN,
        ),
    ),
    "daps hmc, heun, final denoise": (
        EDM,
        DAPSHMC(
            steps=8, ode="heun", ode_steps=3, momentum=0.4, final_denoise=True, **EDGES, **CHAIN
        ),
        partial(
            daps_published_box,
            sigmas=EDM8,
            ode="heun",
            K=3,
            s_end=0.01,
            inner="hmc",
            momentum=0.4,
            final=True,
            **BOX_CHAIN,
        ),
    ),
    "daps mh": (
        EDM,
        DAPSMetropolis(steps=8, ode_steps=3, M=12, lr=4e-3, lr_min_ratio=0.1, tau=0.3, **EDGES),
        partial(
            daps_published_box,
            sigmas=EDM8,
            ode="euler",
            K=3,
            s_end=0.01,
            inner="mh",
            M=12,
            lr=4e-3,
            lmr=0.1,
            tau=0.3,
            momentum=0,
        ),
    ),
    "daps latent, clamped": (
        LATENT,
        DAPSHMC(
            steps=6, sigma_min=0.1, sigma_max=5.0, ode_steps=2, momentum=0.4, clamp=0.5, **CHAIN
        ),
        partial(
            daps_published_box,
            sigmas=LATENT8,
            ode="euler",
            K=2,
            s_end=0.01,
            inner="hmc",
            momentum=0.4,
            clamp=0.5,
            **BOX_CHAIN,
        ),
    ),
    "resample": (
        VP,
        PublishedReSample(steps=10, skip=2, adamw=None, look_ahead=2),
        partial(
            resample_box,
            levels=VP10,
            gamma=40,
            skip=2,
            sigma_pixel=6.6,
            sigma_latent=1.39,
            form="paper",
            look_ahead=2,
            tweedie="exact",
            dps_weight=0,
            descent=None,
        ),
    ),
    "resample published": (
        LATENT,
        PublishedReSample(
            steps=10,
            skip=2,
            look_ahead=3,
            adamw=DESCENT,
            resampling="code",
            tweedie="code",
            dps=0.5,
        ),
        partial(
            resample_box,
            levels=vp_levels(LATENT, 10),
            gamma=40,
            skip=2,
            sigma_pixel=6.6,
            sigma_latent=1.39,
            form="code",
            look_ahead=3,
            tweedie="code",
            dps_weight=0.5,
            descent=BOX_DESCENT,
        ),
    ),
    "resample by encoding": (
        VP,
        PublishedReSample(steps=10, skip=3, adamw=DESCENT, resampling="encode", eta=0.4),
        partial(
            resample_box,
            levels=VP10,
            gamma=40,
            skip=3,
            sigma_pixel=6.6,
            sigma_latent=1.39,
            form="encode",
            look_ahead=0,
            tweedie="exact",
            dps_weight=0,
            descent=BOX_DESCENT,
            eta=0.4,
        ),
    ),
    "psld adjoint": (
        LATENT,
        PublishedPSLD(steps=6, gamma=0.1, omega=0.9, back="adjoint", eta=0.3),
        partial(psld_box, levels=LEADING, gamma=0.1, omega=0.9, s2=None, eta=0.3),
    ),
    "psld pseudo-inverse": (
        LATENT,
        PublishedPSLD(steps=6, gamma=0.1, omega=0.9, back="pinv"),
        partial(psld_box, levels=LEADING, gamma=0.1, omega=0.9, s2=1e-6),
    ),
    "psld": (
        LATENT,
        PSLD(steps=6, gamma=0.2, omega=0.5, checkpoint=True, reach=1.5),
        partial(
            psld_box,
            levels=vp_levels(LATENT, 6),
            gamma=0.2,
            omega=0.5,
            s2=(SIGMA_Y / 0.5) ** 2,
            reach=1.5,
        ),
    ),
    "padis ddnm": (
        EDM,
        PaDIS(steps=8, spacing="karras", final="state", **EDGES),
        partial(
            padis_box, sigmas=EDM8, inner=1, data="ddnm", rule=None, zeta=1, eps=1.0, corrected=True
        ),
    ),
    **{
        f"padis dps {rule}": (
            EDM,
            PaDISDPS(
                steps=8,
                inner=2,
                spacing="karras",
                normalisation=rule,
                zeta=0.3,
                eps=0.5,
                variance="published",
                final="state",
                **EDGES,
            ),
            partial(
                padis_box,
                sigmas=EDM8,
                inner=2,
                data="dps",
                rule=rule,
                zeta=0.3,
                eps=0.5,
                corrected=False,
            ),
        )
        for rule in ("operator", "paper", "code")
    },
    **{
        f"padis langevin {rule}": (
            EDM,
            PaDISLangevin(
                steps=8,
                spacing="karras",
                normalisation=rule,
                zeta=0.01,
                eps=0.5,
                final="state",
                **EDGES,
            ),
            partial(
                padis_box,
                sigmas=EDM8,
                inner=1,
                data="langevin",
                rule=rule,
                zeta=0.01,
                eps=0.5,
                corrected=True,
            ),
        )
        for rule in ("operator", "paper")
    },
    **{
        f"padis pc {rule}": (
            EDM,
            PaDISPC(
                steps=8,
                spacing="karras",
                normalisation=rule,
                zeta=0.01,
                variance=variance,
                final="state",
                **EDGES,
            ),
            partial(
                padis_pc_box,
                sigmas=EDM8,
                rule=rule,
                zeta=0.01,
                r0=0.16,
                corrected=variance == "corrected",
            ),
        )
        for rule, variance in (("operator", "corrected"), ("published", "published"))
    },
}


def run(solver, prior, ids=IDS):
    *_, last = solver(problem(ids), prior, Noise(ids, "solver"))
    return last


@pytest.mark.parametrize("name", CASES)
def test_solver_is_its_box(name):
    prior, solver, box = CASES[name]
    found = run(solver, prior).x.flatten(1).numpy()
    for row, image_id in zip(found, IDS):
        np.testing.assert_allclose(
            row, box(world(prior, image_id)), rtol=0, atol=1e-10 * max(1, np.abs(row).max())
        )


def test_daps_with_the_whole_covariance():
    """Conjugate gradients inside the update stop at a hundredth of the noise, hence the coarser bound."""
    solver = DAPS(steps=8, covariance="operator", **EDGES)
    found = run(solver, EDM).x.flatten(1).numpy()
    for row, image_id in zip(found, IDS):
        np.testing.assert_allclose(
            row, daps_exact_box(world(EDM, image_id), EDM8, 0.5, "operator"), atol=SIGMA_Y / 10
        )


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_its_images(name):
    prior, solver, _ = CASES[name]
    together = run(solver, prior)
    for k, image_id in enumerate(IDS):
        alone = run(solver, prior, (image_id,))
        torch.testing.assert_close(together.x[k : k + 1], alone.x, rtol=0, atol=1e-10)
        torch.testing.assert_close(together.x0[k : k + 1], alone.x0, rtol=0, atol=1e-10)


def test_tv_is_admm():
    """Conjugate gradients run to the end (16 unknowns, 40 iterations, warm start); lam is stated on [0, 1] images."""
    solver = TV(steps=15, lam=0.01, rho=0.1, cg=40)
    found = run(solver, VP).x.flatten(1).numpy()
    for row, image_id in zip(found, IDS):
        w = world(VP, image_id)
        np.testing.assert_allclose(row, tv_box(w.A, w.y, 4, 4, 15, 0.02, 0.2), atol=1e-8)


def test_a_descent_stops_at_the_noise_of_what_is_measured():
    """y misses x by 1.2 sigma_y in a quarter of the entries: to be mended, although the mean over all entries is 0.36 of it."""
    mask = torch.zeros(4, 4)
    mask[0] = 1
    operator = Inpainting(mask).draw(SHAPE, Noise(IDS, "noise"))
    y = 1.2 * SIGMA_Y * operator.restrict(torch.ones(3, *SHAPE, dtype=torch.float64))
    posed = Problem(y, operator, Gaussian(SIGMA_Y), IDS)
    x = AdamW(lr_pixel=1e-3)(torch.zeros_like(y), posed, "pixel")
    assert ((posed.residual(x) < 1) & (posed.residual(x) > 0.95)).all()


def test_a_descent_takes_the_step_that_finds_the_loss_small():
    """As the released code does: it stops after it. The first step of Adam is as long as its rate, here a thousandth."""
    start = torch.zeros(3, *SHAPE, dtype=torch.float64)
    x = AdamW(lr_pixel=1e-3, stop=1e6)(start, problem(), "pixel")
    torch.testing.assert_close(x.abs(), torch.full_like(x, 1e-3), rtol=1e-4, atol=0)


def test_pasting_ends_with_y_itself():
    """The entries that A sees are y's, the rest is left alone: what it adds is of A's row space."""
    image = run(PublishedPSLD(steps=4, back="noise", paste=True), LATENT).x0
    plain = run(PublishedPSLD(steps=4, back="noise", polish=False), LATENT).x0
    posed = problem()
    torch.testing.assert_close(
        posed.operator.forward(image), posed.y, rtol=0, atol=1e-4
    )  # s2 = 1e-6 of |A|^2 below 1
    added = (image - plain).flatten(1)
    inside = added @ torch.linalg.pinv(A) @ A
    torch.testing.assert_close(inside, added, rtol=0, atol=1e-10)
