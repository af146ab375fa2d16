from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from medpretrain3d.statistics import declaration_sha256, declared_before, registration_note
from medpretrain3d.statistics.registration import Registration

DAY = datetime(2026, 1, 1, 12)
PRIMARY = {"metric": "mAP", "labels": "all"}


def test_the_hash_is_of_what_is_declared():
    first = declaration_sha256(["mae > scratch", "voco = scratch"], PRIMARY, 0.02)
    assert first == declaration_sha256(["voco  = scratch", "mae > scratch"], dict(reversed(PRIMARY.items())), 0.02)
    others = [
        declaration_sha256(["mae > scratch"], PRIMARY, 0.02),
        declaration_sha256(["mae > scratch", "voco = scratch"], {**PRIMARY, "metric": "AP50"}, 0.02),
        declaration_sha256(["mae > scratch", "voco = scratch"], PRIMARY, 0.03),
        declaration_sha256(["mae > scratch", "voco = scratch"], PRIMARY, None),
    ]
    assert len({first, *others}) == 5


def test_a_change_after_results_is_said():
    early, late = Registration("a" * 64, DAY), Registration("b" * 64, DAY + timedelta(days=2))
    result = DAY + timedelta(days=1)
    assert declared_before([early, late], None)
    assert declared_before([early], result)
    assert not declared_before([early, late], result)
    assert registration_note([early], None).endswith("before any result.")
    assert "before the first result of 2026-01-02 12:00." in registration_note([early], result)
    assert "CHANGED 1 time after" in registration_note([late, early], result)
    assert "nothing here was declared beforehand" in registration_note([late], result)
    with pytest.raises(ValueError, match="no registration"):
        registration_note([], result)
