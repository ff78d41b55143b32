"""From the scanner's file to the picture: every format holds the same scan, and the picture is the magnitude in its units."""

import json
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
import tiny
import torch
from scans import body, simulated
from scipy.ndimage import uniform_filter
from simulate_mri_coils import correlated, ring
from tiny import refusal

import sample
from data import formats
from data.files import Refusal
from data.formats import kspace as files
from data.seeding import Noise
from ldm.config import Node, build
from solvers.baseline import LeastSquares
from solvers.measured import noise
from solvers.measured.mri import ScannerMRI, with_model_errors, without_oversampling
from solvers.measured.scanner import centred
from solvers.operators.kspace import fourier
from solvers.problem import Gaussian
from solvers.run.scanned import emptied

LARGE = ("scan.h5", "scan.mrd", "scan.cfl", "scan.npy")


def prepared(path, index=0, sigma_y=None, **params):
    made = ScannerMRI(**params).prepare(path, index, "a", Gaussian(sigma_y), "nifti")
    return made, made.pose()


def picture(made, x):
    """The stored picture [H,W], as acquired, of a restored image [1,1,H,W]."""
    return made.intensity.to_stored(centred(x, made.kept))[0, 0]


def least_squares(problem, steps=10):
    return list(
        LeastSquares(steps)(problem, build(Node(tiny.pixel())), Noise(problem.ids, "solver"))
    )[-1].x0


def rms(values):
    return float(values.square().mean().sqrt())


def distance(shape):
    """From the middle of k-space, in samples [H,W]."""
    rows, columns = (torch.arange(n) - n // 2 for n in shape)
    return torch.hypot(rows[:, None].float(), columns[None].float())


def psnr(image, truth):
    return float(10 * torch.log10(truth.max() ** 2 / (image - truth).square().mean()))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return folder, [simulated(folder, name) for name in LARGE][0]


@pytest.mark.parametrize("name", LARGE)
def test_a_scan_with_phase_comes_out_as_its_magnitude(scans, name):
    """sigma_y within 5 % of what was simulated; the truth explains y to the noise but for errors of maps and phase."""
    folder, truth = scans
    made, problem = prepared(folder / name, 1)
    sigma = problem.whitened().sigma_y * made.intensity.high
    assert sigma == pytest.approx(0.01e-4, rel=0.05)
    x = least_squares(problem)
    assert float(problem.residual(x)) < 1.25
    assert psnr(picture(made, x), truth[1]) > 29
    assert made.intensity.high == pytest.approx(float(truth.max()), rel=0.35)
    exact = (truth[1] / made.intensity.high * 2 - 1)[None, None]
    assert 0.97 < float(problem.residual(exact)) < 1.1
    without = prepared(folder / name, 1, phase=False)[1]
    assert float(without.residual(least_squares(without))) > 3, "the phase is not worth knowing"


def test_all_formats_hold_the_same_k_space(scans):
    folder, _ = scans
    first = files.read(folder / "scan.npy", 1)
    for name in LARGE:
        raw = files.read(folder / name, 1)
        assert (
            files.count(folder / name) == 2
            and raw.kept == (64, 56)
            and raw.kspace.shape == (8, 128, 56)
        )
        torch.testing.assert_close(raw.kspace, first.kspace, rtol=1e-6, atol=0)
        assert torch.equal(raw.mask, first.mask) and raw.spacing == pytest.approx((2, 3))
        if name not in ("scan.h5",):
            np.testing.assert_allclose(raw.affine, first.affine, atol=1e-4)
            assert raw.noise is not None


def test_oversampled_readouts_are_cut_exactly(scans):
    """A band-limited object within the picture loses nothing: the shortened k-space is that of the picture alone."""
    raw = files.read(scans[0] / "scan.h5", 0)
    short = without_oversampling(raw)
    assert short.kspace.shape == (8, 64, 56)
    from solvers.operators.kspace import inverse_fourier

    whole, cut = inverse_fourier(raw.kspace), inverse_fourier(short.kspace)
    torch.testing.assert_close(centred(whole, (64, 56)), cut, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(64, 56), (63, 57), (61, 56)])
def test_odd_sizes_keep_their_middle(tmp_path, shape):
    truth = simulated(tmp_path, "odd.npy", slices=1, shape=shape)
    made, problem = prepared(tmp_path / "odd.npy")
    assert psnr(picture(made, least_squares(problem)), truth[0]) > 28


def test_partial_fourier_and_many_coils(tmp_path):
    truth = simulated(tmp_path, "half.mrd", "--partial-fourier", "0.75", "--coils", "12", slices=1)
    made, problem = prepared(tmp_path / "half.mrd", coils=6)
    assert problem.y.shape[1] == 12 and "12 coils compressed to 6" in made.source.meta.notes[-1]
    assert not bool(files.read(tmp_path / "half.mrd").mask[:, :12].any())
    assert psnr(picture(made, least_squares(problem)), truth[0]) > 25


@pytest.mark.parametrize("count", [8, 12, 32])
def test_coils_of_unequal_gain_and_correlated_noise_keep_the_scale(tmp_path, count):
    """The factor between picture and truth is 1 to 1 %, compressed or not: what compression drops is below that."""
    drawn = Noise(["gains"], "noise")
    coils = ring(count, (64, 56), 1.0, drawn)
    gains = torch.logspace(-0.5, 0.5, count, dtype=torch.float64)
    S, L = coils.S * gains[:, None, None], coils.L * gains[:, None]
    samples = fourier(S * body()) + 0.01 * correlated(L, (64, 56), drawn)
    np.save(tmp_path / "scan.npy", samples.numpy())
    np.save(tmp_path / "noise.npy", 0.01 * correlated(L, (4096,), drawn).numpy())
    (tmp_path / "scan.yaml").write_text("noise: noise.npy")
    truth = S.abs().square().sum(0).sqrt() * body()
    made, problem = prepared(tmp_path / "scan.npy")
    x = picture(made, least_squares(problem)).double()
    assert float((x * truth).sum() / truth.square().sum()) == pytest.approx(1, abs=0.01)


def test_one_coil(tmp_path):
    truth = simulated(tmp_path, "one.h5", "--coils", "1", slices=1)
    made, problem = prepared(tmp_path / "one.h5")
    assert problem.sigma_y * made.intensity.high == pytest.approx(1e-6, rel=0.08)
    exact = (truth[0] / made.intensity.high * 2 - 1)[None, None]
    assert 0.97 < float(problem.residual(exact)) < 1.1


def test_what_maps_and_phase_err_by_counts_as_noise_but_a_wrong_model_does_not(scans):
    """Variances add; the error of such an estimate of 14,000 free numbers is below 2 %."""
    folder, _ = scans
    _, problem = prepared(folder / "scan.h5", 1)
    clean = replace(problem, likelihood=Gaussian(problem.whitened().sigma_y))
    more = Noise(problem.ids, "noise", 7).like(problem.y)
    added = clean.sigma_y * problem.operator.restrict(more)
    before = with_model_errors(clean).deviation
    assert float(before.min()) == clean.sigma_y
    seen = problem.operator.restrict(torch.ones_like(before)) > 0
    for share in (0.9, 2.0):
        found = with_model_errors(replace(clean, y=clean.y + share * added)).deviation
        sum_of_squares = rms(before[seen]) ** 2 + (share * clean.sigma_y) ** 2
        assert rms(found[seen]) ** 2 == pytest.approx(sum_of_squares, rel=0.06)
    wrong = replace(clean, y=clean.y + 5 * added)  # more than errors can be
    assert with_model_errors(wrong) == wrong.likelihood
    without = prepared(folder / "scan.h5", 1, phase=False)[1]
    assert without.sigma_y <= clean.sigma_y * 1.0001


def test_what_maps_and_phase_err_by_is_said_where_it_is(tmp_path):
    """Of 11 lines in the middle. What is said of a ring of k-space is what the truth leaves there, averaged over as many samples.
    A ring of n numbers, 400 in the least, knows it to 1/sqrt(2 n), least squares' part of them hardly better: twice that, or the
    2 % by which the share that least squares leave differs from ring to ring."""
    few = ("--acceleration", "5", "--centre", "0.09")
    truth = simulated(tmp_path, "few.npy", *few, slices=1, shape=(128, 120))
    made, problem = prepared(tmp_path / "few.npy")
    exact = (truth[0] / made.intensity.high * 2 - 1)[None, None]
    left = problem.operator.restrict(problem.y - problem.operator.forward(exact.to(problem.y)))[0]
    deviation, noise_alone = problem.likelihood.deviation[0, 0], problem.whitened().sigma_y
    sampled = problem.operator.restrict(torch.ones_like(problem.y))[0, 0]
    power, count = (uniform_filter(z, 5, mode="constant") for z in (left.square().mean(0), sampled))
    expected = torch.from_numpy((power / count.clip(1e-6)) ** 0.5).clamp_min(noise_alone)
    from_middle = distance(sampled.shape)
    for low, high in ((0, 3), (3, 6), (6, 12), (12, 20), (20, 200)):
        ring = (sampled > 0) & (from_middle >= low) & (from_middle < high)
        off = max(0.02, 2 / (2 * left.shape[0] * int(ring.sum())) ** 0.5)
        assert rms(deviation[ring]) == pytest.approx(rms(expected[ring]), rel=off)
    middle = (sampled > 0) & (from_middle < 3)
    assert rms(left[:, middle]) > 3 * noise_alone
    kinder = with_model_errors(replace(problem, likelihood=Gaussian(2 * noise_alone)), sure=False)
    assert float(kinder.deviation.min()) == pytest.approx(noise_alone, rel=0.05)


def test_the_noise_of_coils_is_whitened():
    """Psi of 4,096 samples is known to 1.6 %; after W it is sigma^2 times one."""
    z = Noise(["z"], "noise").normal((1, 2, 4, 4096), torch.float64)[0]
    L = torch.tensor(
        [[1.0, 0, 0, 0], [0.5, 2, 0, 0], [0.1, 0.3, 0.7, 0], [0, 0, 1j, 3]], dtype=torch.complex128
    )
    n = L @ torch.complex(z[0], z[1])
    W, sigma = noise.whitener(noise.of_scan(n))
    psi = noise.of_scan(noise.mixed(W, n))
    torch.testing.assert_close(
        psi, 2 * sigma**2 * torch.eye(4, dtype=torch.complex128), rtol=0, atol=1e-9
    )
    assert sigma == pytest.approx(float((L @ L.mH).diagonal().real.mean()) ** 0.5, rel=0.05)


def run(folder, *words):
    model = folder / "model"
    if not model.exists():
        tiny.folder(model, tiny.pixel())
    return sample.main([*map(str, words), "--model", str(model), "--save-dir", str(folder / "out")])


@pytest.mark.parametrize("output", ["nifti", "dicom"])
def test_from_the_file_to_the_volume(scans, tmp_path, output):
    folder, truth = scans
    words = (
        "--measurements",
        folder / "scan.mrd",
        "--task",
        "mri",
        "--solver",
        "least_squares",
        "--steps",
        "10",
    )
    assert run(tmp_path, *words, "--output-format", output) == 0
    (volume,) = (tmp_path / "out/recon").iterdir()
    paths = (
        [(volume, 0), (volume, 1)]
        if output == "nifti"
        else [(volume / f"{i:04d}.dcm", None) for i in (1, 2)]
    )
    for (path, index), expected, number in zip(paths, truth, range(2)):
        image = formats.read(path, index)
        assert psnr(image.pixels[0], expected) > 28
        assert image.meta.spacing == pytest.approx((2, 3)), (
            "mm from row to row, from column to column"
        )
        matrix = np.array(image.meta.affine)
        z = matrix[2, 3] + (matrix[2, 2] * number if output == "nifti" else 0)
        assert z == pytest.approx(6.5 * (number - 0.5), abs=1e-3), (
            "slices 6.5 mm apart, the volume around 0"
        )
    if output == "dicom":
        assert image.meta.modality == "MR"
    records = [
        json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()
    ]
    assert any("from the noise scan" in note for note in records[0]["notes"])


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("said", [True, False], ids=["place", "no place"])
def test_a_result_is_read_back_as_it_was_scanned(tmp_path, slices, said):
    """Whether or not a YAML says where it lies, and of one slice as of several."""
    truth = simulated(tmp_path, "scan.npy", "--oversampling", "1", slices=slices)
    if not said:
        (tmp_path / "scan.yaml").unlink()
    words = ("--measurements", tmp_path / "scan.npy", "--task", "mri", "--steps", "10")
    assert run(tmp_path, *words, "--solver", "least_squares") == 0
    (volume,) = (tmp_path / "out/recon").iterdir()
    assert formats.count(volume) == slices
    for index, expected in enumerate(truth):
        image = formats.upright(formats.read(volume, index))
        assert image.pixels[0].shape == expected.shape and psnr(image.pixels[0], expected) > 25


def test_the_record_says_how_far_the_phase_was_corrected(scans, tmp_path):
    words = ("--measurements", scans[0] / "scan.mrd", "--task", "mri", "--steps", "2")
    for solver, said in (("pnp", True), ("tv", False)):
        assert run(tmp_path, *words, "--solver", solver, "--overwrite") == 0
        record = json.loads((tmp_path / "out/records.jsonl").read_text().splitlines()[0])
        assert any("phase found with the image" in note for note in record["notes"]) == said
        assert record["nfe"] == (12 if said else 0)  # the search's ten calls are counted


def test_what_no_coil_sees_is_black(scans, tmp_path):
    """Air: total variation leaves it at the grey that it begins with, and draws fill it with what they like. They differ there
    by the noise, whose standard deviation 4,000 numbers know to 1 %."""
    folder, _ = scans
    _, problem = prepared(folder / "scan.npy")
    unseen = problem.operator.unseen[0, 0]
    assert 0.05 < float(unseen.float().mean()) < 0.8
    words = ("--measurements", folder / "scan.npy", "--task", "mri", "--solver", "tv", "--steps", 3)
    assert run(tmp_path, *words) == 0
    (volume,) = (tmp_path / "out/recon").iterdir()
    stored = formats.read(volume, 0).pixels[0]
    assert float(stored.abs().min()) == 0
    assert int((stored == 0).sum()) >= int(centred(unseen, tuple(stored.shape)).sum())

    grey = torch.zeros(1, 4, 1, *unseen.shape)
    drawn = emptied(grey, problem, Noise(problem.ids, "noise", 1))
    there = drawn[..., unseen]
    assert bool((drawn[..., ~unseen] == 0).all())
    assert float(there.mean()) == pytest.approx(-1, abs=0.01)
    assert float(there.std()) == pytest.approx(2 * problem.whitened().sigma_y, rel=0.05)
    assert bool((emptied(grey, problem, None)[..., unseen] == -1).all())


def broken(folder, change):
    """A copy of the fastMRI file, changed in place."""
    simulated(folder, "bad.h5", slices=1)
    with h5py.File(folder / "bad.h5", "r+") as file:
        change(file)
    return folder / "bad.h5"


def nan(file):
    file["kspace"][0, 0, 3, 28] = np.nan


def wrong_mask(file):
    file["mask"][...] = np.roll(file["mask"][...], 1)


def other_header(file):
    text = file["ismrmrd_header"][()].replace(b"<x>128</x>", b"<x>96</x>")
    del file["ismrmrd_header"]
    file["ismrmrd_header"] = text


def no_middle(file):
    file["kspace"][:, :, :, 24:34] = 0
    mask = file["mask"][...]
    mask[24:34] = 0
    file["mask"][...] = mask


def dead_coil(file):
    file["kspace"][:, 2] = 0


def nothing(file):
    file["kspace"][...] = 0


def entities(file):
    del file["ismrmrd_header"]
    file["ismrmrd_header"] = b'<!DOCTYPE x [<!ENTITY a "b">]><x/>'


def number(file):
    del file["ismrmrd_header"]
    file["ismrmrd_header"] = 5.0


def linked(file):
    del file["kspace"]
    file["kspace"] = h5py.ExternalLink("other.h5", "/kspace")


BAD = {
    nan: "1 of 57344 samples are NaN",
    wrong_mask: "its mask disagrees with its k-space",
    other_header: "k-space of 128×56, but its header says 96×56",
    no_middle: "no calibration region: the fully sampled middle of k-space is",
    dead_coil: "coils 2 of 8 measured nothing but 0",
    nothing: "every sample is 0|columns are all 0",
    entities: "its header defines entities",
    number: "its header is no text",
    linked: "its kspace is a link or a group|has neither",
}


@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_bad_files_are_one_line(tmp_path, change):
    path = broken(tmp_path, change)
    with pytest.raises(ValueError, match=BAD[change]) as error:
        prepared(path)
    assert "\n" not in str(error.value)


SAID = {  # of a YAML, and what the one line holds
    **{
        f"{key} {value}": (f"field_of_view: [256, 168]\n{key}: {value}", line)
        for key, value, line in (
            ("row_direction", [0, 2, 0], "unit vectors at right angles"),
            ("row_direction", [0.5, 0.8, 0], "unit vectors at right angles"),
            ("row_direction", [0, 0, 0], "unit vectors at right angles"),
            ("row_direction", [1, 0, 0], "unit vectors at right angles"),
            ("position", [1, 2], "a list of 3 numbers, in mm"),
            ("position", [1e300, 0, 0], "a list of 3 numbers, in mm"),
            ("slice_step", 1e300, "0.001 to 100000 mm"),
            ("slice_step", -5, "0.001 to 100000 mm"),
        )
    },
    **{
        f"field_of_view {value}": (f"field_of_view: {value}", "a list of 2 numbers, each 0.001 to")
        for value in ([1e30, 1e30], [1e-30, 1e-30], [-5, 5], [1, 2, 3], [0, 1])
    },
    "no pixel": ("picture: [.1, .1]\nfield_of_view: [256, 168]", "a picture of"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_yaml_says_wrongly_is_one_line(tmp_path, name):
    said, line = SAID[name]
    simulated(tmp_path, "scan.npy", slices=1)
    (tmp_path / "scan.yaml").write_text(said)
    with pytest.raises(Refusal, match=line):
        prepared(tmp_path / "scan.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_noise_scan_that_is_not_finite_is_one_line(tmp_path, value):
    simulated(tmp_path, "scan.npy", slices=1)
    scan = np.load(tmp_path / "scan-noise.npy")
    scan[0, 3] = value
    np.save(tmp_path / "scan-noise.npy", scan)
    with pytest.raises(Refusal, match="noise scan holds samples that are NaN or infinite"):
        prepared(tmp_path / "scan.npy")


HEADERS = {  # of ISMRMRD: what is there, what is there instead, and what the one line holds
    "matrix nan": (r"<x>128</x>", "<x>nan</x>", "no finite number"),
    "matrix inf": (r"<x>128</x>", "<x>inf</x>", "no finite number"),
    "matrix 1e30": (r"<x>128</x>", "<x>1e30</x>", "--max-image-bytes allows more"),
    "matrix 200000": (r"<x>128</x>(\s*)<y>56</y>", r"<x>200000</x>\1<y>200000</y>", "allows more"),
    "limit": (r"<center>\d+</center>", "<center>nan</center>", "no finite number"),
    "field": (r"(<fieldOfView_mm>\s*)<x>[^<]*</x>", r"\1<x>inf</x>", "no finite number"),
    "below 0": (r"(<fieldOfView_mm>\s*)<x>[^<]*</x>", r"\1<x>-5</x>", "a field of view"),
    "no pixel": (
        r"(<reconSpace>.*<fieldOfView_mm>\s*)<x>[^<]*</x>",
        r"\1<x>.0001</x>",
        "a picture of",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_what_a_header_says_wrongly_is_one_line(tmp_path, name):
    old, new, line = HEADERS[name]
    simulated(tmp_path, "scan.mrd", slices=1)
    with h5py.File(tmp_path / "scan.mrd", "r+") as file:
        (xml,) = [group["xml"] for group in file.values()]
        text, count = re.subn(old, new, xml[0].decode(), count=1, flags=re.S)
        assert count
        xml[0] = text
    with pytest.raises(Refusal, match=line):
        prepared(tmp_path / "scan.mrd")


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("position", [np.inf, 0, 0], "mm are allowed"),
        ("read_dir", [0, 2, 0], "unit vectors"),
        ("phase_dir", [np.nan, 0, 0], "unit vectors"),
    ],
)
def test_a_place_that_is_none_is_one_line(tmp_path, field, value, line):
    simulated(tmp_path, "scan.mrd", slices=1)
    with h5py.File(tmp_path / "scan.mrd", "r+") as file:
        (group,) = file.values()
        rows = group["data"][:]
        rows["head"][field] = value
        group["data"][:] = rows
    with pytest.raises(Refusal, match=line):
        prepared(tmp_path / "scan.mrd")


def test_directions_are_unit_vectors_up_to_rounding(tmp_path):
    simulated(tmp_path, "scan.npy", slices=1)
    (tmp_path / "scan.yaml").write_text("field_of_view: [256, 168]\nrow_direction: [0, .8, .599]")
    down = np.array(files.read(tmp_path / "scan.npy").affine)[:3, 0]
    assert np.linalg.norm(down) == pytest.approx(2, rel=1e-9)


def test_an_ismrmrd_file_without_readouts_is_one_line(tmp_path):
    simulated(tmp_path, "scan.mrd", slices=1)
    with h5py.File(tmp_path / "scan.mrd", "r+") as file:
        (group,) = file.values()
        kind = group["data"].dtype
        del group["data"]
        group.create_dataset("data", (0,), kind)
    with pytest.raises(Refusal, match="none of its 0 readouts"):
        prepared(tmp_path / "scan.mrd")


def twice(scan):
    return np.concatenate([scan[:1], scan[:1], scan[2:]])


def few(scan):
    return scan[:, :5]


@pytest.mark.parametrize(
    ("change", "line"), [(twice, "not independent"), (few, "noise scan of 5 samples")]
)
def test_noise_that_tells_nothing_names_its_file(tmp_path, change, line):
    simulated(tmp_path, "scan.npy", slices=1)
    np.save(tmp_path / "scan-noise.npy", change(np.load(tmp_path / "scan-noise.npy")))
    with pytest.raises(Refusal, match=f"scan.npy: .*{line}"):
        prepared(tmp_path / "scan.npy")


def test_what_means_nothing_is_refused(scans, tmp_path, capsys):
    scan = scans[0] / "scan.h5"

    def said(*words):
        assert run(tmp_path, *words) == 2
        return refusal(capsys)

    assert "--scale means nothing" in said("--measurements", scan, "--task", "mri", "--scale", "2")
    assert "--measurements FILE" in said("--data-root", scan, "--task", "mri")
    assert "share no grid" in said("--measurements", scan, "--task", "mri", "mri_x4")
    assert "but its noise is" in said(
        "--measurements", scan, "--task", "mri", "likelihood.params.sigma_y=0.001"
    )
    picture = tmp_path / "body.png"
    formats.write(formats.Image(body()[None], formats.Meta("png")), picture)
    assert "not a known k-space file" in said("--measurements", picture, "--task", "mri")


def test_other_units_of_a_file_change_nothing_but_the_result(tmp_path):
    """The same scan in units a million times as large."""
    pictures = []
    for name, unit in (("small.npy", "1e-4"), ("large.npy", "1e2")):
        simulated(tmp_path, name, "--unit", unit, slices=1)
        made, problem = prepared(tmp_path / name)
        pictures.append(picture(made, least_squares(problem)) / float(unit))
    torch.testing.assert_close(pictures[0], pictures[1], rtol=0, atol=1e-3)
    assert float(body().max()) == pytest.approx(float(pictures[0].max()), rel=0.3)
