"""LPIPS (Zhang et al. 2018) from weight files the user has: torchvision's VGG16 and the published linear heads.

No weights are ever fetched. Heads on features of another network than the one they were fitted to would measure nothing,
so the backbone must be torchvision's `vgg16-397923af.pth`; the heads are the ones torchmetrics carries.
"""

from pathlib import Path

import torch
import torchmetrics
import torchvision
from torch import Tensor, nn

from data.files import Refusal
from ldm.checkpoints.reading import weights

TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 of VGG16's features
HEADS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "vgg.pth"


class LPIPS(nn.Module):
    """LPIPS(a, b) -> distance per image [B]; a, b [B,1 or 3,H,W] in [-1, 1]. backbone: path of torchvision's VGG16 weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, heads: str | None = None):
        super().__init__()
        with torch.device("meta"):  # its 138 million weights are not needed
            self.features = torchvision.models.vgg16().features
        state = {
            k.removeprefix("features."): v
            for k, v in weights(backbone).items()
            if k.startswith("features.")
        }
        loaded = weights(heads or HEADS)
        fits = {k: v.shape for k, v in self.features.state_dict().items()} == {
            k: v.shape for k, v in state.items()
        }
        if not fits or len(loaded) != len(TAPS):
            raise Refusal(
                f"{backbone}: not torchvision's VGG16 (needs features.0.weight ... features.28.bias)"
            )
        self.features.load_state_dict(state, assign=True)
        self.heads = nn.ParameterList([loaded[f"lin{i}.model.1.weight"] for i in range(len(TAPS))])
        self.register_buffer(
            "mean", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1), persistent=False
        )
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = (torch.cat([a, b]).expand(-1, 3, -1, -1) - self.mean) / self.std
        total = a.new_zeros(len(a))
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS:
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                difference = (unit[: len(a)] - unit[len(a) :]).square()
                total = total + (difference * self.heads[TAPS.index(i)]).sum(1).mean([1, 2])
        return total

    def train(self, mode: bool = True) -> "LPIPS":
        return super().train(False)
