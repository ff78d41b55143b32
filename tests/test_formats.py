"""Pictures and arrays in and out: what is written is what is read, in the depth of the file."""

import json
import os
import time
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch

from data import formats
from data.formats import Image, Meta

RANGES = {
    "uint8": (0, 255),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "int32": (-(2**23), 2**23),
    "bool": (0, 1),
}
CASES = [
    (".png", "uint8", 1), (".png", "uint8", 3), (".png", "uint16", 1), (".png", "uint16", 3),
    (".bmp", "uint8", 1), (".bmp", "uint8", 3), (".tif", "uint8", 1), (".tif", "uint8", 3),
    (".tif", "uint16", 1), (".tif", "int16", 1), (".tif", "int32", 1),
    (".tif", "float32", 1), (".tif", "uint16", 3),
    (".npy", "uint8", 1), (".npy", "int16", 3), (".npy", "float64", 1), (".npy", "bool", 1), (".npz", "float32", 3),
    (".npz", "uint16", 1),
    (".h5", "float32", 1), (".h5", "int16", 3), (".mat", "uint16", 1), (".mat", "float64", 1), (".nii.gz", "int16", 1),
    (".nii", "float32", 1), (".nii.gz", "uint8", 3), (".nrrd", "int16", 1), (".nrrd", "float32", 1), (".dcm", "int16", 1),
    (".dcm", "uint16", 1), (".dcm", "uint8", 3),
]  # fmt: skip


def drawn(
    dtype: str, channels: int, height: int = 7, width: int = 10, seed: int = 0
) -> torch.Tensor:
    """Stored values over the whole range of the dtype, both ends included."""
    draw = np.random.default_rng(seed)
    low, high = RANGES.get(dtype, (-3e3, 3e3))
    values = draw.uniform(low, high, (channels, height, width))
    values = values if dtype.startswith("float") else values.round()
    values[0, 0, 0], values[0, 0, 1] = low, high
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(("suffix", "dtype", "channels"), CASES)
def test_round_trip_is_exact(tmp_path, suffix, dtype, channels):
    pixels = drawn(dtype, channels)
    meta = Meta(
        formats.SUFFIXES[suffix],
        dtype,
        photometric="rgb" if channels == 3 and "nii" in suffix else "",
    )
    formats.write(Image(pixels, meta), tmp_path / f"a{suffix}")
    back = formats.read(tmp_path / f"a{suffix}")
    assert formats.count(tmp_path / f"a{suffix}") == 1
    assert back.meta.dtype == dtype and back.pixels.dtype == torch.float32
    assert torch.equal(back.pixels, pixels)
    # and once more from what was read, moved by less than half a stored unit: rounding brings it back
    moved = Image(back.pixels + (0.25 if not dtype.startswith("float") else 0), back.meta)
    formats.write(moved, tmp_path / f"b{suffix}")
    assert torch.equal(formats.read(tmp_path / f"b{suffix}").pixels, pixels)


@pytest.mark.parametrize(("suffix", "dtype", "channels"), CASES)
def test_same_input_same_bytes(tmp_path, suffix, dtype, channels):
    """No dates inside: a restarted run writes what the first one would have written."""
    meta = Meta(
        formats.SUFFIXES[suffix],
        dtype,
        photometric="rgb" if channels == 3 and "nii" in suffix else "",
    )
    for name in "ab":
        formats.write(Image(drawn(dtype, channels), meta), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert time.strftime("%Y-%m-%d").encode() not in (tmp_path / f"a{suffix}").read_bytes()


def test_files_are_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        formats.write(Image(drawn("uint8", 1), Meta("png")), tmp_path / "a.png")
        formats.reassemble([Image(drawn("int16", 1), Meta("dicom", "int16"))], tmp_path / "series")
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in tmp_path.rglob("*")}
    assert modes == {"a.png": "0o640", "series": "0o750", "0001.dcm": "0o640"}


def test_values_are_clipped_only_at_the_ends_of_the_depth(tmp_path):
    pixels = torch.tensor([[[-7.0, 0.4, 0.6, 65534.6, 9e9]]])
    formats.write(Image(pixels, Meta("png", "uint16")), tmp_path / "a.png")
    assert formats.read(tmp_path / "a.png").pixels.tolist() == [[[0, 0, 1, 65535, 65535]]]
    assert np.asarray(PIL.Image.open(tmp_path / "a.png")).tolist() == [[0, 0, 1, 65535, 65535]]


def test_other_readers_read_our_tiff(tmp_path):
    for dtype in ("uint8", "uint16", "int16", "int32", "float32"):
        pixels = drawn(dtype, 1)
        formats.write(Image(pixels, Meta("tiff", dtype)), tmp_path / "a.tif")
        with PIL.Image.open(tmp_path / "a.tif") as picture:
            assert np.array_equal(np.asarray(picture), pixels[0].numpy())


def test_one_bit_palette_and_alpha(tmp_path):
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    PIL.Image.fromarray(gray > 31).save(tmp_path / "bit.png")
    bit = formats.read(tmp_path / "bit.png")
    assert bit.meta.bits == 1 and torch.equal(bit.pixels[0], torch.tensor(gray > 31).float())
    formats.write(bit, tmp_path / "again.png")
    with PIL.Image.open(tmp_path / "again.png") as picture:
        assert picture.mode == "1"
    formats.write(Image(bit.pixels, Meta("tiff", "uint8", 1)), tmp_path / "bit.tif")
    assert torch.equal(formats.read(tmp_path / "bit.tif").pixels, bit.pixels)

    palette = PIL.Image.fromarray(gray)
    palette = palette.convert("P")
    palette.save(tmp_path / "gray.png")
    assert torch.equal(formats.read(tmp_path / "gray.png").pixels[0], torch.tensor(gray).float())
    palette.putpalette([255, 0, 0] * 256)
    palette.save(tmp_path / "red.png")
    assert formats.read(tmp_path / "red.png").pixels.shape == (3, 8, 8)

    opaque = np.stack([gray, gray + 1, gray + 2, np.full_like(gray, 255)], -1)
    PIL.Image.fromarray(opaque).save(tmp_path / "opaque.png")
    assert torch.equal(
        formats.read(tmp_path / "opaque.png").pixels,
        torch.tensor(opaque[..., :3]).permute(2, 0, 1).float(),
    )


def test_pages_and_frames_need_an_index(tmp_path):
    pages = [PIL.Image.fromarray(np.full((4, 5), v, np.uint16)) for v in (300, 400, 500)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    frames = [PIL.Image.fromarray(np.full((4, 5), v, np.uint8)) for v in (30, 40)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert formats.count(tmp_path / "a.tif") == 3 and formats.count(tmp_path / "a.png") == 2
    assert formats.read(tmp_path / "a.tif", 2).pixels.unique().tolist() == [500]
    assert formats.read(tmp_path / "a.png", 1).pixels.unique().tolist() == [40]
    for name in ("a.tif", "a.png"):
        with pytest.raises(ValueError, match="an index 0 to"):
            formats.read(tmp_path / name)
        with pytest.raises(ValueError, match="is outside 0 to"):
            formats.read(tmp_path / name, 3)


@pytest.mark.parametrize(("suffix", "shape", "count", "channels"), [
    (".npy", (4, 6, 5), 4, 1), (".npy", (3, 6, 5), 1, 3), (".npy", (6, 5, 3), 1, 3), (".npy", (4, 3, 6, 5), 4, 3),
    (".npy", (4, 6, 5, 1), 4, 1),
    (".npz", (4, 6, 5), 4, 1), (".h5", (4, 6, 5), 4, 1), (".mat", (6, 5, 4), 4, 1), (".mat", (6, 5, 3), 1, 3),
])  # fmt: skip
def test_stacks(tmp_path, suffix, shape, count, channels):
    array = np.random.default_rng(0).integers(0, 4000, shape).astype(np.int16)
    save(tmp_path / f"a{suffix}", array)
    assert formats.count(tmp_path / f"a{suffix}") == count
    images = [formats.read(tmp_path / f"a{suffix}", i) for i in range(count)]
    assert images[-1].pixels.shape == (channels, 6, 5)
    formats.reassemble(images[::-1], tmp_path / f"b{suffix}")
    assert np.array_equal(load(tmp_path / f"b{suffix}"), array)
    if count > 1:
        with pytest.raises(ValueError, match="slices 1 are missing"):
            formats.reassemble([images[0], *images[2:]], tmp_path / f"c{suffix}")
        assert not (tmp_path / f"c{suffix}").exists()


@pytest.mark.parametrize(("suffix", "shape", "count", "channels"), [
    (".npy", (6, 5), 1, 2), (".npy", (4, 6, 5), 1, 8), (".npy", (2, 4, 6, 5), 2, 8), (".h5", (3, 6, 5), 3, 2),
    (".h5", (2, 4, 6, 5), 2, 8), (".mat", (6, 5), 1, 2),
])  # fmt: skip
def test_complex_data(tmp_path, suffix, shape, count, channels):
    draw = np.random.default_rng(0)
    array = (draw.normal(size=shape) + 1j * draw.normal(size=shape)).astype(np.complex64)
    save(tmp_path / f"a{suffix}", array, "kspace")
    images = [formats.read(tmp_path / f"a{suffix}", i) for i in range(count)]
    assert images[0].meta.complex and images[0].pixels.shape == (channels, 6, 5)
    first = array.reshape(count, -1, 6, 5)[0]
    assert np.array_equal(images[0].pixels[0::2].numpy(), first.real) and np.array_equal(
        images[0].pixels[1::2].numpy(), first.imag
    )
    formats.reassemble(images, tmp_path / f"b{suffix}")
    assert np.array_equal(load(tmp_path / f"b{suffix}"), array)


def test_matlab_7_3(tmp_path):
    h5py = pytest.importorskip("h5py")
    array = np.random.default_rng(0).normal(size=(6, 5, 4))
    pairs = np.zeros((5, 6), [("real", "f8"), ("imag", "f8")])
    pairs["real"], pairs["imag"] = array[..., 0].T, array[..., 1].T
    for name, stored in (("real", array.T), ("complex", pairs)):
        with h5py.File(tmp_path / f"{name}.mat", "w", userblock_size=512) as file:
            file["images"] = stored
        with (tmp_path / f"{name}.mat").open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file")
    assert np.allclose(formats.read(tmp_path / "real.mat", 2).pixels[0], array[..., 2], rtol=1e-7)
    assert np.allclose(
        formats.read(tmp_path / "complex.mat").pixels, array[..., :2].transpose(2, 0, 1), rtol=1e-7
    )


def test_without_h5py_one_line_names_the_extra(tmp_path, monkeypatch):
    save(tmp_path / "a.h5", np.zeros((4, 5), np.float32))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match=r"need h5py: pip install 'palimpsest\[formats\]'"):
        formats.read(tmp_path / "a.h5")


def test_zip_with_labels(tmp_path):
    pixels = [drawn("uint8", 1, seed=i) for i in range(3)]
    images = [
        Image(p, Meta("png", key=f"00000/img{i}.png", label=i * 2)) for i, p in enumerate(pixels)
    ]
    formats.reassemble(images, tmp_path / "a.zip")
    assert formats.count(tmp_path / "a.zip") == 3
    back = [formats.read(tmp_path / "a.zip", i) for i in range(3)]
    assert [b.meta.label for b in back] == [0, 2, 4] and all(
        torch.equal(b.pixels, p) for b, p in zip(back, pixels)
    )
    formats.write(back[1], tmp_path / "one.png")
    assert torch.equal(formats.read(tmp_path / "one.png").pixels, pixels[1])
    formats.reassemble(back[::-1], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with pytest.raises(ValueError, match="slices 1 are missing"):
        formats.reassemble([back[0], back[2]], tmp_path / "c.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert json.loads(archive.read("dataset.json"))["labels"][1] == ["00000/img1.png", 2]


def test_resized_halves_spacing_and_keeps_the_field_of_view():
    affine = (
        (0.0, 2.0, 0.0, 10.0),
        (3.0, 0.0, 0.0, 20.0),
        (0.0, 0.0, 5.0, 30.0),
        (0.0, 0.0, 0.0, 1.0),
    )
    fine = formats.resized(Meta("nifti", spacing=(3.0, 2.0), affine=affine), 2)
    assert fine.spacing == (1.5, 1.0)
    old, new = np.array(affine), np.array(fine.affine)
    for n in (
        1,
        4,
    ):  # the outer corner of an n×n image, half a pixel beyond the first and the last centre
        assert np.allclose(old @ [n - 0.5, n - 0.5, 0, 1], new @ [2 * n - 0.5, 2 * n - 0.5, 0, 1])
        assert np.allclose(old @ [-0.5, -0.5, 0, 1], new @ [-0.5, -0.5, 0, 1])


def save(path, array, key="image"):
    """As other programs would write it."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, **{key: array})
    elif path.suffix == ".mat":
        import scipy.io

        scipy.io.savemat(path, {key: array})
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file[key] = array


def load(path):
    if path.suffix == ".mat":
        import scipy.io

        return next(v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__"))
    if path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path) as file:
            return next(iter(file.values()))[:]
    found = np.load(path)
    return found if path.suffix == ".npy" else found[found.files[0]]
