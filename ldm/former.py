"""What configurations of former versions say today: users' files and exported models go on loading.

A class that moved is one line of RENAMED. A class that became several is an entry of SPLIT: which of them a file means is
told by its settings; those that it does not have are left out where they are the former defaults, and else refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RENAMED = {  # module or class -> module or class of today
    "ldm.autoencoder": "ldm.training.autoencoder",
    "ldm.bottleneck": "ldm.training.bottleneck",
    "ldm.callbacks": "ldm.training.callbacks",
    "ldm.clip": "ldm.networks.clip",
    "ldm.crops": "ldm.training.crops",
    "ldm.diffusion": "ldm.training.diffusion",
    "ldm.diffusion.LatentDiffusion": "ldm.training.latent_diffusion.LatentDiffusion",
    "ldm.diffusion.LatentPatchDiffusion": "ldm.training.latent_diffusion.LatentPatchDiffusion",
    "ldm.edm_blocks": "ldm.networks.edm_blocks",
    "ldm.edm_networks": "ldm.networks.edm",
    "ldm.frame": "ldm.resize",
    "ldm.generate": "ldm.sampling",
    "ldm.latent_diffusion": "ldm.training.latent_diffusion",
    "ldm.latent_patch": "ldm.latent",
    "ldm.levels": "ldm.training.noise_levels",
    "ldm.monai": "ldm.networks.monai",
    "ldm.networks": "ldm.networks.unet",
    "ldm.optimisation": "ldm.training.optimisation",
    "ldm.perceptual": "ldm.training.perceptual",
    "ldm.published": "ldm.networks.published",
    "solvers.descent": "solvers.published.descent",
    "solvers.padis_pc": "solvers.published.padis_pc",
}


@dataclass(frozen=True)
class Form:
    """What a file of a former class means."""

    target: str  # the class of today
    unread: Mapping[
        str, Any
    ]  # former settings that it does not have, with their defaults: left out where they have those
    told: Mapping[str, Any] = field(
        default_factory=dict
    )  # the settings that tell it, which are left out too
    adds: Mapping[str, Any] = field(default_factory=dict)  # settings of today
    over: Mapping[str, float] = field(
        default_factory=dict
    )  # numbers that tell it by being larger than these
    null: Mapping[str, Any] = field(default_factory=dict)  # what a setting given as null meant


EXACT = {"inner": "exact", "covariance": "measured", "s0": None, "newton": 2, "cg": 10, "rank": 30}
ODE = {
    "ode": "euler",
    "ode_steps": 5,
    "ode_sigma_min": 0.01,
    "M": 100,
    "lr": 1e-4,
    "lr_min_ratio": 0.01,
    "tau": 0.01 / 2**0.5,
}
CHAIN = {**ODE, "momentum": 0.9, "clamp": None, "final_denoise": False}
MULTIPLIER = {"scale": None, "t_div": 0, "div_ratio": 1.0}
TEN = {"sigma_max": 10.0}
RELEASED = {"inner": "exact", "look_ahead": 0, "tweedie": "exact", "dps": 0.0, "spacing": "even"}
DATA_TERM = {"data": "ddnm", "normalisation": "operator", "zeta": 1.0, "variance": "corrected"}
DAPS, CODPS, PADIS = (
    "solvers.published.daps.DAPS",
    "solvers.published.codps.PublishedCoDPS",
    "solvers.published.padis.PaDIS",
)
PSLD, RESAMPLE = (
    "solvers.published.psld.PublishedPSLD",
    "solvers.published.resample.PublishedReSample",
)

SPLIT: dict[
    str, tuple[Form, ...]
] = {  # former class -> its forms; the first that a file's settings tell is meant
    "solvers.daps.DAPS": (
        Form(f"{DAPS}Langevin", {**EXACT, "momentum": 0.9}, {"inner": "langevin"}, null=TEN),
        Form(f"{DAPS}HMC", EXACT, {"inner": "hmc"}, null=TEN),
        Form(
            f"{DAPS}Metropolis",
            {**EXACT, "momentum": 0.9, "clamp": None},
            {"inner": "mh"},
            null=TEN,
        ),
        Form("solvers.daps.DAPS", {**CHAIN, "inner": "exact"}),
    ),
    "solvers.codps.CoDPS": (
        Form(CODPS, {}, over={"scale": 0}),
        Form("solvers.codps.CoDPS", MULTIPLIER),
    ),
    "solvers.codps.CoDPSPlus": (
        Form(f"{CODPS}Plus", {}, over={"scale": 0}),
        Form("solvers.codps.CoDPSPlus", MULTIPLIER),
    ),
    "solvers.dps.DPS": (
        Form("solvers.dps.DPSLikelihood", {"zeta": 0.3}, {"guidance": "likelihood"}),
        Form("solvers.dps.DPS", {"guidance": "norm"}),
    ),
    "solvers.psld.PSLD": (
        Form(PSLD, {}, {"back": "adjoint"}, {"back": "adjoint", "spacing": "even"}),
        Form(PSLD, {}, {"back": "pinv"}, {"back": "pinv", "spacing": "even"}),
        Form(PSLD, {}, {"paste": True}, {"back": "noise", "paste": True, "spacing": "even"}),
        Form("solvers.psld.PSLD", {"back": "noise", "paste": False}),
    ),
    "solvers.resample.ReSample": (
        Form(RESAMPLE, {}, {"inner": "adamw"}),
        Form(RESAMPLE, {"inner": "exact"}, {"tweedie": "code"}, {"tweedie": "code", "adamw": None}),
        Form(
            RESAMPLE,
            {"inner": "exact"},
            {"spacing": "leading"},
            {"spacing": "leading", "adamw": None},
        ),
        Form(RESAMPLE, {"inner": "exact"}, {}, {"adamw": None}, {"look_ahead": 0}),
        Form(RESAMPLE, {"inner": "exact"}, {}, {"adamw": None}, {"dps": 0.0}),
        Form("solvers.resample.ReSample", RELEASED),
    ),
    "solvers.padis.PaDIS": (
        Form(f"{PADIS}DPS", {}, {"data": "dps"}),
        Form(
            f"{PADIS}Langevin",
            {},
            {"data": "langevin", "normalisation": "code"},
            {"normalisation": "paper"},
        ),
        Form(f"{PADIS}Langevin", {}, {"data": "langevin"}),
        Form(f"{PADIS}DDNM", DATA_TERM, {"variance": "published"}),
        Form("solvers.padis.PaDIS", DATA_TERM),
    ),
}


def today(target: Any, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A target and its settings as they are called today; what never changed, as it is."""
    if not isinstance(target, str):
        return target, dict(params)  # refused where targets are resolved
    for form in SPLIT.get(target, ()):
        told = all(params.get(key) == value for key, value in form.told.items())
        if told and all((params.get(key) or 0) > value for key, value in form.over.items()):
            return form.target, _translated(form, params)
    return renamed(target), dict(params)


def _translated(form: Form, params: Mapping[str, Any]) -> dict[str, Any]:
    absent = object()
    kept = {
        key: value
        for key, value in params.items()
        if key not in form.told and form.unread.get(key, absent) != value
    }
    meant = {key: value for key, value in form.null.items() if kept.get(key, absent) is None}
    return {**kept, **form.adds, **meant}


def renamed(target: str) -> str:
    """A dotted class name of a former version as it is today."""
    if target in RENAMED:
        return RENAMED[target]
    module, _, name = target.rpartition(".")
    return f"{RENAMED.get(module, module)}.{name}"
