"""Local contrast: where in an image there are edges and texture."""

from functools import partial

from torch import Tensor
from torch.nn.functional import avg_pool2d

WINDOW = 9  # pixels across, in which it is taken
CONTRAST = 0.25  # power of it that the deviation of errors is taken to go with (docs/update.md)
TINY = 1e-12  # a variance that counts as none


def contrast(image: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,1,H,W]: the local deviation over the image's mean one; 1 where the image has none at all.

    Networks err at edges and in texture, hardly in air. Of a volume [B,C,D,H,W] slice by slice.
    """
    if image.ndim == 5:
        return (
            contrast(image.movedim(2, 1).flatten(0, 1)).unflatten(0, (len(image), -1)).movedim(1, 2)
        )
    around = partial(
        avg_pool2d, kernel_size=WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False
    )
    local = (around(image**2) - around(image) ** 2).clamp_min(0).mean(1, keepdim=True)
    mean = local.mean((2, 3), keepdim=True)
    return ((local + 1e-4 * mean + TINY) / (mean + TINY)).sqrt()


def unevenness(image: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,1,H,W], or of volumes: the deviation of errors in each place over the root mean square of all."""
    deviation = contrast(image) ** CONTRAST
    axes = tuple(range(2, image.ndim))
    return deviation / deviation.square().mean(axes, keepdim=True).sqrt()
