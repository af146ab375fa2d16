from __future__ import annotations

import threading
from contextlib import closing
from queue import SimpleQueue

import pytest

from medpretrain3d.inference.read_ahead import ReadAhead

LONG_S = 30.0
"""A test that fails waits so long; one that passes does not wait."""


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_items_come_in_their_order_and_no_more_are_made_than_the_depth_allows(depth):
    num_made = 0

    def items():
        nonlocal num_made
        for number in range(20):
            num_made += 1
            yield number

    with closing(ReadAhead(items(), depth)) as ahead:
        for num_taken, number in enumerate(ahead, start=1):
            assert number == num_taken - 1
            assert num_made <= num_taken + depth
    assert num_made == 20
    assert not threads()


def test_the_next_item_is_made_while_the_caller_has_the_one_before():
    made = [threading.Event() for _ in range(5)]

    def items():
        for number, event in enumerate(made):
            event.set()
            yield number

    with closing(ReadAhead(items(), 1)) as ahead:
        for number in ahead:
            assert number == 4 or made[number + 1].wait(LONG_S)


def test_an_error_comes_after_the_items_before_it_and_once():
    def items():
        yield "a"
        yield "b"
        raise OSError("the disk is gone")

    with closing(ReadAhead(items(), 5)) as ahead:
        assert [next(ahead), next(ahead)] == ["a", "b"]
        with pytest.raises(OSError, match="the disk is gone") as caught:
            next(ahead)
        assert caught.traceback[-1].name == "items"  # where it was raised, not where it was passed on
        assert next(ahead, "end") == "end"
    assert not threads()


def test_what_cannot_be_iterated_over_is_an_error_of_the_caller():
    with closing(ReadAhead(None, 1)) as ahead, pytest.raises(TypeError):
        next(ahead)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_however_the_block_ends_the_thread_and_the_generator_have_ended(error):
    is_over, discarded = [], []

    def items():
        try:
            yield from range(10**9)
        finally:
            is_over.append(True)

    ahead = ReadAhead(items(), 3, discarded.append)

    def block():
        with closing(ahead):
            assert next(ahead) == 0
            raise error

    with pytest.raises(error):
        block()
    assert not threads()
    assert is_over == [True]
    assert discarded == [1, 2, 3][: len(discarded)]
    assert next(ahead, "end") == "end"


def test_an_item_that_is_being_made_when_it_is_closed_is_discarded():
    is_asked, may_go = threading.Event(), threading.Event()
    discarded = []

    def items():
        is_asked.set()
        may_go.wait(LONG_S)
        yield "late"

    ahead = ReadAhead(items(), 1, discarded.append)
    assert is_asked.wait(LONG_S)
    threading.Timer(0.01, may_go.set).start()
    ahead.close()
    assert discarded == ["late"]
    ahead.close()  # again is nothing
    assert discarded == ["late"]


def test_a_thread_that_waits_for_another_ones_items_is_woken_by_closing_that_one():
    never = threading.Event()

    def blocked():
        yield "first"
        never.wait(LONG_S)

    inner = ReadAhead(blocked(), 1)
    outer = ReadAhead((item for item in inner), 2)
    assert next(outer) == "first"
    threading.Timer(0.01, never.set).start()
    inner.close()
    outer.close()
    assert not threads()


class LateQueue(SimpleQueue):
    """A queue at which all threads but one begin to wait only when they are told to."""

    def __init__(self, prompt: threading.Thread) -> None:
        self.prompt, self.is_asked, self.may_go = prompt, threading.Event(), threading.Event()

    def get(self, *args, **kwargs):
        if threading.current_thread() is not self.prompt:
            self.is_asked.set()
            self.may_go.wait(LONG_S)
        return super().get(*args, **kwargs)


def test_a_thread_that_begins_to_wait_while_another_closes_is_woken_too():
    ahead, found = ReadAhead(iter(()), 1), []
    ahead._thread.join()
    ahead._made = queue = LateQueue(threading.current_thread())
    waiting = threading.Thread(target=lambda: found.append(list(ahead)), daemon=True)
    waiting.start()
    assert queue.is_asked.wait(LONG_S)  # nothing was closed when it looked
    ahead.close()
    queue.may_go.set()
    waiting.join(LONG_S)
    assert found == [[]]
