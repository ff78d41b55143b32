"""Which rows a training sees and in which order: subjects balanced, ranks disjoint, an epoch gone on with."""

import pytest
import torch

from data.datamodule import ManifestData
from data.epoch import AGAIN, EpochSampler, fair

SUBJECTS = ["a"] * 16 + ["b"] * 4 + ["c"]


@pytest.mark.parametrize("balance, shares", [(0, [16, 4, 1]), (0.5, [4, 2, 1]), (1, [1, 1, 1])])
def test_shares_grow_as_rows_to_one_minus_balance(balance, shares):
    weights = fair(SUBJECTS, balance)
    found = torch.tensor([sum(w for w, s in zip(weights, SUBJECTS) if s == name) for name in "abc"])
    torch.testing.assert_close(found / found.sum(), torch.tensor(shares) / sum(shares))


def sampler(
    rank: int = 0, ranks: int = 1, epoch: int = 3, rows: int = len(SUBJECTS), skip: int = 0
) -> EpochSampler:
    made = EpochSampler(range(rows), ranks, rank, shuffle=True, seed=5, drop_last=False)
    made.weights, made.skip = fair((SUBJECTS * rows)[:rows], 0.5), skip
    made.set_epoch(epoch)
    return made


def test_weighted_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(1)
    first = list(sampler())
    torch.manual_seed(2)
    torch.rand(7)
    assert list(sampler()) == first and {view % AGAIN for _, view in first} == {3}
    assert [row for row, _ in sampler(epoch=4)] != [row for row, _ in first]
    state = torch.get_rng_state()
    list(sampler())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_row_drawn_twice_in_an_epoch_is_varied_twice():
    views = list(sampler(rows=22))
    assert len({row for row, _ in views}) < len(views) == len(set(views))


def test_ranks_share_one_draw_and_a_resumed_epoch_skips():
    whole = list(sampler(rows=22))
    shared = [list(sampler(rank, 2, rows=22)) for rank in range(2)]
    assert [pair for both in zip(*shared) for pair in both] == whole
    assert list(sampler(1, 2, rows=22, skip=8)) == shared[1][4:]


def test_rows_are_drawn_as_often_as_their_weights_say():
    drawn = torch.tensor([row for epoch in range(400) for row, _ in sampler(epoch=epoch)])
    for name, share in zip("abc", (4 / 7, 2 / 7, 1 / 7)):
        of_subject = torch.tensor([s == name for s in SUBJECTS])[drawn].float().mean()
        assert abs(float(of_subject) - share) < 4 * (share * (1 - share) / len(drawn)) ** 0.5, name


def test_rows_without_a_subject_are_subjects_of_their_own(tmp_path):
    import tiny

    tiny.scans(tmp_path, 3)
    (tmp_path / "train.csv").write_text("path,subject\nscan0.png,a\nscan1.png,a\nscan2.png,\n")
    loader = ManifestData(str(tmp_path / "train.csv"), balance=1.0).train_dataloader()
    assert loader.sampler.weights.tolist() == [0.5, 0.5, 1.0]
    with pytest.raises(ValueError, match="balance 2.0 must lie between 0"):
        ManifestData(balance=2.0)
