"""Datasets and loaders: the intensity contract, channels, padding, reproducible variation, order that a restart continues."""

import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from data import dataset
from data.datamodule import ManifestData
from data.dataset import LUMINANCE, ManifestDataset, fit, load
from data.epoch import EpochSampler
from data.manifest import read


@pytest.fixture
def manifest(tmp_path):
    """Ten 16-bit pictures of 24 x 20 that differ everywhere."""
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 65536, (24, 20), dtype=np.uint16)).save(
            tmp_path / f"{i}.png"
        )
    path = tmp_path / "train.csv"
    path.write_text("path,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(10)))
    return path


def stored(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path)).astype(np.float32))


def test_sample_is_the_file_in_the_model_range(manifest):
    sample = ManifestDataset(manifest)[3]
    assert set(sample) == {"image", "image_id", "label", "index"}
    assert (sample["image_id"], sample["label"], sample["index"]) == ("3", 1, 3)
    # one float32 rounding of a number in [-1, 1] per operation, three of them
    torch.testing.assert_close(
        sample["image"][0],
        stored(manifest.parent / "3.png") / 65535 * 2 - 1,
        atol=3 * 2**-24,
        rtol=0,
    )


def test_the_contract_is_inverted_exactly(manifest):
    row = next(read(manifest))
    image, file, intensity = load(row, 1)
    # half a stored unit is what a 16-bit file can tell
    assert (intensity.to_stored(image.double()) - file.pixels).abs().max() < 0.5


def test_the_window_column_comes_before_the_file(manifest):
    row = next(read(manifest))._replace(window=(1000.0, 2000.0))
    image, file, intensity = load(row, 1)
    assert (intensity.low, intensity.high) == (1000, 2000)
    assert (
        image.min() == -1
        and image.max() == 1
        and ((file.pixels > 2000) == (image == 1)).float().mean() > 0.99
    )


def test_the_least_and_the_greatest_value_when_nobody_knows_better(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(-3, 5, 400, dtype=np.float32).reshape(20, 20))
    (tmp_path / "m.txt").write_text("a.npy\n")
    _, _, intensity = load(next(read(tmp_path / "m.txt")), 1)
    assert (intensity.low, intensity.high) == (-3, 5)


def test_channels(tmp_path):
    rng = np.random.default_rng(1)
    colour = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "rgb.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "gray.png")
    (tmp_path / "m.txt").write_text("rgb.png\ngray.png\n")
    rgb, gray = read(tmp_path / "m.txt")
    three, one = load(gray, 3)[0], load(gray, 1)[0]
    assert three.shape == (3, 8, 8) and (three == one).all()
    kept = torch.from_numpy(colour).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(load(rgb, 3)[0], kept, atol=3 * 2**-24, rtol=0)
    dataset._say_luminance.cache_clear()
    with pytest.warns(UserWarning, match="luminance"):
        reduced = load(rgb, 1)[0]
    torch.testing.assert_close(
        reduced[0], sum(w * c for w, c in zip(LUMINANCE, kept)), atol=2**-20, rtol=0
    )
    with pytest.raises(ValueError, match="has 1 channels where 2"):
        load(gray, 2)


def test_luminance_warns_once(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "rgb.png")
    (tmp_path / "m.txt").write_text("rgb.png\n")
    data = ManifestDataset(tmp_path / "m.txt")
    dataset._say_luminance.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            data[0]
    assert len(caught) == 1


def test_fit_keeps_the_centre_and_never_leaves_the_range():
    x = torch.full((1, 40, 64), -1.0)
    x[:, :, 12:52] = 1.0
    y = fit(x, 20)
    assert y.shape == (1, 20, 20) and y.abs().max() <= 1 and y.min() > 0.5
    assert fit(y, 20) is y


def test_variation_depends_on_seed_image_and_epoch_only(manifest):
    one = ManifestDataset(manifest, augment=True, crop=12)
    two = ManifestDataset(manifest, augment=True, crop=12, memory=2**20)
    for i in (7, 2):
        # the cache rounds to 1/65535 of the range, and the files are such numbers: bicubic weights sum to less than 2
        torch.testing.assert_close(one[i, 5]["image"], two[i, 5]["image"], atol=2**-20, rtol=0)
    pictures = [one[2, epoch]["image"] for epoch in range(4)] + [
        ManifestDataset(manifest, augment=True, crop=12, seed=1)[2, 0]["image"]
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert all(p.shape == (1, 12, 12) and p.abs().max() <= 1 for p in pictures)


def test_half_of_zoomed_crops_have_coarser_pixels_each_way_of_its_own(tmp_path):
    ramp = np.add.outer(3 * np.arange(48), np.arange(60)).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    (tmp_path / "m.txt").write_text("ramp.png\n")
    data = ManifestDataset(tmp_path / "m.txt", crop=16, zoom=2)
    inner = [data[0, view]["image"][0, 4:12, 4:12] * 127.5 for view in range(400)]  # no edges
    across = torch.stack([x.diff(dim=1).mean() for x in inner])
    down = torch.stack([x.diff(dim=0).mean() for x in inner]) / 3
    plain = (across - 1).abs() < 1e-3
    assert 170 <= plain.sum() <= 230  # binomial(400, 1/2), three standard deviations
    for steps in (across, down):
        assert steps.max() < 2.01 and steps.min() > 0.99
        # log2 of the zoom is uniform: its mean 1/2 within four deviations of 1/sqrt(12) / sqrt(200), and half a pixel of 16
        assert abs(steps[~plain].log2().mean() - 0.5) < 0.12
    assert abs(torch.corrcoef(torch.stack([across, down])[:, ~plain].log2())[0, 1]) < 0.3


def test_zoom_takes_no_more_than_the_picture_has_and_needs_a_crop(manifest):
    data = ManifestDataset(manifest, crop=16, zoom=4, augment=True)
    assert all(data[0, view]["image"].shape == (1, 16, 16) for view in range(20))
    for wrong in ({"zoom": 0.5, "crop": 8}, {"zoom": 2}):
        with pytest.raises(ValueError, match="must be at least 1, and needs a crop"):
            ManifestDataset(manifest, **wrong)


def test_variation_without_warp_is_a_mirror_or_the_picture_itself(manifest):
    data = ManifestDataset(manifest, augment=True)
    plain = ManifestDataset(manifest)[0]["image"]
    seen = [data[0, epoch]["image"] for epoch in range(40)]
    exact = sum(torch.equal(x, plain) or torch.equal(x, plain.flip(-1)) for x in seen)
    assert (
        8 <= exact <= 32
    )  # binomial(40, 1/2): outside with probability 2e-4, and the seed is fixed


def test_small_warp_moves_a_disc_as_little_as_promised(tmp_path):
    y, x = np.mgrid[-32:32, -32:32] + 0.5
    Image.fromarray(((x - 8) ** 2 + y**2 < 36).astype(np.uint8) * 255).save(tmp_path / "disc.png")
    (tmp_path / "m.txt").write_text("disc.png\n")
    data = ManifestDataset(tmp_path / "m.txt", augment=True)
    for epoch in range(30):
        mass = data[0, epoch]["image"][0].double() + 1
        cx, cy = (
            float((mass * torch.from_numpy(x)).sum() / mass.sum()),
            float((mass * torch.from_numpy(y)).sum() / mass.sum()),
        )
        # centre 8 px out, scaled by at most 1.1, turned by at most 7 degrees, shifted by at most 3.2 px
        assert (
            abs(abs(cx) - 8) <= 0.8 + 3.2 + 0.1
            and abs(cy) <= 8.8 * np.sin(np.radians(7)) + 3.2 + 0.1
        )
        assert mass.sum() / (2 * np.pi * 36) == pytest.approx(
            1, abs=0.25
        )  # area within 1.1², and a pixel's edge


def test_crop_larger_than_the_picture_is_an_error(manifest):
    with pytest.raises(ValueError, match=r"0\.png: is 24 x 20, smaller than crop 21"):
        ManifestDataset(manifest, crop=21)  # before any is asked for


@pytest.fixture
def uneven(tmp_path):
    """A manifest of 40 images, the last of another shape."""
    for i in range(40):
        image = np.zeros((8, 12 if i == 39 else 8), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "m.txt").write_text("".join(f"{i}.png\n" for i in range(40)))
    return str(tmp_path / "m.txt")


def test_images_of_unequal_shape_are_never_batched(uneven):
    *_, last = ManifestData(validation=uneven, size=8).val_dataloader()
    assert last["image"].shape == (8, 1, 8, 8)
    with pytest.raises(ValueError, match="32 is 1x8x8 and 39 is 1x8x12"):
        list(ManifestData(validation=uneven).val_dataloader())


def test_validation_images_of_unequal_shape_are_refused_before_training(uneven):
    with pytest.raises(ValueError, match="0 is 1x8x8 and 39 is 1x8x12"):
        ManifestData(validation=uneven).setup("fit")
    ManifestData(validation=uneven).setup("test")
    ManifestData(validation=uneven, batch_size=1).setup("fit")


def test_empty_manifest_and_missing_split(tmp_path):
    (tmp_path / "m.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="no rows"):
        ManifestDataset(tmp_path / "m.txt")
    with pytest.raises(ValueError, match="no manifest is given for 'test'"):
        ManifestData().test_dataloader()


def batches(data: ManifestData, epochs: range) -> list:
    loader, seen = data.train_dataloader(), []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        seen.append([(tuple(b["index"].tolist()), b["image"].clone()) for b in loader])
    return seen


@pytest.mark.parametrize("workers", [0, 1])
def test_order_and_variation_are_the_same_for_any_workers_and_history(manifest, workers):
    state = torch.random.get_rng_state()
    first = batches(ManifestData(str(manifest), batch_size=3, augment=True), range(3))
    again = batches(
        ManifestData(str(manifest), batch_size=3, augment=True, num_workers=workers), range(2, 3)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert [i for i, _ in first[2]] == [i for i, _ in again[0]] and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(first[2], again[0])
    )
    assert [i for i, _ in first[0]] != [i for i, _ in first[1]]
    assert all(
        len({j for i, _ in epoch for j in i}) == 9 for epoch in first
    )  # three whole batches without repetition


def test_ranks_share_an_epoch(manifest):
    data = ManifestDataset(manifest)
    for epoch in range(3):
        shares = []
        for rank in range(2):
            sampler = EpochSampler(data, 2, rank, shuffle=True, seed=0)
            sampler.set_epoch(epoch)
            shares.append(list(sampler))
        assert sorted(index for share in shares for index, _ in share) == list(range(10))
        assert {seen for share in shares for _, seen in share} == {epoch}
        sampler.skip = 4  # of both
        assert list(sampler) == shares[1][2:]


class Recorder(pl.LightningModule):
    """Remembers every image it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, _):
        self.seen.append(batch["image"])
        return self.weight * batch["image"].mean() + self.weight**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [4, 5, 6])
def test_resumed_training_sees_what_unbroken_training_sees(manifest, tmp_path, stop, workers):
    def train(resume=None):
        module = Recorder()
        saver = pl.callbacks.ModelCheckpoint(
            tmp_path, "{step}", save_top_k=-1, every_n_train_steps=stop
        )
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(max_steps=11, accelerator="cpu", devices=1, callbacks=[saver], **quiet)
        data = ManifestData(str(manifest), batch_size=3, augment=True, num_workers=workers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
        return module

    whole = train()
    rest = train(tmp_path / f"step={stop}.ckpt")
    assert len(whole.seen) == 11 and len(rest.seen) == 11 - stop
    assert all(torch.equal(a, b) for a, b in zip(whole.seen[stop:], rest.seen))
    assert torch.equal(whole.weight, rest.weight)
