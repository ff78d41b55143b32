"""DICOM: whose frame an attribute belongs to, and what is in pixels or per frame when the grid or the frames change."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword

from data import formats
from data.formats import Image
from data.formats.dicom_units import FRAMES, PIXELS, REMOVED

VALUES = {
    "SQ": [pydicom.Dataset()],
    "DS": [1.5, 2.5],
    "AT": 0x00181063,
    "DT": "2020",
    "TM": "10",
    "UI": "1.2",
}
VALUES |= dict.fromkeys(("OB", "OW", "OF", "UN"), bytes(4)) | dict.fromkeys(
    ("CS", "SH", "LO", "ST", "LT", "UT"), "X"
)


def shipped(name: str) -> pydicom.Dataset:
    return pydicom.dcmread(get_testdata_file(name, download=False))


def item(**values) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for key, value in values.items():
        setattr(made, key, value)
    return made


def enlarged(image: Image, factor: int) -> Image:
    pixels = image.pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return Image(pixels, formats.resized(image.meta, factor))


def enhanced(path: Path, total: int = 2) -> Path:
    """Frames whose macros stand in the shared group, with a private sequence of the same keywords in each frame's own."""
    ds = shipped("CT_small.dcm")
    for keyword in (
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        del ds[keyword]
    ds.Rows, ds.Columns, ds.NumberOfFrames = 4, 6, total
    ds.PixelData = np.full((total, 4, 6), 40, np.int16).tobytes()
    ds.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[0.125, 0.125])],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0)],
            FrameVOILUTSequence=[item(WindowCenter=40, WindowWidth=400)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = []
    for frame in range(total):
        other = item(PixelSpacing=[0.25, 0.25], RescaleSlope=2, RescaleIntercept=-1094, WindowCenter=1, WindowWidth=2,
                     ImagePositionPatient=[9, 9, 9], ImageOrientationPatient=[0, 1, 0, 1, 0, 0])  # fmt: skip
        group = item(PlanePositionSequence=[item(ImagePositionPatient=[1, 2, 5 * frame])])
        group.add_new(0x00091001, "LO", "MAKER")
        group.add_new(0x00091002, "SQ", [other])
        ds.PerFrameFunctionalGroupsSequence.append(group)
    ds.save_as(path)
    return path


def test_only_the_standard_macros_count(tmp_path):
    path = enhanced(tmp_path / "a.dcm")
    images = [formats.read(path, i) for i in range(2)]
    for frame, image in enumerate(images):
        assert image.meta.spacing == (0.125, 0.125) and bool((image.pixels == 40).all())
        assert image.meta.window == (-160, 240)
        assert [row[3] for row in image.meta.affine[:3]] == [-1, -2, 5 * frame]
    formats.reassemble(images, tmp_path / "b.dcm")
    formats.reassemble(
        [enlarged(image, 2) for image in images], tmp_path / "c.dcm", keep_patient=True
    )
    assert bool((formats.read(tmp_path / "b.dcm", 1).pixels == 40).all())
    fine = formats.read(tmp_path / "c.dcm", 1)
    assert fine.meta.spacing == (0.0625, 0.0625) and np.allclose(
        fine.meta.affine, enlarged(images[1], 2).meta.affine
    )
    assert not [
        e for e in pydicom.dcmread(tmp_path / "c.dcm").iterall() if e.tag.is_private
    ]  # in units nobody knows


def test_a_frames_own_macro_comes_before_the_shared_one(tmp_path):
    ds = pydicom.dcmread(enhanced(tmp_path / "a.dcm"))
    own = ds.PerFrameFunctionalGroupsSequence[1]
    own.PixelMeasuresSequence = [item(PixelSpacing=[0.5, 0.5])]
    own.PlaneOrientationSequence = [item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])]
    ds.save_as(tmp_path / "a.dcm")
    images = [formats.read(tmp_path / "a.dcm", i) for i in range(2)]
    assert [image.meta.spacing for image in images] == [(0.125, 0.125), (0.5, 0.5)]
    formats.reassemble([enlarged(image, 2) for image in images], tmp_path / "b.dcm")
    for i, image in enumerate(images):  # each frame is moved along its own axes
        assert np.allclose(
            formats.read(tmp_path / "b.dcm", i).meta.affine,
            enlarged(image, 2).meta.affine,
            atol=1e-6,
        )


def dose(path: Path, offsets: list[float], position: list[float] | None = None) -> Path:
    ds = shipped("rtdose_1frame.dcm")
    total = len(offsets)
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.GridFrameOffsetVector = 4, 6, total, offsets
    ds.ImagePositionPatient, ds.ImageOrientationPatient = position or [1, 2, 3], [1, 0, 0, 0, 1, 0]
    ds.FrameIncrementPointer = 0x3004000C
    ds.PixelData = np.arange(total * 24, dtype=np.uint32).tobytes()
    ds.save_as(path)
    return path


@pytest.mark.parametrize(("offsets", "position"), [([0, 2, 5], [1, 2, 3]), ([3, 5, 8], [1, 2, 3])])
@pytest.mark.parametrize("keep_patient", [False, True])
def test_each_dose_plane_has_its_place(tmp_path, offsets, position, keep_patient):
    path = dose(tmp_path / "a.dcm", offsets, position)
    images = [formats.read(path, i) for i in range(3)]
    assert [image.meta.affine[2][3] for image in images] == [3, 5, 8]
    formats.write(images[2], tmp_path / "one.dcm", keep_patient=keep_patient)
    ds = pydicom.dcmread(tmp_path / "one.dcm")
    assert (
        list(ds.ImagePositionPatient) == [1, 2, 8]
        and "GridFrameOffsetVector" not in ds
        and "FrameIncrementPointer" not in ds
    )
    formats.reassemble(images, tmp_path / "all.dcm", keep_patient=keep_patient)
    assert list(pydicom.dcmread(tmp_path / "all.dcm").GridFrameOffsetVector) == offsets
    assert [formats.read(tmp_path / "all.dcm", i).meta.affine[2][3] for i in range(3)] == [3, 5, 8]


def test_frames_without_a_place_do_not_take_the_first_ones(tmp_path):
    ds = shipped("CT_small.dcm")
    ds.Rows, ds.Columns, ds.NumberOfFrames = 4, 6, 2
    ds.PixelData = np.zeros((2, 4, 6), np.int16).tobytes()
    ds.save_as(tmp_path / "a.dcm")
    first, second = (formats.read(tmp_path / "a.dcm", i).meta for i in range(2))
    assert first.affine is not None and second.affine is None
    formats.write(formats.read(tmp_path / "a.dcm", 1), tmp_path / "b.dcm", keep_patient=True)
    assert "ImagePositionPatient" not in pydicom.dcmread(tmp_path / "b.dcm")


def test_ultrasound_regions_follow_the_grid(tmp_path):
    ds = shipped("examples_ybr_color.dcm")
    region = item(RegionLocationMinX0=10, RegionLocationMinY0=20, RegionLocationMaxX1=109, RegionLocationMaxY1=219,
                  ReferencePixelX0=50, ReferencePixelY0=0, PhysicalDeltaX=0.1, PhysicalDeltaY=0.2, PhysicalUnitsXDirection=3,
                  PhysicalUnitsYDirection=3, RegionSpatialFormat=1, RegionDataType=1, RegionFlags=0)  # fmt: skip
    ds.SequenceOfUltrasoundRegions = [region]
    ds.save_as(tmp_path / "a.dcm")
    image = formats.read(tmp_path / "a.dcm", 0)
    for keep_patient in (False, True):
        formats.write(enlarged(image, 4), tmp_path / "b.dcm", keep_patient=keep_patient)
        got = pydicom.dcmread(tmp_path / "b.dcm").SequenceOfUltrasoundRegions[0]
        assert (got.RegionLocationMinX0, got.RegionLocationMaxX1, got.RegionLocationMinY0, got.RegionLocationMaxY1) == (
            40, 439, 80, 879)  # fmt: skip
        assert np.allclose(
            [got.PhysicalDeltaX, got.PhysicalDeltaY], [0.025, 0.05]
        ) and got.ReferencePixelX0 in (201, 202)
        # the physical size of the region stays
        assert np.isclose(
            (got.RegionLocationMaxX1 - got.RegionLocationMinX0 + 1) * got.PhysicalDeltaX, 100 * 0.1
        )


def test_every_attribute_of_the_table_is_mended_or_removed(tmp_path):
    """All of them at the top of one file, with a patient kept: none is as it was after ×2, or in a single frame."""

    def filled(keywords):
        ds = shipped("CT_small.dcm")
        for keyword in keywords.split():
            tag = tag_for_keyword(keyword)
            vr = pydicom.datadict.dictionary_VR(tag).split(" ")[0]
            value = VALUES.get(vr, 2)
            setattr(
                ds,
                keyword,
                value[0] if vr == "DS" and pydicom.datadict.dictionary_VM(tag) == "1" else value,
            )
        return ds

    named = " ".join(k for k, (rule, _) in PIXELS.items() if rule == REMOVED)
    filled(named).save_as(tmp_path / "a.dcm", enforce_file_format=False)
    formats.write(
        enlarged(formats.read(tmp_path / "a.dcm"), 2), tmp_path / "b.dcm", keep_patient=True
    )
    assert [k for k in named.split() if k in pydicom.dcmread(tmp_path / "b.dcm")] == []
    formats.write(formats.read(tmp_path / "a.dcm"), tmp_path / "same.dcm", keep_patient=True)
    assert "ShutterShape" in pydicom.dcmread(tmp_path / "same.dcm")  # true as long as the grid is
    ds = filled(" ".join(FRAMES).replace("GridFrameOffsetVector", ""))
    ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2
    ds.save_as(tmp_path / "c.dcm", enforce_file_format=False)
    formats.write(formats.read(tmp_path / "c.dcm", 1), tmp_path / "d.dcm", keep_patient=True)
    assert [k for k in " ".join(FRAMES).split() if k in pydicom.dcmread(tmp_path / "d.dcm")] == []
    assert all(reason for _, reason in PIXELS.values()) and all(FRAMES.values())


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_sit_where_high_bit_says(tmp_path, signed):
    """BitsStored 12, HighBit 15: the number is the upper twelve bits."""
    ds = shipped("CT_small.dcm")
    values = np.array([[40, 1064, 2047], [-40 if signed else 3000, 0, 7]])
    ds.Rows, ds.Columns, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 2, 3, 12, 15, signed
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.PixelData = (values << 4).astype("<i2" if signed else "<u2").tobytes()
    ds.save_as(tmp_path / "a.dcm")
    image = formats.read(tmp_path / "a.dcm")
    assert np.array_equal(image.pixels[0], values) and image.meta.bits == 12
    formats.write(image, tmp_path / "b.dcm")
    back = pydicom.dcmread(tmp_path / "b.dcm")
    assert (back.BitsStored, back.HighBit) == (12, 11) and np.array_equal(back.pixel_array, values)
    ds.PixelData = (
        ((values << 4) + 3).astype("<i2" if signed else "<u2").tobytes()
    )  # nobody can say which bits are meant
    ds.save_as(tmp_path / "c.dcm")
    with pytest.raises(ValueError, match="bits lie below HighBit"):
        formats.read(tmp_path / "c.dcm")
    ds.HighBit = 9
    ds.save_as(tmp_path / "d.dcm")
    with pytest.raises(ValueError, match="HighBit 9 with BitsStored 12"):
        formats.read(tmp_path / "d.dcm")


def test_frames_beyond_their_groups(tmp_path):
    """Fewer per-frame groups than frames: the rest has no place, and is written without one."""
    ds = pydicom.dcmread(enhanced(tmp_path / "a.dcm", 3))
    ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:2]
    ds.save_as(tmp_path / "a.dcm")
    last = formats.read(tmp_path / "a.dcm", 2)
    assert last.meta.affine is None and last.meta.spacing == (0.125, 0.125)
    formats.write(last, tmp_path / "b.dcm")
    assert formats.read(tmp_path / "b.dcm").meta.affine is None and torch.equal(
        formats.read(tmp_path / "b.dcm").pixels, last.pixels
    )
