"""Blurs that are not linear in grey values: a camera's response around a blur of light, or a learned blur."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from data.files import Refusal
from data.ranges import from_unit, to_unit
from data.seeding import Noise
from solvers.operators.base import Operator, Shape, one_each
from solvers.operators.bkse import BlurNetwork, load
from solvers.operators.blur import GaussianBlur
from solvers.operators.grid import Grid
from solvers.operators.separable import Border, multiple

DARK = 1e-3  # light added before the root, so that black pixels have a finite slope


@dataclass(frozen=True, eq=False)
class NonlinearBlur(Operator):
    """y = response(clip(gain * (kernel * u^gamma))), u = (x + 1) / 2: light, not grey values, is blurred, and saturates.

    response(l) = l^(1/gamma), shifted by a little dark light and scaled so that 0 stays 0 and 1 stays 1.
    """

    size: int = 61  # window of the Gaussian, pixels
    std: float = 3.0  # pixels
    gamma: float = 2.2
    gain: float = 1.2
    border: Border = "reflect"

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and self.gain > 0):
            raise Refusal(f"gamma and gain must be > 0, got {self.gamma} and {self.gain}")
        self.blur  # noqa: B018  an illegal kernel is refused here

    @cached_property
    def blur(self) -> GaussianBlur:
        return GaussianBlur(self.size, self.std, self.border)

    @property
    def grid(self) -> Grid | None:
        return self.blur.grid

    def shape_out(self, shape: Shape) -> Shape:
        return self.blur.shape_out(shape)

    def measurable(self, shape: Shape) -> Shape:
        return self.blur.measurable(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.response(self.light(x).clamp(0, 1))

    def light(self, x: Tensor) -> Tensor:
        return self.gain * self.blur.forward(to_unit(x).clamp_min(0) ** self.gamma)

    def response(self, light: Tensor) -> Tensor:
        low, high = DARK ** (1 / self.gamma), (1 + DARK) ** (1 / self.gamma)
        return from_unit(((light + DARK) ** (1 / self.gamma) - low) / (high - low))

    def given(self, y: Tensor, sigma: float | Tensor) -> "Saturated":
        """Saturated only where y is: light beyond 1, where y is 3 sigma below white, goes on along the response."""
        return Saturated(self, torch.where(y >= 1 - 3 * sigma, 1.0, torch.inf).to(y))

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return self.blur.baseline(y, shape)

    def files(self) -> dict[str, Tensor]:
        return self.blur.files()


@dataclass(frozen=True, eq=False)
class Saturated(Operator):
    """A nonlinear blur with each entry's own largest light [B,C,H,W], infinite where it has none."""

    blur: NonlinearBlur
    most: Tensor

    @property
    def grid(self) -> Grid | None:
        return self.blur.grid

    def shape_out(self, shape: Shape) -> Shape:
        return self.blur.shape_out(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.blur.response(self.blur.light(x).clamp_min(0).minimum(self.most.to(x)))


@dataclass(frozen=True, eq=False)
class NetworkBlur(Operator):
    """The learned blur of DPS, ReSample and DAPS, with weights from a file of the user's (solvers/operators/bkse.py).

    code: the encoded kernel [1 or B, 512, H/128, W/128]; `draw` gives each image its own, 1.2 N(0, 1), kept for all
    calls. y is clamped to [-1, 1]. Gray images are replicated to three channels, and averaged after the network.
    """

    weights: str = ""
    code: Tensor | None = None
    spread: float = 1.2

    grid = Grid()

    @property
    def random(self) -> bool:  # type: ignore[override]
        return self.code is None

    def __post_init__(self) -> None:
        if not self.weights:
            raise Refusal(
                "NetworkBlur needs a weights file (GOPRO_wVAE.pth); the task nonlinear_deblur needs none"
            )
        network(self.weights)

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        if c not in (1, 3):
            raise Refusal(f"the blur network takes 1 or 3 channels, not {c}")
        if h % 128 or w % 128:
            raise Refusal(f"the blur network takes sides divisible by 128, not {h}x{w}")
        return tuple(shape)

    def measurable(self, shape: Shape) -> Shape:
        c, h, w = shape
        return (c, multiple(h, 128), multiple(w, 128))

    def draw(self, shape: Shape, noise: Noise) -> "NetworkBlur":
        c, h, w = self.shape_out(shape)
        if self.code is not None:
            one_each(self.code, noise, "kernel codes")
            return self.bind(shape)
        width = network(self.weights).width
        code = self.spread * noise.of("kernel").normal((len(noise), 8 * width, h // 128, w // 128))
        return self.bind(shape, code=code)

    def forward(self, x: Tensor) -> Tensor:
        if self.code is None:
            raise Refusal("this blur has no kernel code yet: call draw first")
        u = to_unit(x).expand(-1, 3, -1, -1)
        code = self.code.to(x).expand(len(x), -1, -1, -1)
        blurred = network(self.weights, x.dtype, x.device)(u, code)
        blurred = blurred.mean(1, keepdim=True) if x.shape[1] == 1 else blurred
        return from_unit(blurred).clamp(-1, 1)

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return y

    def files(self) -> dict[str, Tensor]:
        return {} if self.code is None else {"code": self.code}


@lru_cache(maxsize=2)
def network(
    path: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> BlurNetwork:
    """The loaded network, once per file, precision and device."""
    return load(path).to(device=device, dtype=dtype)
