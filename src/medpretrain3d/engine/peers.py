"""Messages between the processes of a run when they cannot wait for each other: why one of them ends."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Client, Connection, Listener, wait
from typing import Literal

import lightning as L


@dataclass(frozen=True)
class News:
    """Why a process ends, or is about to."""

    kind: Literal["signal", "failure", "lost", "done"]
    """Told to end by a signal; failed; gone without a word; at its end as it should be."""
    rank: int
    code: int = 0
    """The signal, or the exit code."""
    text: str = ""
    """What the user reads; empty where it was printed already."""
    is_sequel: bool = False
    """Failed because another process did not answer, which has its own reason."""


class Peers:
    """A line from each process to the first one, beside the collectives.

    A collective ends only when every process takes part in it. Who fails, is told to end, or sees a line break (the
    kernel closes the lines of a process that is killed) says so here, in a thread of its own, and all hear of it.

    Args:
        rank: of this process.
        lines: to every other process on the first one, to the first one on the others.
        on_news: called in the listening thread with what another process said.
    """

    def __init__(self, rank: int, lines: dict[int, Connection], on_news: Callable[[News], None]) -> None:
        self.rank = rank
        self._lines = lines
        self._on_news = on_news
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="peers").start()

    @classmethod
    def connect(cls, trainer: L.Trainer, on_news: Callable[[News], None]) -> Peers:
        """Connect the processes of a trainer; a collective call."""
        rank, is_one_node = trainer.global_rank, trainer.num_nodes == 1
        if rank == 0:
            key = secrets.token_bytes(32)
            with Listener(("127.0.0.1" if is_one_node else "", 0), backlog=trainer.world_size, authkey=key) as listener:
                trainer.strategy.broadcast((listener.address[1], key.hex()))
                lines: dict[int, Connection] = {}
                while len(lines) < trainer.world_size - 1:
                    line = listener.accept()
                    lines[int(line.recv_bytes())] = line
            return cls(rank, lines, on_news)
        place: tuple[int, str] = trainer.strategy.broadcast((0, ""))
        port, hex_key = place
        host = "127.0.0.1" if is_one_node else os.environ["MASTER_ADDR"]
        line = Client((host, port), authkey=bytes.fromhex(hex_key))
        line.send_bytes(str(rank).encode())
        return cls(rank, {0: line}, on_news)

    def tell(self, news: News, but: int | None = None) -> None:
        """Say something to all that this process has a line to, but to one."""
        message = json.dumps(asdict(news)).encode()
        with self._lock:
            for rank, line in self._lines.items():
                if rank != but:
                    with suppress(OSError):  # gone; the thread sees it too
                        line.send_bytes(message)

    def _listen(self) -> None:
        open_lines = dict(self._lines)
        while open_lines:
            for rank, line in list(open_lines.items()):
                if line not in wait(list(open_lines.values()), timeout=0.5):
                    continue
                try:
                    news = News(**json.loads(line.recv_bytes()))
                except (EOFError, OSError):
                    news = News("lost", rank)
                if news.kind in ("lost", "done"):
                    del open_lines[rank]
                self._on_news(news)
