from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from medpretrain3d.loading.batches import PositionBatches, generator_at, shuffled


def test_batches_written_out():
    assert list(PositionBatches(2, 3)) == [[0, 1], [2, 3], [4, 5]]


def test_two_processes_share_what_one_process_sees():
    one = list(PositionBatches(4, 3))
    two = [list(PositionBatches(2, 3, rank, 2)) for rank in (0, 1)]
    assert [left + right for left, right in zip(*two, strict=True)] == one


def test_resuming_goes_on_where_it_stopped_and_keeps_the_length():
    whole = list(PositionBatches(3, 5))
    rest = PositionBatches(3, 5, first_batch=2)
    assert list(rest) == whole[2:]
    assert len(rest) == 5


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_pass_visits_every_item_once_in_another_order(count):
    passes = [[shuffled(5, start * count + i, count) for i in range(count)] for start in range(6)]
    assert all(sorted(visited) == list(range(count)) for visited in passes)
    assert count < 7 or len({tuple(visited) for visited in passes}) == 6


def test_random_numbers_are_a_function_of_seed_and_position():
    a, b = generator_at(1, 10).random(4), generator_at(1, 10).random(4)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, generator_at(1, 11).random(4))
    assert not np.array_equal(a, generator_at(2, 10).random(4))


class _Drawn(Dataset):
    """Items that draw from (seed, position) as crops do."""

    def __getitem__(self, position: int) -> float:
        return float(generator_at(7, position).random())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_resumed_in_the_middle_of_a_pass_sees_what_an_uninterrupted_one_sees(world_size, num_workers):
    def seen(rank: int, first_batch: int, workers: int) -> list[list[float]]:
        batches = PositionBatches(2, 6, rank, world_size, first_batch)
        return [batch.tolist() for batch in DataLoader(_Drawn(), batch_sampler=batches, num_workers=workers)]

    for rank in range(world_size):
        whole = seen(rank, 0, workers=0)
        assert len(whole) == 6
        assert seen(rank, 4, num_workers) == whole[4:]  # 4 of 6 batches were done
