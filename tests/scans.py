"""Raw files of a small scan whose truth is known: a body of smooth and sharp parts, as scripts/simulate_raw.py writes them."""

from pathlib import Path

import simulate_mri
import torch

from data import formats


def body(shape: tuple[int, int] = (64, 56)) -> torch.Tensor:
    """[H,W] in [0, 1], a fifth of its rows and columns air on either side."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (x**2 / 0.4 + y**2 / 0.36 < 1).float()
    return inside * (0.45 + 0.2 * torch.cos(6 * x + 2 * y) + 0.35 * ((x - 0.2) ** 2 + y**2 < 0.06))


def simulated(
    folder: Path, name: str, *flags: str, slices: int = 2, shape: tuple[int, int] = (64, 56)
) -> torch.Tensor:
    """Writes folder/name; returns the truth [slices,H,W] in its units. flags: of scripts/simulate_raw.py mri."""
    picture = folder / "body.png"
    formats.write(
        formats.Image((65535 * body(shape))[None].round(), formats.Meta("png", "uint16")), picture
    )
    truth = folder / "truth" / f"{Path(name).stem}.nii.gz"
    usual = ["--centre", "0.36", "--acceleration", "2.5", "--pixel", "2", "3"]
    where = ["--slices", str(slices), "--output", str(folder / name), "--truth", str(truth)]
    assert simulate_mri.main([str(picture), *where, *usual, *flags]) == 0
    return torch.stack([formats.read(truth, i).pixels[0] for i in range(slices)])
