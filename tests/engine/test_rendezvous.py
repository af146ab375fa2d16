"""Processes that find each other, that do not come, and that fail before."""

from __future__ import annotations

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from medpretrain3d.engine.rendezvous import VARIABLE, Declined, Rendezvous, rendezvous_s
from medpretrain3d.errors import UserError

HOST = "127.0.0.1"


@pytest.fixture
def threads():
    with ThreadPoolExecutor() as pool:
        yield pool


def first_of(world_size: int) -> Rendezvous:
    first = Rendezvous(HOST, 0, 0, world_size)
    first._host()  # chooses its port
    return first


def other(first: Rendezvous, rank: int) -> Rendezvous:
    return Rendezvous(HOST, first.port, rank, first.world_size)


def wait_for(first: Rendezvous, rank: int) -> None:
    while not first._host().check([f"came/{rank}"]):
        time.sleep(0.01)


def declined(future: Future[None]) -> tuple[int, str]:
    with pytest.raises(Declined) as caught:
        future.result()
    return caught.value.code, caught.value.text


def test_all_meet(threads):
    first = first_of(3)
    others = [threads.submit(other(first, rank).meet, 60) for rank in (1, 2)]
    first.meet(60)
    assert [one.result() for one in others] == [None, None]


def test_the_first_names_those_that_do_not_come_and_sends_the_others_home(threads):
    first = first_of(4)
    second = threads.submit(other(first, 1).meet, 60)
    wait_for(first, 1)
    with pytest.raises(UserError) as caught:
        first.meet(0.0)
    said = f"waited 0 s at {HOST}:{first.port} (MASTER_ADDR, MASTER_PORT) for 2 of 4 processes that did not come: 2, 3;"
    assert said in str(caught.value)
    assert declined(second) == (2, str(caught.value))


def test_a_process_names_the_address_at_which_nobody_is():
    with socket.socket() as taken:
        taken.bind((HOST, 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"process 3 of 4 waited 0 s for process 0 at {HOST}:{port}"):
            Rendezvous(HOST, port, 3, 4).meet(0.1)


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"{HOST}:{port} .* cannot be opened .*; wanted .* a free port"):
            Rendezvous(HOST, port, 0, 2).meet(60)


def test_a_failure_of_any_process_ends_all(threads):
    first = first_of(3)
    second = threads.submit(other(first, 1).meet, 60)
    third = threads.submit(other(first, 2).decline, 2, "error: no store on this node")
    with pytest.raises(Declined) as caught:
        first.meet(60)
    assert (caught.value.code, caught.value.text) == (2, "error: no store on this node")
    assert declined(second) == (2, "error: no store on this node")
    assert third.result() is True


def test_a_failure_of_the_first_one_ends_the_others(threads):
    first = first_of(3)
    others = [threads.submit(other(first, rank).meet, 60) for rank in (1, 2)]
    assert first.decline(2, "error: this run is finished") is True
    assert [declined(one) for one in others] == [(2, "error: this run is finished")] * 2


@pytest.mark.parametrize("text", ["0", "-5", "soon", "nan"])
def test_the_time_is_a_number_of_seconds(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=rf"{VARIABLE}: got '{text}', wanted a number of seconds > 0"):
        rendezvous_s()
