from __future__ import annotations

import pytest

from medpretrain3d.schedules import cosine, linear


def test_a_cosine_and_a_line_by_hand():
    assert [cosine(1.0, 3.0, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 2.0, 3.0])
    assert cosine(1.0, 0.0, 1 / 3) == pytest.approx(0.75)
    assert [linear(0.04, 0.07, share) for share in (-1.0, 0.5, 2.0)] == pytest.approx([0.04, 0.055, 0.07])
    assert cosine(0.3, 0.3, 0.4) == 0.3
