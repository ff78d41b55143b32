"""What users' files and exported models of former versions say still loads, as what it meant then."""

import dataclasses

import pytest

from ldm import config, former
from solvers.codps import CoDPS, CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS, DPSLikelihood
from solvers.padis import PaDIS
from solvers.psld import PSLD
from solvers.published.codps import PublishedCoDPS, PublishedCoDPSPlus
from solvers.published.daps import DAPSHMC, DAPSLangevin, DAPSMetropolis
from solvers.published.descent import AdamW
from solvers.published.padis import PaDISDDNM, PaDISDPS, PaDISLangevin
from solvers.published.padis_pc import PaDISPC
from solvers.published.psld import PublishedPSLD
from solvers.published.resample import PublishedReSample
from solvers.resample import ReSample

DESCENT = {"target": "solvers.descent.AdamW", "params": {"stop": 1e-6}}
SOLVERS = [  # former class and settings -> today's object
    ("daps.DAPS", dict(steps=9), DAPS(steps=9)),
    (
        "daps.DAPS",
        dict(inner="exact", covariance="trace", lr=1e-4, M=100, final_denoise=False),
        DAPS(covariance="trace"),
    ),
    (
        "daps.DAPS",
        dict(inner="langevin", lr=5e-5, covariance="measured", cg=10),
        DAPSLangevin(lr=5e-5),
    ),
    (
        "daps.DAPS",
        dict(inner="langevin", sigma_max=None, clamp=1.0),
        DAPSLangevin(sigma_max=10.0, clamp=1.0),
    ),
    (
        "daps.DAPS",
        dict(inner="hmc", momentum=0.8, final_denoise=True),
        DAPSHMC(momentum=0.8, final_denoise=True),
    ),
    ("daps.DAPS", dict(inner="mh", tau=0.3, s0=None), DAPSMetropolis(tau=0.3)),
    ("codps.CoDPS", dict(steps=9, t_div=0), CoDPS(steps=9)),
    (
        "codps.CoDPS",
        dict(scale=0.1, t_div=3, inv_var=0.1),
        PublishedCoDPS(scale=0.1, t_div=3, inv_var=0.1),
    ),
    ("codps.CoDPSPlus", dict(scale=None, inv_var=None), CoDPSPlus()),
    (
        "codps.CoDPSPlus",
        dict(scale=0.4, div_ratio=5.0),
        PublishedCoDPSPlus(scale=0.4, div_ratio=5.0),
    ),
    ("dps.DPS", dict(guidance="norm", zeta=0.5), DPS(zeta=0.5)),
    ("dps.DPS", dict(guidance="likelihood", zeta=0.3, clip=False), DPSLikelihood(clip=False)),
    ("psld.PSLD", dict(back="noise", paste=False, steps=5), PSLD(steps=5)),
    (
        "psld.PSLD",
        dict(back="adjoint", polish=False),
        PublishedPSLD(back="adjoint", polish=False, spacing="even"),
    ),
    ("psld.PSLD", dict(back="pinv"), PublishedPSLD(back="pinv", spacing="even")),
    ("psld.PSLD", dict(paste=True), PublishedPSLD(back="noise", paste=True, spacing="even")),
    (
        "resample.ReSample",
        dict(inner="exact", look_ahead=0, spacing="even", skip=2),
        ReSample(skip=2),
    ),
    (
        "resample.ReSample",
        dict(inner="adamw", adamw=DESCENT, dps=0.5),
        PublishedReSample(adamw=AdamW(stop=1e-6), dps=0.5),
    ),
    (
        "resample.ReSample",
        dict(look_ahead=2, inner="exact"),
        PublishedReSample(adamw=None, look_ahead=2),
    ),
    ("resample.ReSample", dict(dps=0.5), PublishedReSample(adamw=None, dps=0.5)),
    ("resample.ReSample", dict(tweedie="code"), PublishedReSample(adamw=None, tweedie="code")),
    (
        "resample.ReSample",
        dict(spacing="leading"),
        PublishedReSample(adamw=None, spacing="leading"),
    ),
    ("padis.PaDIS", dict(data="ddnm", variance="corrected", zeta=1.0, inner=2), PaDIS(inner=2)),
    ("padis.PaDIS", dict(data="ddnm", variance="published"), PaDISDDNM()),
    (
        "padis.PaDIS",
        dict(data="dps", normalisation="code", zeta=0.3),
        PaDISDPS(normalisation="code", zeta=0.3),
    ),
    (
        "padis.PaDIS",
        dict(data="langevin", variance="published"),
        PaDISLangevin(variance="published"),
    ),
    (
        "padis.PaDIS",
        dict(data="langevin", normalisation="code"),
        PaDISLangevin(normalisation="paper"),
    ),
    ("padis_pc.PaDISPC", dict(r0=0.08), PaDISPC(r0=0.08)),
]


@pytest.mark.parametrize("name, params, today", SOLVERS, ids=lambda value: str(value)[:40])
def test_former_solvers_load(name, params, today):
    found = config.build({"target": f"solvers.{name}", "params": params})
    assert type(found) is type(today) and dataclasses.asdict(found) == dataclasses.asdict(today)


@pytest.mark.parametrize("target", former.SPLIT)
def test_every_form_is_tried_and_leads_to_a_class(target):
    tried = {
        former.today(f"solvers.{name}", params)[0]
        for name, params, _ in SOLVERS
        if f"solvers.{name}" == target
    }
    assert tried == {form.target for form in former.SPLIT[target]}
    assert all(config.resolve(form.target) for form in former.SPLIT[target])


@pytest.mark.parametrize("module", former.RENAMED)
def test_former_modules_lead_to_modules(module):
    """The classes of one, or the class itself, are found under the former name."""
    today = former.RENAMED[module]
    if today.rpartition(".")[2][0].isupper():
        assert config.resolve(module) is config.resolve(today)
        return
    found = __import__(today, fromlist=["_"])
    classes = [
        name
        for name, value in vars(found).items()
        if isinstance(value, type) and value.__module__ == today
    ]
    assert all(config.resolve(f"{module}.{name}") is getattr(found, name) for name in classes)


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="DAPS has no parameter 'lr'"):
        config.build({"target": "solvers.daps.DAPS", "params": {"lr": 1.0}})
    with pytest.raises(ValueError, match="PaDIS has no parameter 'zeta'"):
        config.build({"target": "solvers.padis.PaDIS", "params": {"zeta": 0.3}})
