"""In which order a process that is told to end says so to the others."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.engine.ending import Ending
from medpretrain3d.interruption import signals


@pytest.mark.parametrize("rank", [0, 1])
def test_the_signal_is_told_before_the_last_word_after_which_nobody_listens(monkeypatch, rank):
    told: list[str] = []
    ending = Ending()
    peers: Any = SimpleNamespace(tell=lambda news, but=None: told.append(news.kind))
    ending._peers = peers
    ending._first_is_done.set()
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    monkeypatch.setattr(signals, "farewell", lambda signum: "")
    monkeypatch.setattr(signals, "exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit) as ended:
        ending.interrupted(signal.SIGTERM)
    assert ended.value.code == 143
    assert told == ["signal", "done"]
