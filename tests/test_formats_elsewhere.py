"""Public bug reports of neighbouring projects, tried here: each test names the report."""

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from data import dataset, formats
from data.contracts import Contracts, Window
from data.files import Refusal
from data.formats import Image
from data.manifest import Row


def ct() -> pydicom.Dataset:
    return pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))


def item(**values) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for key, value in values.items():
        setattr(made, key, value)
    return made


def enlarged(image: Image) -> Image:
    return Image(
        image.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2), formats.resized(image.meta, 2)
    )


def test_dcm2niix_853_and_363_every_frame_has_its_own_slope(tmp_path):
    ds = ct()
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.Rows, ds.Columns, ds.NumberOfFrames = 4, 6, 3
    ds.PixelData = np.full((3, 4, 6), 10, np.int16).tobytes()
    ds.PerFrameFunctionalGroupsSequence = [
        item(PixelValueTransformationSequence=[item(RescaleSlope=k + 1, RescaleIntercept=-k)])
        for k in range(3)
    ]
    ds.save_as(tmp_path / "a.dcm")
    images = [formats.read(tmp_path / "a.dcm", i) for i in range(3)]
    assert [float(image.pixels.max()) for image in images] == [10, 19, 28]
    formats.reassemble(images, tmp_path / "b.dcm")
    assert [float(formats.read(tmp_path / "b.dcm", i).pixels.max()) for i in range(3)] == [
        10,
        19,
        28,
    ]


def test_dcm2niix_978_slopes_of_pet_are_tiny(tmp_path):
    ds = ct()
    ds.RescaleSlope, ds.RescaleIntercept = "1.02609e-08", 0
    ds.save_as(tmp_path / "a.dcm")
    image = formats.read(tmp_path / "a.dcm")
    formats.write(image, tmp_path / "b.dcm")
    back = pydicom.dcmread(tmp_path / "b.dcm")
    assert np.array_equal(back.pixel_array, ds.pixel_array) and torch.equal(
        formats.read(tmp_path / "b.dcm").pixels, image.pixels
    )


def test_dcm2niix_885_nuclear_medicine_says_where_the_first_frame_lies(tmp_path):
    """Frames after the first have no place of their own here, rather than a wrong one; the detector's follows the grid."""
    ds = ct()
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.SpacingBetweenSlices = 4, 6, 2, -2
    ds.PixelSpacing, ds.PixelData = [1, 1], np.zeros((2, 4, 6), np.int16).tobytes()
    ds.DetectorInformationSequence = [
        item(ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    ]
    ds.save_as(tmp_path / "a.dcm")
    images = [formats.read(tmp_path / "a.dcm", i) for i in range(2)]
    assert all(image.meta.affine is None for image in images)
    formats.reassemble([enlarged(image) for image in images], tmp_path / "b.dcm", keep_patient=True)
    detector = pydicom.dcmread(tmp_path / "b.dcm").DetectorInformationSequence[0]
    assert list(detector.ImagePositionPatient) == [-0.25, -0.25, 0]
    formats.write(images[1], tmp_path / "c.dcm", keep_patient=True)
    assert "DetectorInformationSequence" not in pydicom.dcmread(tmp_path / "c.dcm")


@pytest.mark.parametrize(("centre", "width", "window"), [
    ([400, 40], [400, 400], (200, 600)), ([40, 400], [400], (-160, 240)), (0, 100, (-50, 50)), (40, 0, None), (40, -5, None),
])  # fmt: skip
def test_pydicom_330_and_1073_windows_of_several_values_none_and_at_zero(
    tmp_path, centre, width, window
):
    ds = ct()
    ds.WindowCenter, ds.WindowWidth = centre, width
    ds.save_as(tmp_path / "a.dcm")
    row, asked = Row(str(tmp_path / "a.dcm"), "a"), Contracts(Window("header"))
    image = formats.read(row.path)
    assert image.meta.window == window
    if window is None:
        with pytest.raises(Refusal, match="has no display window"):
            dataset.load(row, 1, asked)
    else:
        _, _, intensity = dataset.load(row, 1, asked)
        assert (intensity.low, intensity.high) == window
    formats.write(image, tmp_path / "b.dcm")
    assert formats.read(tmp_path / "b.dcm").meta.window == window


def test_monai_7371_and_pynrrd_148_directions_are_rows(tmp_path):
    rows = np.array([[0.0, 0.8, 0.1], [0.6, 0.0, 0.2], [0.1, 0.3, -2.0]])
    header = {
        "space": "left-posterior-superior",
        "space directions": rows,
        "space origin": [1, 2, 3],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((4, 5, 6), np.int16), header)
    affine = np.array(formats.read(tmp_path / "a.nrrd", 0).meta.affine)
    index = np.array([1.0, 2, 3])
    assert np.allclose(
        (affine @ [*index, 1])[:3], np.array([-1, -1, 1]) * (index @ rows + [1, 2, 3])
    )


def test_natverse_385_a_field_of_vectors(tmp_path):
    field = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(">f4")
    rows = np.vstack([[np.nan] * 3, np.eye(3) * 0.75])
    header = {"space": "right-anterior-superior", "space directions": rows, "kinds": ["vector", *["domain"] * 3],
              "labels": ["Vx;Vy;Vz", "x", "y", "z"], "space origin": [0, 0, 0], "encoding": "raw", "endian": "big"}  # fmt: skip
    nrrd.write(str(tmp_path / "a.nrrd"), field, header)
    images = [
        formats.read(tmp_path / "a.nrrd", i) for i in range(formats.count(tmp_path / "a.nrrd"))
    ]
    assert len(images) == 18 and images[0].meta.spacing == (0.75, 0.75)
    assert np.array_equal(images[7].pixels[0], field[1, :, :, 1])


def test_pynrrd_71_a_field_given_twice_is_refused(tmp_path):
    text = b"NRRD0004\ntype: uint8\ndimension: 2\nspace dimension: 2\nspace dimension: 3\nsizes: 4 5\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(text + bytes(20))
    with pytest.raises(ValueError, match="allowed"):
        formats.read(tmp_path / "a.nrrd")


def test_monai_3176_five_dimensions_of_nifti_are_refused(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 5, 6, 1, 2), np.float32), np.eye(4)), tmp_path / "a.nii"
    )
    with pytest.raises(ValueError, match="two to four"):
        formats.count(tmp_path / "a.nii")


def test_niivue_50_spacings_alone(tmp_path):
    nrrd.write(
        str(tmp_path / "a.nrrd"), np.zeros((20, 20, 20), np.uint8), {"spacings": [1.0, 1.0, 0.625]}
    )
    assert formats.read(tmp_path / "a.nrrd", 0, 0).meta.spacing == (1.0, 0.625)


def test_dcm2niix_1009_two_geometries_in_one_file(tmp_path):
    ds = ct()
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        del ds[keyword]
    ds.Rows, ds.Columns, ds.NumberOfFrames = 4, 6, 2
    ds.PixelData = np.zeros((2, 4, 6), np.int16).tobytes()
    places = [([1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 0]), ([0.5, 0.5], [1, 0, 0, 0, 0, -1], [5, 6, 7])]
    ds.PerFrameFunctionalGroupsSequence = [
        item(PixelMeasuresSequence=[item(PixelSpacing=s)], PlaneOrientationSequence=[item(ImageOrientationPatient=o)],
             PlanePositionSequence=[item(ImagePositionPatient=p)]) for s, o, p in places]  # fmt: skip
    ds.save_as(tmp_path / "a.dcm")
    images = [formats.read(tmp_path / "a.dcm", i) for i in range(2)]
    assert [image.meta.spacing for image in images] == [(1, 1), (0.5, 0.5)]
    formats.reassemble([enlarged(image) for image in images], tmp_path / "b.dcm")
    for i, image in enumerate(images):
        assert np.allclose(
            formats.read(tmp_path / "b.dcm", i).meta.affine, enlarged(image).meta.affine
        )
