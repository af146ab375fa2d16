"""Branching vessels of the lungs, and the airways that run beside the arteries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpretrain3d.phantom.body import Body
from medpretrain3d.phantom.space import Space
from medpretrain3d.phantom.tubes import along

NUM_TIPS = {"artery": 380, "vein": 280}
TIP_RADIUS_MM = {"artery": 0.75, "vein": 0.65}
PATH_WEIGHT = 0.45
"""How much a short way to the root counts against little vessel in total: 0 meanders, 1 makes a star."""


@dataclass(frozen=True)
class Tree:
    """A vessel tree: `points_mm` (N, 3), the index of each node's parent (the root is its own), radii (N,) in mm."""

    points_mm: np.ndarray
    parents: np.ndarray
    radii_mm: np.ndarray


def grow_tree(root_mm: np.ndarray, targets_mm: np.ndarray, tip_radius_mm: float) -> Tree:
    """Return the tree that reaches every target with little vessel and short ways (Cuntz et al., 2010, greedy).

    Radii follow Murray's law: the cube of a vessel's radius is the sum of its branches' cubes.
    """
    points = np.concatenate([root_mm[None], targets_mm])
    parents = np.zeros(len(points), dtype=np.int64)
    path = np.full(len(points), np.inf)
    cost = np.full(len(points), np.inf)
    is_open = np.ones(len(points), dtype=bool)
    path[0] = cost[0] = 0.0
    order = []
    for _ in range(len(points)):
        newest = int(np.where(is_open, cost, np.inf).argmin())
        is_open[newest] = False
        order.append(newest)
        distance = np.sqrt(((points - points[newest]) ** 2).sum(axis=1))
        new_path = path[newest] + distance
        new_cost = distance + PATH_WEIGHT * new_path
        better = is_open & (new_cost < cost)
        cost[better], path[better], parents[better] = new_cost[better], new_path[better], newest
    has_child = np.zeros(len(points), dtype=bool)
    has_child[parents[1:]] = True
    cubes = np.where(has_child, 0.0, tip_radius_mm**3)
    for node in reversed(order[1:]):  # children were connected after their parents
        cubes[parents[node]] += cubes[node]
    return Tree(points, parents, np.cbrt(cubes))


def grow_lung_vessels(
    space: Space, body: Body, lung: np.ndarray, rng: np.random.Generator
) -> dict[str, list[tuple[int, Tree]]]:
    """Return arteries and veins of both lungs: kind -> [(-1, right tree), (1, left tree)].

    `lung` is (D, H, W) bool. A side without lung voxels (a very coarse grid) has no tree.
    """
    roots = {"artery": body.at(0.54, 0.12, 0.30), "vein": body.at(0.43, 0.18, 0.24)}
    places = space.voxel_center_mm(np.argwhere(lung))
    trees: dict[str, list[tuple[int, Tree]]] = {kind: [] for kind in NUM_TIPS}
    for kind, num_tips in NUM_TIPS.items():
        for side in (-1, 1):
            of_side = places[places[:, 2] * side > 0]
            if len(of_side) == 0:
                continue
            targets = of_side[rng.integers(len(of_side), size=num_tips)]
            targets = targets + (rng.random(targets.shape) - 0.5) * space.spacing_mm
            trees[kind].append((side, grow_tree(roots[kind] * (1, 1, side), targets, TIP_RADIUS_MM[kind])))
    return trees


def tree_balls(tree: Tree, rng: np.random.Generator, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 3) and radii (N,) along all branches, tapered and gently bent."""
    points, radii = [], []
    for node in range(1, len(tree.points_mm)):
        parent = int(tree.parents[node])
        start, end = tree.points_mm[parent], tree.points_mm[node]
        radius = tree.radii_mm[node]
        bend = rng.normal(0, 0.08, 3) * np.sqrt(((end - start) ** 2).sum())
        corners = np.stack([start, (3 * start + end) / 4 + 0.75 * bend, (start + end) / 2 + bend, end])
        first_radius = min(tree.radii_mm[parent], 1.3 * radius)
        on_branch, its_radii = along(corners, np.linspace(first_radius, radius, 4), step_mm)
        points.append(on_branch)
        radii.append(its_radii)
    return np.concatenate(points), np.concatenate(radii)


def bronchi_balls(body: Body, arteries: list[tuple[int, Tree]], step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return lumen of trachea, main bronchi and the bronchi beside larger arteries: points (N, 3) and radii (N,)."""
    carina = body.at(0.63, 0.20, 0.0)
    parts = [along(np.stack([body.at(1.2, 0.12, 0.0), carina]), 8.5, step_mm)]
    for side, tree in arteries:
        aside = np.array([4.0, 2.0, -3.0 * side]) / np.sqrt(29.0)
        parts.append(along(np.stack([carina, tree.points_mm[0] + 8 * aside]), np.array([7.0, 5.0]), step_mm))
        for node in np.flatnonzero(tree.radii_mm > 1.3)[1:]:
            ends = tree.points_mm[[tree.parents[node], node]]
            radii = np.minimum(tree.radii_mm[[tree.parents[node], node]], 1.3 * tree.radii_mm[node])
            parts.append(along(ends + (1.9 * radii + 0.8)[:, None] * aside, 0.85 * radii, step_mm))
    return np.concatenate([points for points, _ in parts]), np.concatenate([radii for _, radii in parts])
