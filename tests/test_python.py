"""The face for Python: arrays and files in, results in the caller's form, and the same images as the command line's."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import tiny
import torch

import palimpsest as P
import sample
from data import formats
from data.seeding import Noise
from ldm import catalogue
from solvers import problem as problems
from solvers.baseline import Baseline
from solvers.codps import CoDPSPlus

ROOT = Path(__file__).parents[1]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
BLOCKS = PYTHON.findall((ROOT / "docs/python.md").read_text())
README = PYTHON.findall((ROOT / "README.md").read_text())[0]
LUNG = ROOT / "models/demo-data/lung2-ax-035.dcm"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Nothing in it is changed by a test."""
    return tiny.world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def prior(world: Path):
    return P.load(world / "pixel")


def image(*shape: int) -> np.ndarray:
    """Numbers in [0.1, 0.9]."""
    return 0.1 + 0.8 * np.random.default_rng(0).random(shape)


def small_dicom(path: Path) -> Path:
    """A shipped scan as 16 x 16 pixels."""
    scan = formats.read(LUNG)
    pixels = torch.nn.functional.adaptive_avg_pool2d(scan.pixels, 16).round()
    formats.write(
        formats.Image(pixels, formats.resized(scan.meta, 16 / 256)), path, image_id="small"
    )
    return path


def words(world: Path, **more) -> dict:
    return {"task": world / "sr.yaml", "solver": world / "codps.yaml", "accelerator": "cpu", **more}


def test_importing_it_costs_nothing(tmp_path: Path):
    """From any folder. Of five tries the quickest, because other work may run on this machine."""
    code = "import sys, time; t = time.perf_counter(); import palimpsest; print(time.perf_counter() - t, 'torch' in sys.modules)"
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(5)
    ]
    assert min(float(seconds) for seconds, _ in told) < 0.2 and all(
        torch_too == "False" for _, torch_too in told
    )


@pytest.fixture
def notebook(world: Path, tmp_path: Path, monkeypatch) -> Path:
    """A folder where `demo-patch`, `scan.dcm` and `scans` are small."""
    tiny.folder(tmp_path / "demo-patch", tiny.patch())
    small_dicom(tmp_path / "scan.dcm")
    (tmp_path / "scans").symlink_to(world / "scans")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_five_lines_of_the_readme(notebook: Path):
    exec(README, scope := {})
    assert scope["result"].std.shape == (16, 16) and pydicom.dcmread("restored.dcm").Rows == 16


def test_the_page_is_true(notebook: Path, capsys):
    """All its blocks as they stand, in one namespace."""
    scope: dict = {}
    for block in BLOCKS:
        exec(block, scope)
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("without a range; say range='unit', 'model' or (low, high)")
    )
    assert scope["result"].image.shape == (16, 16) and len(BLOCKS) >= 8
    assert {p.name for p in notebook.glob("*")} >= {
        "restored.png",
        "filled.dcm",
        "filled.png",
        "filled",
    }


@pytest.mark.parametrize(
    "model, solver", [("pixel", "codps"), ("latent", "resample"), ("patch", "daps")]
)
def test_files_and_arrays_become_what_the_command_line_makes(
    world: Path, tmp_path: Path, model: str, solver: str
):
    line = tiny.words(
        world, tmp_path / "line", "--num-samples", "2", "--seed", "3", model=model, solver=solver
    )
    assert sample.main(line) == 0
    prior, same = (
        P.load(world / model),
        words(world, solver=world / f"{solver}.yaml", draws=2, seed=3),
    )
    for i, result in enumerate(P.restore(world / "scans", prior, **same)):
        result.save(tmp_path / f"scan{i}.png")
        assert (tmp_path / f"scan{i}.png").read_bytes() == (
            tmp_path / f"line/recon/scan{i}.png"
        ).read_bytes()
    pixels = formats.read(world / "scans/scan1.png").pixels[0].numpy().astype(np.uint16)
    written = [
        formats.read(p).pixels[0].numpy()
        for p in sorted((tmp_path / "line/samples").glob("scan1-*"))
    ]
    record = tiny.records(tmp_path / "line")["scan1"]
    of_array = P.restore(pixels, prior, ids="scan1", **same)
    assert np.array_equal(of_array.draws, written) and of_array.image.dtype == np.uint16
    assert np.array_equal(of_array.std, np.load(tmp_path / "line/std/scan1.npy")[0])
    assert of_array.residual == record["residual"] and of_array.record["psnr"] == record["psnr"]
    problem = P.measure(P.operators.SuperResolution(4), pixels, 0.05, seed=3, ids=["scan1"])
    del same["task"]
    of_problem = P.restore(problem, prior, **same)
    assert np.array_equal(of_problem.image, of_array.image) and "psnr" not in of_problem.record


SHAPES = [(16, 12), (1, 16, 12), (2, 1, 16, 12), (1, 1, 16, 12)]
TYPES = [
    np.float16,
    np.float32,
    np.float64,
    np.uint8,
    np.uint16,
    np.int16,
    torch.float32,
    torch.bfloat16,
    torch.uint8,
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_results_have_the_form_of_what_came_in(prior, shape: tuple, dtype):
    """Denoising of almost no noise, answered classically: what comes back is what went in."""
    name = (
        str(dtype).removeprefix("torch.")
        if isinstance(dtype, torch.dtype)
        else np.dtype(dtype).name
    )
    low, high = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-1000, 400)}.get(name, (0, 1))
    values = low + (high - low) * image(*shape)
    given = (
        torch.from_numpy(values).to(dtype)
        if isinstance(dtype, torch.dtype)
        else values.astype(dtype)
    )
    stated = (low, high) if name == "int16" else None
    problem = P.measure(P.operators.Denoising(), given, 1e-5, range=stated)
    result = P.restore(problem, prior, solver=Baseline(), accelerator="cpu")
    assert (
        type(result.image) is type(given)
        and result.image.dtype == given.dtype
        and result.image.shape == given.shape
    )
    assert result.draws.shape == (*shape[:-3], 1, *shape[-3:]) if len(shape) == 4 else (1, *shape)
    # noise: 5 sigma of half the range; float32 on the way: a few 2^-24 of it; then the result's rounding, at most half a step
    steps = {"float16": 2**-11, "bfloat16": 2**-8}.get(name, 0.5 if "int" in name else 2**-22)
    away = np.abs(
        np.asarray(torch.as_tensor(result.image).double())
        - np.asarray(torch.as_tensor(given).double())
    )
    assert away.max() <= 5e-5 * (high - low) / 2 + steps
    if len(shape) == 4:
        assert len(result.residual) == len(result.record) == shape[0]


def test_spread_is_in_the_units_of_the_image(world: Path, prior):
    """A range that is 100 times as wide has 100 times the spread, of integers not rounded away."""
    narrow, wide = (
        P.restore(values, prior, **words(world, draws=3, range=(0, high)))
        for values, high in ((image(16, 16), 1), (100 * image(16, 16), 100))
    )
    assert np.allclose(100 * narrow.std, wide.std, rtol=1e-4, atol=1e-4) and np.allclose(
        narrow.std, narrow.draws.std(0, ddof=1), atol=1e-6
    )
    small = P.restore((3 * image(16, 16)).astype(np.uint8), prior, **words(world, draws=3))
    assert small.std.dtype == np.float32 and small.draws.dtype == np.uint8


OF_FILES = {
    "split": "test",
    "slicewise": True,
    "slice_range": "0:1",
    "every": 2,
    "planes": "all",
    "coupling": 3,
    "output_format": "dicom",
    "keep_patient": True,
}
BAD_ARRAYS = [
    (2 * image(16, 16), {}, "without a range; say range='unit', 'model' or"),
    ((2 * image(16, 16)).astype(int), {}, "^int64 values from 0 to 1 without a range"),
    (2 * image(16, 16), {"range": "unit"}, "range='unit' is 0 to 1, but values reach from"),
    (
        image(16, 16),
        {"range": "units"},
        r"range='units': 'unit', 'model' or \(low, high\) is allowed",
    ),
    (image(16, 16), {"range": (0, 1, 2)}, r"range=\(0, 1, 2\): 'unit'"),
    (image(16, 16), {"range": (1, 0)}, "needs low < high"),
    (image(16, 16, 3), {}, "move the channels to the front"),
    (image(5, 16, 16), {}, "has 5 channels"),
    (image(16), {}, r"an array of shape \[16\] is no image"),
    (image(0, 16), {}, "is no image"),
    (np.full((16, 16), np.nan), {}, "holds NaN"),
    (image(16, 16) + 0j, {}, "holds complex128"),
    (image(16, 16) > 0.5, {}, "holds bool"),
    (np.ma.masked_array(image(16, 16), image(16, 16) > 0.5), {}, "the array is masked"),
    ([image(16, 16)] * 2, {}, r"the prior has 1; two gray images are \[2,1,H,W\]"),
    (object(), {}, "object is no image"),
    (image(2, 1, 16, 16), {"ids": ["a", "a"]}, "2 images need as many names that differ"),
    (image(16, 16), {"ids": ""}, "1 images need as many names"),
    *[
        (image(16, 16), {word: value}, f"{word}= means nothing with an array")
        for word, value in OF_FILES.items()
    ],
    (image(16, 16), {"watch": 3}, "watch=3: a function that takes a Moment is allowed"),
    (image(16, 16), {"oracle": True}, "by the truth, and needs --num-runs"),
    (image(16, 16), {"num_samples": 2}, "'num_samples'; here it is draws"),
    (image(16, 16), {"color": 2}, "allowed: .*seed, .*solver, .*steps, task"),
    (image(16, 16), {"overrides": "steps"}, "'steps' is not of the form key=value"),
    (image(16, 16), {"colour": True}, "unknown keyword 'colour'"),
    (image(16, 16), {"batch_sise": 2}, "unknown keyword 'batch_sise'; did you mean 'batch_size'"),
    (image(16, 16), {"steps": 0}, "'0' is not a whole number from 1"),
    (image(16, 16), {"solver": "daps2"}, "unknown solver 'daps2'"),
    (image(16, 16), {"solver": CoDPSPlus}, "solver=<class .*: a name of P.solvers"),
    (image(16, 16), {"solver": lambda *_: [], "steps": 2}, "steps= means nothing with function"),
    (image(16, 16), {"prior": 3}, "prior=3: what P.load returns or takes is allowed"),
    (image(16, 16), {"task": P.operators.SuperResolution(4)}, "operators go to P.measure"),
    (
        image(16, 16),
        {"task": ["super_resolution", "mri_x4"]},
        "one task and one solver a call, not",
    ),
    (
        image(16, 16),
        {"task": None, "solver": "prior"},
        "prior draws from the prior itself and restores nothing",
    ),
    (image(16, 16), {"overrides": ["steps"]}, "'steps' is not of the form key=value"),
    (image(16, 16), {"start": 1}, "start=1 leaves no image"),
    (image(16, 16), {"precision": "16-mixed"}, "16-mixed needs a GPU"),
]


@pytest.mark.parametrize(
    "given, more, expected",
    BAD_ARRAYS,
    ids=[f"{i}-{case[2][:20]}" for i, case in enumerate(BAD_ARRAYS)],
)
def test_mistakes_are_one_line(world: Path, prior, monkeypatch, given, more: dict, expected: str):
    """Before any network runs."""
    monkeypatch.setattr(prior.denoiser, "forward", lambda *_: pytest.fail("a network ran"))
    with pytest.raises(P.Refusal, match=expected) as told:
        P.restore(given, **{"prior": prior, **words(world, **more)})
    assert "\n" not in str(told.value)


def test_words_that_mean_nothing_are_refused(world: Path, prior):
    problem = P.measure(P.operators.SuperResolution(4), image(16, 16), 0.05)
    for word, value in {
        "task": "mri_x4",
        "measurements": True,
        "range": "unit",
        "ids": "a",
        "limit": 1,
        **OF_FILES,
    }.items():
        with pytest.raises(P.Refusal, match=f"{word}= means nothing with a problem"):
            P.restore(problem, prior, **{word: value})
    with pytest.raises(P.Refusal, match="operator.params.factor=2: means nothing with a problem"):
        P.restore(problem, prior, overrides=["operator.params.factor=2"])
    with pytest.raises(P.Refusal, match="range= means nothing with files"):
        P.restore(world / "scans", prior, **words(world, range="unit"))
    with pytest.raises(P.Refusal, match="nowhere: no such folder or file$"):
        P.restore("nowhere", prior, **words(world))
    with pytest.raises(P.Refusal, match="'models' have no settings; 'tasks' or 'solvers'"):
        P.settings("models", "demo-pixel")
    with pytest.raises(P.Refusal, match="unknown model 'demo-pach'; did you mean 'demo-patch'"):
        P.load("demo-pach")


@pytest.mark.parametrize("noise", [np.float32(0.1), np.array(0.1), torch.tensor(0.1), np.int64(1)])
def test_numbers_of_numpy_and_torch_are_noise(noise):
    operator = P.operators.SuperResolution(4)
    made, plain = (P.measure(operator, image(16, 16), sigma_y) for sigma_y in (noise, float(noise)))
    assert torch.equal(made.y, plain.y) and made.likelihood == plain.likelihood
    assert type(P.Gaussian(noise).sigma_y) is type(P.Poisson(noise).rate) is float


@pytest.mark.parametrize("noise", ["0.1", None, [0.1], np.ones((2, 2)), True, P.Clean, P.Gaussian])
def test_what_says_nothing_of_noise_is_refused(noise):
    with pytest.raises(P.Refusal, match="^sigma_y=.*: a number, P.Gaussian.* is allowed$"):
        P.measure(P.operators.SuperResolution(4), image(16, 16), noise)
    with pytest.raises(P.Refusal, match="^Poisson rate must be a finite number > 0, not .*$"):
        P.Poisson(noise)


@pytest.mark.parametrize("operator", ["super_resolution", P.operators.SuperResolution, None])
def test_what_is_no_operator_is_refused(operator):
    with pytest.raises(P.Refusal, match="^operator=.*: one of P.operators is allowed, as P.*$"):
        P.measure(operator, image(16, 16), 0.1)


def test_a_task_that_nobody_named_is_said():
    with pytest.warns(UserWarning, match="^no task is named: super_resolution is simulated; task="):
        P.estimate(image(16, 16), "demo-pixel")


def test_a_base_that_describes_its_task_needs_none(tmp_path):
    whole = tmp_path / "super_resolution.yaml"  # called as the task is that stands in for none
    whole.write_text(
        "operator: {target: solvers.operators.Denoising}\n"
        "likelihood: {target: solvers.problem.Gaussian, params: {sigma_y: 0.1}}\n"
        "solver: {target: solvers.pnp.PnP}\n"
    )
    with warnings.catch_warnings(action="error"):
        P.estimate(image(16, 16), "demo-pixel", base=[str(whole)])


def test_twelve_bits_in_sixteen_are_named():
    """Once `range` says what is white there is nothing to say, nor where the values fill their type."""
    few = (4095 * image(16, 16)).astype(np.uint16)
    with pytest.warns(UserWarning, match=r"end at 5\.\d% of uint16's; range=\(low, high\)"):
        P.measure(P.operators.SuperResolution(4), few, 0.1)
    with warnings.catch_warnings(action="error"):
        P.measure(P.operators.SuperResolution(4), few, 0.1, range=(0, 4095))
        P.measure(P.operators.SuperResolution(4), 16 * few, 0.1)


def test_a_picture_of_pillow_is_an_array():
    """Its memory is not for writing, of which torch warns."""
    picture = PIL.Image.fromarray((255 * image(16, 16)).astype(np.uint8))
    with warnings.catch_warnings(action="error"):
        assert P.measure(P.operators.Denoising(), picture, 0.1).y.shape == (1, 1, 16, 16)


def test_random_operators_draw_for_each_image(prior):
    """Its own mask, from seed and id alone, as the command line draws it."""
    recipe, x = P.operators.RandomInpainting(0.5, 0.6), image(2, 1, 16, 16)
    problem = P.measure(recipe, x, 0.05, seed=2, ids=["a", "b"])
    assert not torch.equal(problem.operator.mask[0], problem.operator.mask[1])
    alone = P.measure(recipe, x[1:], 0.05, seed=2, ids=["b"])
    assert torch.equal(alone.operator.mask[0], problem.operator.mask[1]) and torch.equal(
        alone.y[0], problem.y[1]
    )
    plain = problems.measure(
        P.operators.MotionBlur(5), torch.zeros(1, 1, 16, 16), 0.05, Noise(["a"], "noise")
    )
    assert plain.operator.shape == (1, 16, 16)


def test_problems_made_elsewhere_come_back_as_tensors_in_the_model_range(world: Path, prior):
    x = torch.from_numpy(2 * image(2, 1, 16, 16) - 1).float()
    problem = problems.measure(P.operators.SuperResolution(4), x, 0.05, Noise(["a", "b"], "noise"))
    result = P.restore(problem, prior, solver=world / "codps.yaml", draws=2, accelerator="cpu")
    assert (
        isinstance(result.image, torch.Tensor)
        and result.image.shape == x.shape
        and result.draws.shape == (2, 2, 1, 16, 16)
    )


def test_solvers_may_be_objects(world: Path, prior):
    named = P.restore(image(16, 16), prior, **words(world))
    made = P.restore(image(16, 16), prior, **words(world, solver=CoDPSPlus(steps=4)))
    fewer = P.restore(image(16, 16), prior, **words(world, solver=CoDPSPlus(steps=4), steps=2))
    assert np.array_equal(named.image, made.image) and (
        made.record["nfe"],
        fewer.record["nfe"],
    ) == (4, 2)


def test_the_callers_prior_is_left_as_it_is(world: Path):
    prior = P.load(world / "rgb")
    colours = P.restore(image(3, 16, 16), prior, **words(world)).image
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        assert P.restore(image(16, 16), prior, **words(world)).image.shape == (
            16,
            16,
        )  # gray under a prior of colours
    P.restore(image(3, 16, 16), prior, **words(world, precision="64-true"))
    assert not prior.gray and next(prior.parameters()).dtype == torch.float32
    assert np.array_equal(P.restore(image(3, 16, 16), prior, **words(world)).image, colours)


def test_a_measured_array_is_y_itself(world: Path, tmp_path: Path, prior):
    """Of CT in physical units, whose result is in [0, 1]; of images in the model range."""
    tiny.task(tmp_path / "ct.yaml", "CT", views=6, bins=24)
    sino = P.restore(
        image(16, 16), prior, **words(world, task=tmp_path / "ct.yaml", precision="64-true")
    )
    y = sino.outcomes[0].y
    again = P.restore(
        y.float(),
        prior,
        ids="image",
        measurements=True,
        **words(world, task=tmp_path / "ct.yaml", precision="64-true"),
    )
    assert tuple(again.image.shape) == (1, 16, 16) and "psnr" not in again.record
    # float32 of y, amplified by a well-conditioned solve
    assert np.abs(again.image[0].numpy() - sino.image).max() < 1e-4


def test_measured_integers_are_read_as_their_file_is(world: Path, tmp_path: Path, prior):
    """Noise beyond black and white is noise, and not clamped away; the id of both is that of the file."""
    y = np.clip(66000 * image(4, 4), 0, 65535).astype(np.uint16)
    formats.write(
        formats.Image(torch.from_numpy(y.astype(np.float32))[None], formats.Meta("png", "uint16")),
        tmp_path / "y.png",
    )
    same = words(world, measurements=True)
    of_file, of_array = (
        P.restore(tmp_path / "y.png", prior, **same),
        P.restore(y, prior, ids="y", **same),
    )
    narrow = P.restore(y, prior, ids="y", range=(10000, 50000), **same)
    assert np.array_equal(np.rint(of_file.image).clip(0, 65535), of_array.image)
    assert narrow.outcomes[0].y.max() > 1 and narrow.record["notes"] == []


def test_volumes_come_back_whole(world: Path, tmp_path: Path, prior):
    """All slices in one result, saved as one file in the place it had, as the command line does."""
    affine = np.array([[0, 0, 5.0, 7], [-2.4, 0, 0, 30], [0, 2.8, 0, -40], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    values = (1000 * image(16, 16, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "in/head.nii.gz")
    result = P.restore(tmp_path / "in/head.nii.gz", prior, **words(world))
    assert result.image.shape == (3, 16, 16) and len(result.residual) == 3
    result.save(tmp_path / "out.nii.gz")
    assert (
        sample.main(tiny.words(world, tmp_path / "line", "--data-root", str(tmp_path / "in"))) == 0
    )
    ours, theirs = tmp_path / "out.nii.gz", tmp_path / "line/recon/head.nii.gz"
    assert ours.read_bytes() == theirs.read_bytes()
    assert (
        np.array_equal(nibabel.load(ours).affine, affine.astype(np.float32))
        and nibabel.load(ours).get_data_dtype() == np.int16
    )
    for name in ("out.png", "out.dcm"):
        with pytest.raises(P.Refusal, match=r"\.nii\.gz, \.npy, a folder, and \.png"):
            result.save(tmp_path / name)


def test_dicom_stays_dicom(world: Path, tmp_path: Path, prior):
    result = P.restore(small_dicom(tmp_path / "scan.dcm"), prior, **words(world))
    result.save(tmp_path / "out.dcm")
    before, after = pydicom.dcmread(tmp_path / "scan.dcm"), pydicom.dcmread(tmp_path / "out.dcm")
    assert (
        after.PixelSpacing == before.PixelSpacing
        and after.ImagePositionPatient == before.ImagePositionPatient
    )
    assert (
        after.SOPInstanceUID != before.SOPInstanceUID
        and "not for diagnosis" in after.DerivationDescription
    )
    hounsfield = after.pixel_array * float(after.RescaleSlope) + float(after.RescaleIntercept)
    assert (
        np.abs(hounsfield - result.image.clip(-1024, 3071)).max() <= 0.5
    )  # rounded to the file's depth


def test_results_are_saved(world: Path, tmp_path: Path, prior):
    result = P.restore(image(16, 16), prior, **words(world, draws=2))
    for name in ("a.npy", "a.png", "a.tif", "a.jpg", "folder"):
        result.save(tmp_path / name)
    assert np.array_equal(np.load(tmp_path / "a.npy"), result.image)
    stored = formats.read(tmp_path / "a.png")
    # half a 16-bit step, and float32 of 65535
    assert (
        stored.meta.dtype == "uint16"
        and np.abs(stored.pixels[0] / 65535 - result.image.clip(0, 1)).max() <= 0.6 / 65535
    )
    lines = (tmp_path / "folder/records.jsonl").read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["files"].keys() >= {
        "recon",
        "samples",
        "std",
        "measurement",
        "panels",
    }
    assert (tmp_path / "folder/report.html").is_file() and (
        tmp_path / "folder/config.yaml"
    ).is_file()
    eight = P.restore(
        (255 * image(3, 16, 16)).astype(np.uint8), P.load(world / "rgb"), **words(world)
    )
    eight.save(tmp_path / "b.png")
    assert np.array_equal(
        np.asarray(PIL.Image.open(tmp_path / "b.png")).transpose(2, 0, 1), eight.image
    )
    with pytest.raises(P.Refusal, match="a.dcm: .npy, a folder, and .png"):
        result.save(tmp_path / "a.dcm")
    with pytest.raises(P.Refusal, match="--overwrite"):
        eight.save(tmp_path / "folder")


def test_a_notebook_shows_the_picture(world: Path, prior, monkeypatch):
    result = P.restore(image(3, 1, 16, 16), prior, **words(world))
    assert result._repr_png_().startswith(b"\x89PNG") and result.picture.height > 3 * 256
    shown = []
    monkeypatch.setattr(PIL.Image.Image, "show", lambda picture: shown.append(picture.size))
    monkeypatch.setitem(sys.modules, "IPython", None)
    result.show()
    assert shown == [result.picture.size] and "residual" in repr(result)


def test_one_bad_file_of_a_folder_is_told_and_left_out(world: Path, tmp_path: Path, prior):
    tiny.scans(tmp_path / "scans")
    (tmp_path / "scans/scan1.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="scan1: failed: .*scan1.png"):
        results = P.restore(tmp_path / "scans", prior, **words(world))
    assert [result.record["image_id"] for result in results] == ["scan0", "scan2"]
    with pytest.raises(P.Refusal, match="scan1.png"):
        P.restore(tmp_path / "scans/scan1.png", prior, **words(world))


def test_a_bug_looks_like_one(world: Path, prior):
    """No Refusal, and with the traceback of where it came up."""

    class Broken(CoDPSPlus):
        def __call__(self, problem, prior, noise):
            raise KeyError("broken")

    problem = P.measure(P.operators.SuperResolution(4), image(16, 16), 0.05)
    for what, more in ((image(16, 16), {"task": world / "sr.yaml"}), (problem, {})):
        with pytest.raises(RuntimeError, match="image: failed: (.|\n)*in __call__\n") as told:
            P.restore(what, prior, solver=Broken(steps=2), accelerator="cpu", **more)
        assert not isinstance(told.value, P.Refusal)


def test_it_says_where_it_must_run_from(tmp_path: Path, monkeypatch):
    assert list(P.models()) == ["demo-latent", "demo-patch", "demo-pixel"] and "ReSample" in repr(
        P.solvers()
    )
    assert set(P.tasks()) == {p.stem for p in (ROOT / "configs/tasks").glob("*.yaml")} - {"aliases"}
    assert all(
        line and len(line) <= catalogue.LINE
        for listing in (P.tasks(), P.solvers(), P.models())
        for line in listing.values()
    )
    monkeypatch.setattr(catalogue, "HOME", tmp_path)
    for ask in (P.tasks, P.models, lambda: catalogue.settings("tasks", "mri_x4")):
        with pytest.raises(
            P.Refusal, match=r"run from a checkout, installed with `pip install -e \.`"
        ):
            ask()
