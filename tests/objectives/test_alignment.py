from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.objectives.alignment import carry, cell_centers, sample_at, view_pictures
from tests.tiny_views import two_views

PATCH = (16, 24, 32)


def coordinates(affine: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """A feature map (1, 3, d, h, w) that holds the place of each cell in the frame both views share."""
    places = cell_centers(grid, PATCH, torch.device("cpu"))
    return (places @ affine[:, :3].T + affine[:, 3]).T.reshape(1, 3, *grid)


@pytest.mark.parametrize("grid", [(4, 6, 8), (2, 6, 4)])  # cubes, and cells of 8 x 4 x 8
def test_a_map_of_coordinates_reads_the_same_place_in_both_views(grid):
    augment = SpatialAugment(rotation_p=1, zoom_p=1)
    shared = flipped = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        placements = [augment.draw(random) for _ in range(2)]
        shift = tuple(int(s) for s in random.integers(-8, 9, 3))
        own, other = (
            torch.from_numpy(placement.affine(start, PATCH)).float()
            for placement, start in zip(placements, ((0, 0, 0), shift), strict=True)
        )
        flipped += placements[0].flips != placements[1].flips
        places = cell_centers(grid, PATCH, torch.device("cpu"))[None]
        there = carry(places, own[None], other[None])
        read, inside = sample_at(coordinates(other, grid), there, PATCH)
        expected = coordinates(own, grid).flatten(2).mT
        half_cell = torch.tensor(PATCH) / torch.tensor(grid) / 2
        between = ((there >= half_cell) & (there <= torch.tensor(PATCH) - half_cell)).all(dim=2)
        assert inside[between].all()
        torch.testing.assert_close(read[between], expected[between], atol=1e-3, rtol=0)
        assert not (~inside & between).any()
        shared += int(between.sum())
    assert shared > 300
    assert flipped > 20


def test_places_outside_the_other_view_are_told():
    own, other = torch.eye(3, 4)[None], torch.eye(3, 4)[None].clone()
    other[0, 2, 3] = 16
    _, inside = sample_at(
        torch.zeros(1, 1, 2, 3, 4), carry(cell_centers((2, 3, 4), PATCH, own.device)[None], own, other), PATCH
    )
    assert inside.reshape(2, 3, 4)[0, 0].tolist() == [False, False, True, True]


def test_the_second_view_seen_from_the_first_is_the_first_where_both_see():
    batch = two_views((16, 16, 16))
    pictures = view_pictures(batch)
    seen, first = pictures["view 2 seen from view 1"], pictures["view 1"]
    torch.testing.assert_close(seen[4:, 4:, 4:], first[4:, 4:, 4:])
    assert (seen[:4] == -1).all()
