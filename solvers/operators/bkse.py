"""The blur network of "Explore Image Deblurring via Encoded Blur Kernel Space" (Tran et al. 2021): sharp image and kernel
code in, blurred image out. Modules carry the names of the published weights, so that those load as they are.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from data.files import Refusal

EXTRACTOR = "kernel_extractor."  # the half of the published weights that encodes kernels; not needed to blur


class Residual(nn.Module):
    """x + conv(relu(conv(x)))"""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(x)))


class Twice(nn.Module):
    """Two 5x5 convolutions, a ReLU after each."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(into, out, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(out, out, 5, padding=2),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Level(nn.Module):
    """One level of the adapter: halve, go deeper (or, innermost, meet the code), double, and append the input.

    outer: channels in and out, before the input is appended. inner: channels one level down.
    """

    def __init__(self, outer: int, inner: int, deeper: "Level | None", outermost: bool = False):
        super().__init__()
        down, up = nn.Conv2d(outer, inner, 4, 2, 1, bias=False), Twice(2 * inner, outer)
        double = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.outermost = outermost
        self.down = nn.Sequential(down) if outermost else nn.Sequential(nn.Identity(), down)
        self.submodule = deeper
        self.up = nn.Sequential(nn.ReLU(), up, double, nn.Tanh() if outermost else nn.Identity())

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        # The published blocks rectify their input in place, so what they append is rectified too.
        x = x if self.outermost else functional.leaky_relu(x, 0.2)
        below = self.down(x)
        below = (
            torch.cat([below, code], 1) if self.submodule is None else self.submodule(below, code)
        )
        y = self.up(below)
        return y if self.outermost else torch.cat([y, x], 1)


class Adapter(nn.Module):
    """Bends image features [B,w,H/4,W/4] by a code [B,8w,H/128,W/128]."""

    def __init__(self, width: int):
        super().__init__()
        level = Level(8 * width, 8 * width, None)
        for outer in (4, 2, 1):
            level = Level(outer * width, 2 * outer * width, level)
        self.model = Level(width, width, level, outermost=True)

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        return self.model(features, code)


class BlurNetwork(nn.Module):
    """width: 64 in the published weights."""

    def __init__(self, width: int = 64, channels: int = 3):
        super().__init__()
        self.width = width
        leaky = nn.LeakyReLU(0.1)
        self.feature_extractor = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, 1, 1), leaky, nn.Conv2d(width, width, 3, 2, 1), leaky),
            *(nn.Conv2d(width, width, 3, 2, 1), leaky),
            *(Residual(width) for _ in range(10)),
        )
        self.adapter = Adapter(width)
        self.recon_trunk = nn.Sequential(
            *(Residual(width) for _ in range(20)),
            *(nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2), leaky),
            *(nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2), leaky),
            *(nn.Conv2d(width, width, 3, 1, 1), leaky, nn.Conv2d(width, channels, 3, 1, 1)),
        )

    def forward(self, u: Tensor, code: Tensor) -> Tensor:
        """u [B,3,H,W] in [0, 1], H and W divisible by 128; code [B,8*width,H/128,W/128]."""
        return u + self.recon_trunk(self.adapter(self.feature_extractor(u), code))


def load(path: str) -> BlurNetwork:
    """The network of a weights file (.pth or .safetensors), every tensor accounted for. Refusal in one line if not."""
    if not Path(path).is_file():
        raise Refusal(
            f"{path}: no such weights file; the blur network's GOPRO_wVAE.pth comes from its authors' release"
        )
    try:
        raw = (
            load_file(path)
            if path.endswith(".safetensors")
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        state = {key.removeprefix("module."): value for key, value in raw.items()}
    except Exception as error:  # whatever a broken file makes its reader raise
        raise Refusal(
            f"{path}: not a readable weights file ({str(error).splitlines()[0]})"
        ) from error
    state = {key: value for key, value in state.items() if not key.startswith(EXTRACTOR)}
    first = state.get("feature_extractor.0.weight")
    if first is None:
        raise Refusal(f"{path}: holds no blur network (no feature_extractor.0.weight)")
    network = BlurNetwork(*first.shape[:2])
    own = {key: value.shape for key, value in network.state_dict().items()}
    wrong = sorted(
        key
        for key in own.keys() | state.keys()
        if key not in own or key not in state or own[key] != state[key].shape
    )
    if wrong:
        raise Refusal(
            f"{path}: {len(wrong)} tensors are missing, unexpected or of another shape: {', '.join(wrong[:5])}"
        )
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)
