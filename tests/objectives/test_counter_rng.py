from __future__ import annotations

import numpy as np
import torch

from medpretrain3d.objectives.counter_rng import CounterRNG
from medpretrain3d.randomness import counter_random, to_uniform


def test_the_cpu_draws_the_numbers_that_a_device_would():
    for seed in (0, 7, 2**63 - 1, -5):
        draws, every = CounterRNG(seed), counter_random(torch.tensor([seed]), 60)[0]
        assert draws.bits(5).tolist() == every[:5].tolist()
        np.testing.assert_array_equal(draws.uniform(2, 3), to_uniform(every[5:11]).reshape(2, 3).numpy())
        assert torch.equal(draws.noise((3, 4), torch.device("cpu")), to_uniform(every[11:23]).reshape(3, 4))
        assert draws.integers(2, 9, 4).tolist() == (2 + (every[23:27] & (2**63 - 1)) % 8).tolist()
        assert draws.bernoulli(0.4) == bool(to_uniform(every[27]) < 0.4)
        assert draws.integer(3, 3) == 3
        assert draws.position == 29


def test_a_number_and_a_tensor_are_the_same_seed():
    assert CounterRNG(3).bits(4).tolist() == CounterRNG(torch.tensor(3)).bits(4).tolist()
