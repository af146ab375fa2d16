"""Reading ahead: the next items are made in a thread while the caller works on the one before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Made(Generic[T]):
    """An item, or the error that was raised instead of one; neither at the end."""

    items: tuple[T, ...] = ()
    error: BaseException | None = None


class ReadAhead(Iterator[T]):
    """Iterator over items that a thread of its own makes ahead of the caller, in their order.

    What is raised where an item is made is raised where it would have been given out, after the items before it. Use
    it with `contextlib.closing`: however the block ends, by an error, Ctrl-C or a signal, the thread has ended too.

    Args:
        items: iterated over in the thread, from now on.
        depth: items that are made, or being made, beyond the one that the caller has; bounds the memory.
        discard: called with every item that was made and not given out, when this is closed.

    Example:
        >>> from contextlib import closing
        >>> from medpretrain3d.inference.read_ahead import ReadAhead
        >>> with closing(ReadAhead((number**2 for number in range(4)), depth=2)) as squares:
        ...     list(squares)
        [0, 1, 4, 9]
    """

    def __init__(self, items: Iterable[T], depth: int, discard: Callable[[T], object] | None = None) -> None:
        self._items = items
        self._discard = discard
        self._room = threading.Semaphore(depth)
        self._made: SimpleQueue[_Made[T]] = SimpleQueue()
        self._is_closed = False
        # A daemon: where it is not closed, as after a second Ctrl-C, the program ends all the same.
        self._thread = threading.Thread(target=self._read, name="read ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._is_closed:
            raise StopIteration
        made = self._made.get()
        if made.items:
            self._room.release()  # the caller is done with the item before
            return made.items[0]
        self._made.put(_Made())  # whoever asks again
        if made.error is not None:
            raise made.error
        raise StopIteration

    def close(self) -> None:
        """End the thread once it has made the item that it is at; nothing is given out any more."""
        self._is_closed = True
        self._room.release()
        self._made.put(_Made())  # wakes another thread that waits for an item
        self._thread.join()
        while not self._made.empty():
            for item in self._made.get().items:
                if self._discard is not None:
                    self._discard(item)
        # What woke others may just have been taken out: a thread that was about to wait would wait for ever.
        self._made.put(_Made())

    def _read(self) -> None:
        end: _Made[T] = _Made()
        try:
            items = iter(self._items)
            try:
                self._make(items)
            finally:
                if isinstance(items, Generator):
                    items.close()
        except BaseException as error:
            end = _Made(error=error)
        self._made.put(end)

    def _make(self, items: Iterator[T]) -> None:
        while True:
            self._room.acquire()
            if self._is_closed:
                return
            try:
                item = next(items)
            except StopIteration:
                return
            self._made.put(_Made((item,)))
            del item  # it is the caller's now, and so is its memory
