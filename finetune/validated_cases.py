"""What the cases that a validation looks at can tell of a detector."""

from __future__ import annotations

from finetune.datamodule import FinetuneData
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.errors import UserError


def check_validated(data: FinetuneData, limit_val_batches: float, chooses_weights: bool) -> None:
    """Refuse to choose weights by nothing, or by what they are tested on; say where there is nothing to measure.

    Raises:
        UserError: `model.weights` is `best`, and there is no validation case, none with an object, or one that is
            tested as well.
    """
    if chooses_weights and not data.val_cases:
        raise UserError("model.weights best: the data have no validation case to choose by; use last")
    is_asked = chooses_weights or data.validated_cases
    if is_asked and not any(sum(ref.counts) for ref in data.validated_cases):
        what = (
            f"none of the {len(data.validated_cases)} cases that a validation looks at (trainer.limit_val_batches "
            f"{limit_val_batches} of {len(data.val_cases)}) holds an object"
        )
        if chooses_weights:
            raise UserError(
                f"model.weights best: {what}, so there is nothing to choose by; raise the limit, or use last"
            )
        rank_zero_print(f"note: {what}, so that validations have no AP; raise the limit to see one")
    tested = {ref.case_id for ref in data.test_cases} if chooses_weights else set()
    if shared := [ref.case_id for ref in data.val_cases if ref.case_id in tested]:
        raise UserError(
            f"model.weights best: {len(shared)} cases validate and are tested (data.test_on held_out), first "
            f"'{shared[0]}', so the choice would be made by the test; use last"
        )
