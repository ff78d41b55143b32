"""Randomness belongs to images."""

import random

import numpy as np
import pytest
import torch

from data.seeding import Noise, digest


def test_digest_is_the_same_everywhere():
    # SHA-256 of "0\x1fa\x1f0\x1fsolver", first 8 bytes, without the lowest bit; computed once by hand with sha256sum
    assert digest(0, "a", 0, "solver") == int("f96907bd41c4a10a", 16) >> 1


def test_an_image_does_not_depend_on_its_batch():
    together = Noise(["a", "b", "c"], "solver").normal((3, 2, 5))
    alone = torch.cat([Noise([i], "solver").normal((1, 2, 5)) for i in "abc"])
    assert torch.equal(together, alone)
    assert torch.equal(Noise(["c", "a"], "solver").normal((2, 2, 5)), alone[[2, 0]])


def test_streams_differ_by_every_part_of_the_seed():
    draws = [
        Noise(["a"], "solver").normal((1, 8)),
        Noise(["b"], "solver").normal((1, 8)),
        Noise(["a"], "noise").normal((1, 8)),
        Noise(["a"], "solver", run_seed=1).normal((1, 8)),
        Noise(["a"], "solver", samples=[1]).normal((1, 8)),
    ]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert not torch.equal(one, other)


def test_float32_is_rounded_float64():
    exact = Noise(["a"], "solver").normal((1, 100), torch.float64)
    assert torch.equal(Noise(["a"], "solver").normal((1, 100)), exact.float())


def test_global_state_is_untouched():
    before = (torch.get_rng_state().clone(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    noise = Noise(["a", "b"], "mask")
    noise.normal((2, 3))
    noise.of("kernel").uniform((2, 3))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="3 rows of noise but there are 2"):
        Noise(["a", "b"], "mask").normal((3, 1))
    with pytest.raises(ValueError, match="not one of"):
        Noise(["a"], "masks")
    with pytest.raises(ValueError, match="2 ids but 1"):
        Noise(["a", "b"], "mask", samples=[0])
