"""The EDM family: published sizes on the meta device; agreement with an independent forward is in test_checkpoints_edm.py."""

import pytest
import torch

from ldm.networks.edm import DhariwalUNet, SongUNet

SIZES = {  # millions of parameters, as published or computed from the formulas
    "EDM CIFAR-10": (55.73, lambda: SongUNet(3, multipliers=(2, 2, 2), attention=(1,))),
    "EDM FFHQ-64": (61.80, lambda: SongUNet(3, attention=(2,))),
    "EDM ImageNet-64 ADM": (295.90, lambda: DhariwalUNet(3, classes=1000)),
    "PaDIS patch net": (60.48, lambda: SongUNet(3, 1)),
    "PaDIS whole-image net": (114.64, lambda: SongUNet(3, 1, multipliers=(1, 2, 2, 4))),
    "PaDIS released default": (54.41, lambda: SongUNet(3, 1, multipliers=(2, 2, 2))),
    "PaDIS-MRI baseline": (101.75, lambda: SongUNet(2, multipliers=(1, 1, 2, 2, 2, 2, 2))),
    "small, 4 blocks": (15.14, lambda: SongUNet(3, 1, width=64)),
    "small, 2 blocks": (9.66, lambda: SongUNet(3, 1, width=64, blocks=2)),
    "tiny, 4 blocks": (2.66, lambda: SongUNet(3, 1, width=32, multipliers=(1, 2, 2))),
    "tiny, 2 blocks": (1.70, lambda: SongUNet(3, 1, width=32, multipliers=(1, 2, 2), blocks=2)),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
    millions, build = SIZES[name]
    with torch.device("meta"):
        assert round(sum(p.numel() for p in build().parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    "build",
    [
        lambda: SongUNet(3, 1, "ncsn++", 16, (1, 2), 1, (1,)),
        lambda: DhariwalUNet(3, 1, 64, (1, 2), 1, (1,)),
    ],
)
def test_starts_nearly_at_zero_and_trains(build):
    torch.manual_seed(0)
    net = build()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([-1.0, 1.0])
    out = net(x, t)
    assert (
        out.shape == (2, 1, 8, 8) and out.abs().max() < 1e-3
    )  # the last layer starts at (nearly) zero weights
    (out - 1).square().mean().backward()
    assert net.out_conv.weight.grad.abs().max() > 0


def test_checkpointing_changes_nothing():
    torch.manual_seed(0)
    net = SongUNet(1, width=16, multipliers=(1, 2), blocks=1, attention=(1,)).double()
    torch.nn.init.normal_(net.out_conv.weight)
    x, t, gradients = (
        torch.randn(1, 1, 8, 8, dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        [],
    )
    for net.checkpointing in (False, True):
        net.zero_grad()
        net(x, t).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_mistakes_are_one_line():
    with pytest.raises(ValueError, match=r"attention levels \[2\] must lie in 0..1"):
        SongUNet(1, width=16, multipliers=(1, 2), attention=(2,))
    net = SongUNet(1, width=16, multipliers=(1, 2), blocks=1, classes=3)
    with pytest.raises(ValueError, match="height and width must be multiples of 2"):
        net(torch.zeros(1, 1, 9, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="class labels must lie in 0..2"):
        net(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.tensor([3]))
    with torch.no_grad():
        assert torch.equal(
            net(torch.zeros(1, 1, 8, 8), torch.zeros(1)),
            net(torch.zeros(1, 1, 8, 8), torch.zeros(1), None),
        )
