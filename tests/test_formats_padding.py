"""Padding, deep integers, EXIF orientation, scales: numbers that are read as what they mean, and written back as they were."""

import struct
import zlib

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from data import dataset, formats, sources
from data.formats import Image, Meta
from data.formats.image import unpadded
from data.manifest import Row
from data.prepare.plan import Source
from data.prepare.recipe import Recipe, contract, picture

EXIF_ORIENTATION = 274


def padded_ct(path, value=-2000, vr="SS", limit=None, photometric="MONOCHROME2", **changes):
    """A CT whose outer circle is padding; no window."""
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in ds:
            del ds[keyword]
    array = ds.pixel_array.copy()
    y, x = np.ogrid[:128, :128]
    outside = (y - 64) ** 2 + (x - 64) ** 2 > 50**2
    array[outside] = np.int64(value if value < 2**15 else value - 2**16)
    if limit is not None:
        array[outside & (x % 2 == 0)] = limit
    ds.PixelData, ds.PhotometricInterpretation = array.astype(np.int16).tobytes(), photometric
    ds.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        ds.add_new("PixelPaddingRangeLimit", "SS", limit)
    for key, new in changes.items():
        setattr(ds, key, new)
    ds.save_as(path)
    return array, outside


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"value": 63536, "vr": "US"},
        {"limit": -1500},
        {"photometric": "MONOCHROME1"},
        {"photometric": "MONOCHROME1", "Modality": "CR"},
    ],
)
def test_padding_takes_no_part_in_windows_and_is_written_back(tmp_path, how):
    array, outside = padded_ct(tmp_path / "a.dcm", **how)
    row = Row(str(tmp_path / "a.dcm"), "a")
    model, image, intensity = dataset.load(row, 1)
    inside = torch.tensor(~outside)[None]
    assert torch.equal(unpadded(image).sort().values, image.pixels[inside].sort().values)
    body = image.pixels[inside]
    assert body.min() <= intensity.low < intensity.high <= body.max()  # of the body alone
    assert bool((model[~inside] == -1).all())
    y, _, _ = sources.measurement(row)
    assert bool((y[~inside] == -1).all())
    back = Image(intensity.to_stored(model * 0 + 0.3), image.meta)
    formats.write(back, tmp_path / "b.dcm")
    ds = pydicom.dcmread(tmp_path / "b.dcm")
    assert np.array_equal(ds.pixel_array[outside], array[outside])
    assert torch.equal(formats.read(tmp_path / "b.dcm").meta.padded.isnan(), inside)
    fine = Image(
        back.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2), formats.resized(image.meta, 2)
    )
    formats.write(fine, tmp_path / "c.dcm")
    assert np.array_equal(
        pydicom.dcmread(tmp_path / "c.dcm").pixel_array[::2, ::2][outside], array[outside]
    )


def test_a_result_never_looks_like_padding(tmp_path):
    padded_ct(tmp_path / "a.dcm", value=0)
    image = formats.read(tmp_path / "a.dcm")
    at_zero = Image(
        torch.full_like(image.pixels, image.meta.intercept), image.meta
    )  # stored 0: the padding value
    formats.write(at_zero, tmp_path / "b.dcm")
    assert torch.equal(
        formats.read(tmp_path / "b.dcm").meta.padded.isnan(), image.meta.padded.isnan()
    )


def test_prepare_leaves_padding_out(tmp_path):
    _, outside = padded_ct(tmp_path / "a.dcm")
    source = Source(tmp_path / "a.dcm", "a.dcm", "train", "", "a")
    image = formats.read(tmp_path / "a.dcm")
    body = image.pixels[0][torch.tensor(~outside)]
    for recipe in (Recipe(128), Recipe(128, percentiles=(0, 100))):
        intensity = contract(source, recipe, image)
        assert (intensity.low, intensity.high) == (float(body.min()), float(body.max()))
    unit = picture(image, intensity, Recipe(128))
    assert not unit[0][outside].any()


def test_nothing_but_padding_is_black(tmp_path):
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    ds.PixelPaddingValue = -2000
    ds.PixelData = np.full((128, 128), -2000, np.int16).tobytes()
    ds.save_as(tmp_path / "a.dcm")
    model, image, _ = dataset.load(Row(str(tmp_path / "a.dcm"), "a"), 1)
    assert bool((model == -1).all()) and not len(unpadded(image))


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".nii", ".nrrd"])
@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_integers_deeper_than_16_bits_take_their_range(tmp_path, suffix, dtype):
    pixels = torch.tensor([[[1000.0, 70000.0, 5000.0], [2000.0, 1000.0, 300000.0]]])
    formats.write(Image(pixels, Meta(formats.SUFFIXES[suffix], dtype)), tmp_path / f"a{suffix}")
    model, image, intensity = dataset.load(Row(str(tmp_path / f"a{suffix}"), "a"), 1)
    assert (intensity.low, intensity.high) == (1000, 300000) and model.max() == 1
    assert intensity.origin == "least and greatest value of the volume"
    formats.write(
        Image(intensity.to_stored(model.double()).float(), image.meta), tmp_path / f"b{suffix}"
    )
    assert (
        formats.upright(formats.read(tmp_path / f"b{suffix}")).pixels - image.pixels
    ).abs().max() <= 1
    formats.write(
        Image(pixels * 100, Meta(formats.SUFFIXES[suffix], dtype)), tmp_path / f"c{suffix}"
    )
    with pytest.raises(ValueError, match="2\\^23"):
        formats.read(tmp_path / f"c{suffix}")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_exif_orientation_is_applied_and_results_are_upright(tmp_path, suffix, orientation):
    gray = np.zeros((16, 32), np.uint8)
    gray[:8, :16], gray[:8, 16:], gray[8:, :16] = 200, 100, 50
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    PIL.Image.fromarray(gray).save(
        tmp_path / f"a{suffix}", exif=exif, **({"quality": 100} if suffix == ".jpg" else {})
    )
    turns = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
             6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90}  # fmt: skip
    image = formats.read(tmp_path / f"a{suffix}")
    assert np.array_equal(image.pixels[0], turns[orientation](gray))
    formats.write(image, tmp_path / f"b{suffix}")
    with PIL.Image.open(tmp_path / f"b{suffix}") as back:
        assert (
            back.getexif().get(EXIF_ORIENTATION, 1) == 1 and back.size == image.pixels.shape[:0:-1]
        )


def test_exif_orientation_of_16_bits(tmp_path):
    for channels, array in (
        (1, np.arange(24).reshape(4, 6) * 2000),
        (3, np.arange(72).reshape(4, 6, 3) * 900),
    ):
        pixels = torch.tensor(array).float().reshape(4, 6, channels).permute(2, 0, 1)
        formats.write(Image(pixels, Meta("png", "uint16")), tmp_path / "a.png")
        data, exif = (tmp_path / "a.png").read_bytes(), PIL.Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        body = exif.tobytes()[6:]
        chunk = (
            struct.pack(">I", len(body))
            + b"eXIf"
            + body
            + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        )
        for place in (33, len(data) - 12):  # behind the header, or behind the pixels
            (tmp_path / "b.png").write_bytes(data[:place] + chunk + data[place:])
            assert torch.equal(formats.read(tmp_path / "b.png").pixels, pixels.rot90(-1, (1, 2)))


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_a_nifti_slope_without_an_intercept_stands(tmp_path, intercept):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array([2, intercept], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    images = [formats.read(tmp_path / "a.nii", i) for i in range(4)]
    assert images[3].pixels.max() == 46 and images[0].meta.slope == 2
    formats.reassemble(images, tmp_path / "b.nii")
    assert np.array_equal(
        nibabel.load(tmp_path / "b.nii").get_fdata(), 2 * np.arange(24).reshape(2, 3, 4)
    )
