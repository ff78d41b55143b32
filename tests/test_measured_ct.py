"""CT from files: every format alike, counts without bias, HU out, and what does not fit refused in one line."""

import math
from dataclasses import replace
from pathlib import Path

import h5py
import nrrd
import numpy as np
import PIL.Image
import pydicom
import pytest
import simulate_ct
import torch
import yaml

import sample
from data.files import Refusal
from data.formats import sinogram as files
from data.formats.sinogram.description import Description
from solvers.measured import counts, fit
from solvers.measured.ct import ScannerCT
from solvers.operators.ct_geometry import Geometry
from solvers.problem import Gaussian
from tests import tiny
from tests.sectors import WATER, mu_of, wedges
from tests.test_ct_geometry import turn

FAN = {"source_to_axis": 541.0, "source_to_detector": 949.0}
SAID = {
    "beam": "fan",
    "angles": {"start": 0, "arc": 360},
    "pitch": 6.0,
    "values": "counts",
    "I0": 1e5,
    "image_size": 64,
    "pixel_size": 4.0,
    "mu_water": WATER,
    **FAN,
}
GEOMETRY = Geometry(turn(48), 80, 6.0, 4.0, **FAN)
BESIDE = Geometry(turn(48, 180), 80, 6.0, 4.0)
PARALLEL = {
    "beam": "parallel",
    "angles": {"start": 0, "arc": 180},
    "source_to_axis": None,
    "source_to_detector": None,
    "values": "integrals",
}


def photons(
    geometry: Geometry = GEOMETRY, I0: float = 1e5, seed: int = 0, dark: float = 0.0
) -> np.ndarray:
    light = np.exp(-wedges(geometry))
    return np.random.default_rng(seed).poisson(I0 * light + dark).astype(np.float32)


def integrals(geometry: Geometry) -> np.ndarray:
    return -np.log(np.maximum(photons(geometry), 0.5) / 1e5)


def written(folder: Path, data: np.ndarray, name: str = "scan.npy", **said) -> Path:
    """The file, and a YAML beside it; said: keys that differ, None: left out."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    simulate_ct.write(path, data)
    content = {key: value for key, value in {**SAID, **said}.items() if value is not None}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    return path


def posed(path: Path, index: int = 0, sigma_y: float | None = None, **params):
    made = ScannerCT(**{"hu": (-1000.0, 1000.0), **params}).prepare(
        path, index, "scan", Gaussian(sigma_y), "dicom"
    )
    return made.pose(), made


def hu(path: Path, **params) -> np.ndarray:
    """Filtered backprojection in HU."""
    problem, made = posed(path, **params)
    answer = problem.operator.baseline(problem.y, problem.operator.shape)
    return made.intensity.to_stored(answer)[0, 0].numpy()


@pytest.mark.parametrize("name", ["scan.npy", "scan.h5", "scan.tif", "scan.nrrd"])
@pytest.mark.parametrize("axes", ["slice view bin", "view slice bin", "bin slice view"])
def test_every_format_and_order_of_axes_is_read_alike(tmp_path, name, axes):
    data = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    stored = data.transpose([("slice", "view", "bin").index(axis) for axis in axes.split()])
    path = written(tmp_path, np.ascontiguousarray(stored), name, axes=axes)
    assert files.known(path) and files.count(path) == 2
    for index in range(2):
        found = files.read(path, index)
        assert np.array_equal(found.values, data[index]) and found.count == 2


def test_a_single_slice_of_every_format(tmp_path):
    data = np.arange(35, dtype=np.uint16).reshape(5, 7)
    for name in ("a.npy", "b.hdf5", "c.tiff", "d.nrrd"):
        path = written(tmp_path, data, name)
        assert files.count(path) == 1 and np.array_equal(files.read(path, 0).values, data)


def test_one_of_several_data_sets_is_named(tmp_path):
    path = written(tmp_path, np.ones((5, 7)), "scan.h5")
    with h5py.File(path, "a") as file:
        file["exchange/data"] = np.full((5, 7), 2.0)
        file["other"] = np.full((5, 7), 3.0)
    with pytest.raises(ValueError, match="`dataset:` in its YAML"):
        files.read(path, 0)
    for name, value in (("other", 3), ("exchange/data", 2)):
        path.with_suffix(".yaml").write_text(yaml.safe_dump({**SAID, "dataset": name}))
        assert files.read(path, 0).values.max() == value


def test_counts_become_integrals_without_bias():
    """Of 20 photons a mean of -log((N + 1/2) / I0) errs by less than 1/400, and weights do not favour either side."""
    rng, expected = np.random.default_rng(0), 20.0
    values = rng.poisson(expected, (400, 500)) + rng.poisson(30.0, (400, 500)).astype(float)
    said = Description(Path("x.yaml"), values="counts", I0=1030.0, dark=30.0)
    p, deviation, _ = counts.integrals(files.Sinogram(values, said, 0, 1), "x")
    assert deviation is not None
    said = replace(said, I0=1000.0, dark=0)
    values = rng.poisson(expected, (400, 500)).astype(float)
    p, deviation, _ = counts.integrals(files.Sinogram(values, said, 0, 1), "x")
    truth, standard = -math.log(expected / 1000), 1 / math.sqrt(expected * p.size)
    assert abs(p.mean() - truth) < 1 / 400 + 4 * standard
    weights = deviation**-2
    assert abs((weights * p).sum() / weights.sum() - truth) < 1 / 400 + 5 * standard
    assert ((p - truth) / deviation).std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("said", [{"I0": 1e5 + 300, "dark": 300}, {"gain": 4.0, "I0": 4e5}])
def test_wedges_come_out_of_counts_in_hounsfield_units(tmp_path, said):
    """Within 5 HU from the file, dark field and gain taken off; the mean over a wedge has a noise of about 1 HU."""
    g = Geometry(turn(180), 160, 3.0, 2.0, **FAN)
    data = photons(g, dark=said.get("dark", 0)) * said.get("gain", 1)
    image = hu(written(tmp_path, data, pitch=3.0, image_size=112, pixel_size=2.0, **said))
    for value, inside in mu_of(112, 112, 2.0):
        assert abs(image[inside].mean() - value) < 5, value


def test_water_is_calibrated_by_a_scan_of_water(tmp_path):
    """The vessel alone: its attenuation to 0.3 %, whatever the file's own units of length are said to be."""
    from tests import sectors

    g = Geometry(turn(90), 160, 3.0, 4.0, **FAN)
    point = [g.rays(angle) for angle in g.angles]
    paths = [
        np.diff(
            np.stack(sectors.chord(p, d / np.linalg.norm(d, axis=1, keepdims=True), 100.0)), axis=0
        )[0]
        for p, d in point
    ]
    np.save(tmp_path / "water.npy", 1e6 * np.exp(-0.0211 * np.stack(paths)))
    path = written(tmp_path, photons(g, 1e6), pitch=3.0, I0=1e6, mu_water={"scan": "water.npy"})
    found = ScannerCT(hu=(-1000.0, 1000.0)).common(path, ()).mu_water
    assert found == pytest.approx(0.0211, rel=0.003)


@pytest.mark.parametrize("beam", ["parallel", "fan", "curved"])
def test_the_centre_of_rotation_is_found(tmp_path, beam):
    """To a fifth of a bin, from noisy counts; told one and a half bins wrong."""
    far = {} if beam == "parallel" else FAN
    true = Geometry(
        turn(45, 180 if beam == "parallel" else 360),
        120,
        2.4 if beam == "parallel" else 4.0,
        4.0,
        **far,
    )
    true = replace(true, offset=1.7, curved=beam == "curved")
    p = integrals(true)
    told = replace(true, offset=0.2)
    assert fit.centred(told, p, np.exp(-p), 256.0, "scan") == pytest.approx(1.7, abs=0.2)


def test_center_auto_is_taken(tmp_path):
    path = written(tmp_path, photons(replace(GEOMETRY, offset=2.0)))
    problem, made = posed(path, center="auto")
    assert problem.operator.scan.offset == pytest.approx(2.0, abs=0.2)
    assert any("axis is seen" in note for note in made.source.meta.notes)
    problem, _ = posed(path, center=2.0)
    assert problem.operator.scan.offset == 2.0


def test_bad_channels_are_found_and_left_out(tmp_path):
    """A dead bin and one of another sensitivity make rings; without them they are gone from image and problem."""
    data = photons(replace(GEOMETRY, bins=120, pitch=4.0), 1e6)
    data[:, 50], data[:, 71] = 0, data[:, 71] * 0.9
    path = written(tmp_path, data, pitch=4.0, I0=1e6, bad_channels="auto")
    problem, made = posed(path)
    good = problem.operator.good[0, 0].all(0)
    assert torch.equal((~good.bool()).nonzero().flatten(), torch.tensor([50, 71]))
    assert any("2 of 120 bins" in note for note in made.source.meta.notes)
    told, _ = posed(written(tmp_path / "told", data, pitch=4.0, I0=1e6, bad_channels=[50, "71-71"]))
    assert torch.equal(told.operator.good, problem.operator.good)


def test_results_lie_where_the_yaml_says(tmp_path):
    """Rows run to the back, columns to the left; each slice a step further to the head."""
    path = written(
        tmp_path, np.stack([photons()] * 2), position=[10, -20, 30], slice_step=5.0, centre=[8, 4]
    )
    _, made = posed(path, 1)
    affine = np.array(made.source.meta.affine)
    middle = affine @ [31.5, 31.5, 0, 1]
    assert np.allclose(middle[:3] * [-1, -1, 1], [10 + 8, -20 - 4, 35])
    assert np.allclose(affine[:3, 0], [0, -4, 0]) and np.allclose(affine[:3, 1], [-4, 0, 0])


def test_what_lies_beyond_the_image_is_restored_too(tmp_path):
    """A picture of the middle alone: rays pass what it does not hold, which is restored and cut away."""
    path = written(tmp_path, photons(), image_size=24)
    problem, made = posed(path)
    assert problem.operator.shape[-1] > 50 and made.kept == (24, 24)
    assert any("outside the image" in note for note in made.source.meta.notes)


def test_views_that_are_cut_off_are_said(tmp_path):
    path = written(tmp_path, photons(replace(GEOMETRY, bins=40)))
    _, made = posed(path, check=False)
    assert any("cut off" in note for note in made.source.meta.notes)


BAD = {  # what is said or measured otherwise: what the one line holds
    "no distances": ({"source_to_detector": None}, None, "says no source_to_detector"),
    "no water": ({"mu_water": None}, None, "says no mu_water"),
    "no I0": ({"I0": None}, None, "says no I0"),
    "unknown key": ({"pich": 3.0}, None, "did you mean 'pitch'"),
    "radians as degrees": ({"angles": {"start": 0, "arc": 2 * math.pi}}, None, "are they radians"),
    "degrees as radians": ({"angle_unit": "radians"}, None, "are they degrees"),
    "too few angles": ({"angles": [0.0, 1.0, 2.0]}, None, "3 angles for 48 views"),
    "curved parallel": ({"beam": "parallel", "detector": "curved"}, None, "needs beam: fan"),
    "clockwise": ({"direction": "clockwise"}, None, "the other direction"),
    "bins to the left": (
        {"bins_run": "left"},
        None,
        "the other direction, or bins_run the other way",
    ),
    "cm": (
        {"pitch": 0.6, "pixel_size": 0.4, "source_to_axis": 54.1, "source_to_detector": 94.9},
        None,
        "do pitch",
    ),
    "pitch in cm": ({**PARALLEL, "pitch": 0.6}, lambda data: integrals(BESIDE), "do pitch"),
    "pitch in um": ({**PARALLEL, "pitch": 60.0}, lambda data: integrals(BESIDE), "do pitch"),
    "all in cm": (
        {**PARALLEL, "pitch": 0.6, "pixel_size": 0.4},
        lambda data: integrals(BESIDE),
        "do pitch",
    ),
    "water in cm": ({"mu_water": 0.192}, None, "0.005 to 0.1 1/mm"),
    "water of nothing": ({"mu_water": 0.00192}, None, "0.005 to 0.1 1/mm"),
    "two sizes are due": ({"pixel_size": None}, None, "two of image_size"),
    "source within": ({"image_size": 400}, None, "beyond the source"),
    "negative": ({"dark": 2000.0, "I0": 1e5 + 2000}, None, "negative"),
    "noise below 0": ({"electronic_noise": -5}, None, "a number >= 0"),
    "above I0": ({"I0": 1e3}, None, "above I0"),
    "gain": ({"I0": 1e7}, lambda data: data * 100, "gain of"),
    "NaN": (
        {},
        lambda data: np.where(np.arange(data.size).reshape(data.shape) == 7, np.nan, data),
        "1 of 3840 values are NaN",
    ),
    "air": ({}, lambda data: np.random.default_rng(0).poisson(1e5, data.shape), "air alone"),
    "zero integrals": ({"values": "integrals"}, lambda data: 0 * data, "air alone"),
    "loud": (
        {"values": "integrals", "sigma_y": 5.0},
        lambda data: -np.log(np.maximum(data, 0.5) / 1e5),
        "times what is said",
    ),
    "turned axes": ({"axes": "bin view"}, None, "no image explains"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_line(tmp_path, name):
    said, change, line = BAD[name]
    data = photons() if change is None else change(photons()).astype(np.float32)
    with pytest.raises(ValueError, match=line) as error:
        posed(written(tmp_path, data, **said))
    assert "\n" not in str(error.value) and "scan" in str(error.value)


NO_NUMBERS = [
    {key: value}
    for key in ("angles", "I0", "dark")
    for value in ([[1, 2], [3]], ["a"] * 48, {"a": 1}, "words.npy", "some.npz", True)
] + [
    *({"bad_channels": value} for value in (True, ["²"], ["9" * 99], "odd.npy", "words.npy")),
    *({"image_size": value} for value in (True, [True, True], "64", {"a": 1})),
    *({"mu_water": {"scan": name}} for name in ("some.npz", "text.txt", "words.npy")),
]


@pytest.mark.parametrize("said", NO_NUMBERS, ids=str)
def test_what_is_no_number_is_one_line(tmp_path, said):
    path = written(tmp_path, photons(), **said)
    np.save(tmp_path / "words.npy", np.full((48, 80), "a"))
    np.save(tmp_path / "odd.npy", np.zeros((3, 5)))
    np.savez(tmp_path / "some.npz", a=np.ones(80))
    (tmp_path / "text.txt").write_text("a")
    with pytest.raises(Refusal) as error:
        posed(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [[("a", "f4"), ("b", "f4")], "U1", "c8", "M8[s]"], ids=str)
def test_a_sinogram_of_no_numbers_is_one_line(tmp_path, kind):
    path = written(tmp_path, np.ones((48, 80), "f4"))
    np.save(path, np.zeros((48, 80), np.dtype(kind)))
    with pytest.raises(Refusal, match="counts or line integrals are allowed"):
        posed(path)


@pytest.mark.parametrize("name", ["g", "/g", "g/x", "x"])
def test_a_data_set_that_is_none_is_one_line(tmp_path, name):
    path = written(tmp_path, photons(), "scan.h5", dataset=name)
    with h5py.File(path, "a") as file:
        file["g/data"] = photons()
    with pytest.raises(Refusal, match="`dataset:` in its YAML|is a group; a data set is allowed"):
        posed(path)


@pytest.mark.parametrize("said", [17, "17", "17-17", [17]])
def test_a_single_bad_channel_needs_no_list(tmp_path, said):
    assert files.description(written(tmp_path, photons(), bad_channels=said)).bad(48, 80)[17]


@pytest.mark.parametrize("said", [{"pixel_size": 1e-6}, {"image_size": None, "field_of_view": 1e9}])
def test_too_many_pixels_are_one_line(tmp_path, said):
    with pytest.raises(Refusal, match="up to 16384"):
        posed(written(tmp_path, photons(), **said), check=False)


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    path = written(tmp_path, photons(), I0=None)
    beside = path.with_suffix(".yaml")
    beside.write_text(
        beside.read_text().replace("pitch: 6.0", "pitch: 6e0") + "I0: 1e5\ncentre: [0e0, 1E0]\n"
    )
    said = files.description(path)
    assert (said.I0, said.pitch, said.centre) == (1e5, 6, (0, 1))


def test_a_yaml_that_is_none_says_the_line(tmp_path):
    path = written(tmp_path, photons())
    path.with_suffix(".yaml").write_text("beam: fan\nangles: [1, 2\npitch: 3\n")
    with pytest.raises(Refusal, match="line 3: "):
        files.description(path)


def test_a_square_sinogram_that_is_transposed_is_told(tmp_path):
    g = Geometry(turn(80), 80, 6.0, 4.0, **FAN)
    with pytest.raises(ValueError, match="view and bin exchanged"):
        posed(written(tmp_path, photons(g).T.copy()))


def test_a_missing_yaml_is_one_line(tmp_path):
    np.save(tmp_path / "scan.npy", np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"has no scan.yaml beside it"):
        files.read(tmp_path / "scan.npy", 0)


def test_cones_are_stacks_of_fans_near_the_middle_alone(tmp_path):
    data = np.stack([photons()] * 9)
    path = written(tmp_path, data, beam="cone", row_pitch=2.0, axes="row view bin")
    problem, made = posed(path, 4)
    assert made.source.meta.affine[2][3] == pytest.approx(4 * 2 * 541 / 949)
    with pytest.raises(ValueError, match="aslant"):
        posed(path, 0)


def test_ct_pd_is_read(tmp_path):
    """A folder of projections: private elements by their numbers, channels down and rows across."""
    g = Geometry(
        tuple(a + math.pi for a in turn(48)),
        80,
        6.0,
        4.0,
        **FAN,
        curved=True,
        offset=0.5,
        flip=True,
    )
    p = wedges(g)
    for view, row in enumerate(p):
        write_projection(tmp_path / f"{view:03d}.dcm", row, view)
    first = tmp_path / "000.dcm"
    assert files.known(first) and not files.known(tmp_path / "001.dcm") and files.count(first) == 3
    found = files.read(first, 1)
    assert np.abs(found.values - p).max() < 1e-3
    problem, _ = posed(first, 1, sigma_y=0.01)
    ours = problem.operator.scan
    assert (
        np.allclose(ours.cells, g.cells)
        and np.allclose(ours.angles, g.angles, atol=1e-6)
        and ours.curved
    )
    ds = pydicom.dcmread(tmp_path / "047.dcm")
    ds[0x70311002].value = 300.0
    ds.save_as(tmp_path / "047.dcm")
    with pytest.raises(ValueError, match="helical"):
        files.read(first, 1)


def write_projection(path: Path, row: np.ndarray, view: int) -> None:
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = (
        pydicom.uid.SecondaryCaptureImageStorage,
        pydicom.uid.generate_uid(),
    )
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 80, 3, 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 15, 0, "0.0002", "0"
    ds.PixelData = np.repeat(np.rint(row / 0.0002).astype("<u2")[:, None], 3, 1).tobytes()
    ds.add_new(0x70290010, "LO", "X")
    for tag, kind, value in (
        (0x70291002, "FL", 6.0),
        (0x70291006, "FL", 2.0),
        (0x70291010, "US", 3),
        (0x70291011, "US", 80),
        (0x70311001, "FL", view * 2 * math.pi / 48),
        (0x70311002, "FL", 0.0),
        (0x70311003, "FL", 541.0),
        (0x70311031, "FL", 949.0),
        (0x70311033, "FL", [41.0, 2.0]),
        (0x70411001, "DS", str(WATER)),
    ):
        ds.add_new(tag, kind, value)
    ds.save_as(path, enforce_file_format=True)


def test_one_command_from_the_file_to_dicom(tmp_path):
    """Tiny, and through the door: HU and place in the file, a folder of them found by their YAMLs."""
    world = tiny.world(tmp_path / "world")
    g = Geometry(turn(60), 64, 8.0, 16.0, **FAN)
    path = written(tmp_path / "in", photons(g), pitch=8.0, image_size=16, pixel_size=16.0)
    words = [
        "--measurements",
        str(path),
        "--task",
        "ct",
        "--solver",
        "baseline",
        "--model",
        str(world / "pixel"),
    ]
    assert (
        sample.main(
            [
                *words,
                "--save-dir",
                str(tmp_path / "out"),
                "--accelerator",
                "cpu",
                "--center",
                "auto",
            ]
        )
        == 0
    )
    ds = pydicom.dcmread(tmp_path / "out/recon/scan.dcm")
    image = ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept
    assert ds.Modality == "CT" and list(ds.PixelSpacing) == [16.0, 16.0]
    assert abs(image[7:9, 7:9].mean()) < 60 and image[0, 0] < -950


def test_simulated_files_are_of_every_kind(tmp_path):
    scan = PIL.Image.fromarray(np.full((4, 4), 1000, np.uint16))
    scan.save(tmp_path / "scan.png")
    assert (
        simulate_ct.main([str(tmp_path / "scan.png"), str(tmp_path / "out.npy")]) == 2
    )  # has no pixel size
    for out in ("a.npy", "b.h5", "c.tif", "d.nrrd"):
        words = [
            "wedges",
            str(tmp_path / out),
            "--views",
            "3",
            "--bins",
            "20",
            "--size",
            "16",
            "--dead",
            "3",
        ]
        assert simulate_ct.main([*words, "--bins-run", "left", "--direction", "clockwise"]) == 0
        assert files.read(tmp_path / out, 0).values.shape == (3, 20)
    assert nrrd.read_header(str(tmp_path / "d.nrrd"))["sizes"].tolist() == [20, 3]
