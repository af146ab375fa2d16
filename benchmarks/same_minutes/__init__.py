"""What a user would pick instead, on the same minutes: MONAI's RetinaNet detector and one of our recipes.

Both learn the same training cases of one store in crops of the same size, on one core in fp32; ours by its program and
recipe, MONAI's by the recipe of its detection tutorial (LUNA16) for the minutes that ours took. Anchors of both fit the
same objects. Both look at the same test cases, and our evaluator scores the boxes in LPS mm.

    python -m benchmarks same_minutes                       the recipe openkbp_short, seed 0
    python -m benchmarks.same_minutes evidence_phantom --fold 0 --seeds 0 1

Minutes are those of a core that does nothing else (CPU time of the process, whose loader is no process of its own);
those by the clock are told beside them. Imports, validation and tests are not counted, snapshots are.
"""

from __future__ import annotations


def report() -> None:
    """Compare both on the default recipe; left out where its store is not there."""
    from benchmarks.same_minutes.__main__ import main

    main([])
