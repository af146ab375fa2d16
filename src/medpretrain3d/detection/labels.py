"""What a prediction is given that belongs to no object.

Matchers return for each prediction the index of its object, losses take its class; both are at least 0, these are not.
"""

from __future__ import annotations

BACKGROUND = -1
"""There is no object: finding one here is wrong."""
IGNORED = -2
"""Neither right nor wrong, and left out of the classification: in an ignore region, or as good as an object's own."""
