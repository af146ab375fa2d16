"""The second stage at work: candidates of a scan get the scores that both stages together give them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, box_center
from medpretrain3d.inference.candidate_cubes import candidate_cubes
from medpretrain3d.inference.rescorer import Rescorer, combined
from medpretrain3d.inference.scan import ScanTiles
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.names import Precision
from medpretrain3d.store.grid import Grid

CANDIDATES_PER_BATCH = 8


@torch.inference_mode()
def added_log_odds(
    rescorer: Rescorer, found: Detections, tiles: ScanTiles, device: torch.device, precision: Precision
) -> Tensor:
    """Return what a rescorer adds to the log-odds of each candidate of a scan: (N,) float64.

    Args:
        rescorer: on the device, in evaluation mode.
        found: boxes (N, 6) in voxels of the tiles.
        tiles: of the scan.
        device: where it runs.
        precision: in which it runs.
    """
    centers_vox = box_center(found.boxes.double()).numpy()
    result = torch.zeros(len(found), dtype=torch.float64)
    # From the first slice to the last: a scan that is resampled has every slice resampled once.
    for rows in np.array_split(np.argsort(centers_vox[:, 0]), -(-len(found) // CANDIDATES_PER_BATCH) or 1):
        if not len(rows):
            continue
        cubes = [candidate_cubes(tiles, centers_vox[row], rescorer.edges_mm, rescorer.edge_vox) for row in rows]
        with autocast(device, precision):
            said = rescorer(torch.stack(cubes).to(device)).cpu()
        chosen = torch.from_numpy(rows)
        result[chosen] = said.gather(1, found.labels[chosen, None])[:, 0].double()
    return result


def rescored(
    found: Detections,
    grid: Grid,
    members: Sequence[tuple[Rescorer, ScanTiles]],
    device: torch.device,
    precision: Precision,
) -> Detections:
    """Return the detections of a scan with the scores of both stages (float64), best score first; none is left out.

    Args:
        found: merged, of all members' detectors, in voxels of `grid`.
        grid: of the boxes.
        members: those with a second stage, and the scan as each sees it; their log-odds are averaged.
        device: where they run.
        precision: in which they run.
    """
    if not members or not len(found):
        return found
    said = []
    for rescorer, tiles in members:
        boxes = torch.from_numpy(grid.map_boxes(found.boxes.double().numpy(), tiles.grid))
        there = Detections(boxes, found.scores, found.labels)
        said.append(added_log_odds(rescorer, there, tiles, device, precision))
    scores = combined(found.scores, torch.stack(said).mean(dim=0))
    return Detections.cat([Detections(found.boxes, scores, found.labels)])
