from typing import Any

import pytest

from benchmarks.short_run import PHASES, Clock, measure_phases


def test_what_it_measures_exists_and_is_of_a_phase_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(clock: Clock, owner: Any, name: str, phase: str, *when: Any) -> None:
        measured.append((callable(getattr(owner, name)), phase in PHASES))

    monkeypatch.setattr(Clock, "measure", measure)
    measure_phases(Clock())
    assert measured
    assert set(measured) == {(True, True)}
