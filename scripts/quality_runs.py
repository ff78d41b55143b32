"""The runs behind docs/quality.md: which solvers, with which prior, on which tasks, as calls of sample.py."""

from collections.abc import Iterator, Sequence

TASKS = (
    "super_resolution",
    "inpainting_random",
    "inpainting_box",
    "gaussian_deblur",
    "ct_parallel_20",
    "mri_x4",
)
CLASSICAL = ("baseline", "tv")
SHORT = {  # prior -> solvers, steps, slices
    "demo-latent": [(("resample_fast",), 50, 4)],
    "demo-pixel": [(("pnp",), 20, 4), (("daps",), 20, 4)],
    "demo-patch": [(("padis",), 30, 4)],
}
MORE = {  # at most 100 network calls a draw: a night on two cores, where SHORT is an hour
    "demo-latent": [(("daps",), 20, 4), (("resample",), 50, 4)],
    "demo-pixel": [(("codps_plus",), 50, 4), (("resample",), 30, 4)],
    "demo-patch": [(("daps",), 20, 4), (("padis_pc",), 30, 4)],
}
ONE = ("pnp",)  # solvers without draws
LONG = {  # prior -> solvers and tasks: minutes to hours a draw, so one slice, one draw
    "demo-latent": [
        (("psld",), TASKS),
        (("resample_stages", "psld_published", "dps", "daps_hmc", "resample_published"), TASKS[:1]),
    ],
    "demo-pixel": [(("dps",), TASKS), (("daps_langevin",), TASKS[:1])],
    "demo-patch": [(("padis_langevin", "padis_dps", "padis_dps_published"), TASKS[:1])],
}


def commands() -> Iterator[str]:
    """One call of sample.py a line; the noisier super-resolution has folders of its own."""
    noisy = "likelihood.params.sigma_y=0.05"
    for groups, long in ((SHORT, ""), (MORE, "  # long")):
        for prior, (solvers, steps, slices) in (
            (prior, one) for prior, group in groups.items() for one in group
        ):
            draws = "" if solvers == ONE else " --num-samples 4"
            more = f"--limit {slices}{draws} --steps {steps}"
            yield call(prior, TASKS, solvers, "", more) + long
            yield call(prior, TASKS[:1], solvers, "/noisier", f"{more} {noisy}") + long
    yield call("demo-pixel", TASKS, CLASSICAL, "/classical", "--limit 4")
    yield call("demo-pixel", TASKS[:1], CLASSICAL, "/classical/noisier", f"--limit 4 {noisy}")
    for prior, groups in LONG.items():
        for solvers, tasks in groups:
            yield call(prior, tasks, solvers, "/long", "--limit 1") + "  # long"


def call(prior: str, tasks: Sequence[str], solvers: Sequence[str], folder: str, more: str) -> str:
    place = f"results/quality/{prior}{folder}" + (
        "" if len(tasks) * len(solvers) > 1 else f"/{tasks[0]}-{solvers[0]}"
    )
    grid = f"--task {' '.join(tasks)} --solver {' '.join(solvers)}"
    return f"python sample.py --manifest models/demo-data/test.csv --model {prior} {grid} {more} --save-dir {place}"
