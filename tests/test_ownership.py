"""One owner of a folder: processes that are killed, frozen, or start at once."""

import logging
import multiprocessing
import os
import re
import signal
import socket
import time
from dataclasses import replace

import pytest

from rank_increase import ownership
from rank_increase.ownership import NotOwner, Owner, current_owner, owned

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rank_increase.ownership"])
FAST = {"patience": 30.0, "silence": 0.4, "beat": 0.05}
ELSEWHERE = Owner(host="node7", pid=1, job="4711", machine="another", token="theirs")


def put(folder, number, owner):
    """As if this owner had been there."""
    assert ownership._create(folder, number, owner)


def hold(folder, ready, seconds):
    with owned(folder, "run", **FAST) as mine:
        ready.set()
        time.sleep(seconds)
        mine.check()
        (folder / "result").write_text("by the first")


@pytest.fixture
def holder(tmp_path):
    """Starts a process that owns the folder for some time and then writes to it."""
    started = []

    def start(seconds=60):
        ready = CONTEXT.Event()
        process = CONTEXT.Process(target=hold, args=(tmp_path, ready, seconds))
        process.start()
        started.append(process)
        assert ready.wait(60)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_owner_is_named_in_the_folder_and_leaves_nothing_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with owned(tmp_path / "new", "run") as mine:
        number, owner, beat = current_owner(tmp_path / "new")
        assert (number, owner) == (1, mine.owner) and abs(beat - time.time()) < 60
        assert str(owner) == f"process {os.getpid()} on {owner.host} (Slurm job 12)"
        mine.check()
    assert not list((tmp_path / "new").iterdir())
    assert current_owner(tmp_path / "new") is None


def test_owner_that_fails_leaves_nothing_either(tmp_path):
    with pytest.raises(KeyError), owned(tmp_path, "run"):
        raise KeyError
    assert current_owner(tmp_path) is None


def test_living_owner_is_waited_for(tmp_path, holder, caplog):
    process = holder(1.0)
    with caplog.at_level(logging.INFO, "rank_increase"), owned(tmp_path, "run", **FAST):
        assert (tmp_path / "result").read_text() == "by the first"
    process.join()
    assert process.exitcode == 0
    assert caplog.messages == [
        f"run: process {process.pid} on {socket.gethostname()} may still be at work; waiting 30 s at most"
    ]


def test_living_owner_is_named_when_the_wait_is_over(tmp_path, monkeypatch, caplog):
    put(tmp_path, 1, ELSEWHERE)
    begun, numbers = time.monotonic(), ownership._numbers

    def touched(folder):
        os.utime(tmp_path / "owner.1")
        return numbers(folder)

    monkeypatch.setattr(ownership, "_numbers", touched)
    sentence = (
        f"run: process 1 on node7 (Slurm job 4711) is training this run in {tmp_path}, and two would write over each"
        " other: wait until it is done, or end it (`scancel 4711`) and run the same command again; it then goes on from"
        " the last saved state."
    )
    with pytest.raises(NotOwner, match=re.escape(sentence)), owned(tmp_path, "run", **{**FAST, "patience": 1.0}):
        pass
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [sentence]
    assert 1 < time.monotonic() - begun < 10
    assert [path.name for path in tmp_path.iterdir()] == ["owner.1"]


def test_killed_owner_on_this_machine_is_followed_at_once(tmp_path, holder, caplog):
    process = holder()
    process.kill()
    process.join()
    begun = time.monotonic()
    with caplog.at_level(logging.INFO, "rank_increase"), owned(tmp_path, "run"):
        assert time.monotonic() - begun < 5
        assert [path.name for path in tmp_path.iterdir()] == ["owner.2"]
    assert caplog.messages == [
        f"run: process {process.pid} on {socket.gethostname()} has ended, and this process takes over"
    ]


@pytest.mark.parametrize("damage", [None, "", "{}"])
def test_silent_owner_on_another_machine_is_followed_after_a_while(tmp_path, caplog, damage):
    put(tmp_path, 4, ELSEWHERE)
    if damage is not None:
        (tmp_path / "owner.4").write_text(damage)
    os.utime(tmp_path / "owner.4", (2e9, 2e9))  # by a clock that is years ahead
    begun = time.monotonic()
    with caplog.at_level(logging.INFO, "rank_increase"), owned(tmp_path, "run", **FAST) as mine:
        assert 0.4 <= time.monotonic() - begun < 5
        assert mine.number == 5
    assert "was not heard of for 0.4 s, and this process takes over" in caplog.text


def test_frozen_owner_finds_out_and_does_not_write(tmp_path, holder):
    process = holder(1.5)
    os.kill(process.pid, signal.SIGSTOP)
    with owned(tmp_path, "run", **FAST) as mine:
        os.kill(process.pid, signal.SIGCONT)
        process.join()
        assert process.exitcode == 1
        mine.check()
        assert [path.name for path in tmp_path.iterdir()] == [f"owner.{mine.number}"]


def test_frozen_owner_is_told_so_even_when_its_follower_is_done(tmp_path):
    with owned(tmp_path, "run", **FAST) as mine:
        (tmp_path / "owner.1").unlink()
        with pytest.raises(
            NotOwner, match="^run: this process was not heard of .* ended, by another process; it stops"
        ):
            mine.check()
        put(tmp_path, 1, ELSEWHERE)  # numbers begin anew
        with pytest.raises(NotOwner, match=r"process 1 on node7 \(Slurm job 4711\) has taken the run over"):
            mine.check()
    assert current_owner(tmp_path)[1] == ELSEWHERE


def compete(folder, barrier, rounds, log):
    """Own the folder again and again, together with others; every entry says who it was and whether it was alone."""
    ownership.POLL = 0.01
    for number in range(rounds):
        barrier.wait()
        with owned(folder, "run", patience=60, silence=30, beat=5):
            inside = folder / "inside"
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                alone = True
            except FileExistsError:
                alone = False
            time.sleep(0.002)
            inside.unlink(missing_ok=True)
            with open(log, "a") as file:
                file.write(f"{number} {alone}\n")


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_start_at_once_one_is_owner_at_a_time(tmp_path, dead):
    folder, starters, rounds = tmp_path / "run", 3, 40
    folder.mkdir()
    if dead:  # in the first round, everybody finds the same dead owner first
        gone = CONTEXT.Process(target=time.sleep, args=(0,))
        gone.start()
        gone.join()
        put(folder, 9, replace(Owner.this_process(), pid=gone.pid))
    barrier = CONTEXT.Barrier(starters)
    arguments = (folder, barrier, rounds, tmp_path / "log")
    processes = [CONTEXT.Process(target=compete, args=arguments) for _ in range(starters)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    assert len(lines) == starters * rounds
    assert all(line.endswith("True") for line in lines)
    assert not list(folder.iterdir())


def test_two_that_take_over_at_the_same_time(tmp_path, monkeypatch):
    """Both have found the same dead owner before either makes its file; the slower one then waits for the faster."""
    put(tmp_path, 1, replace(Owner.this_process(), pid=2**22 + 1))
    create, faster = ownership._create, {}

    def overtaken(folder, number, owner):
        if not faster:
            faster["owner"] = Owner.this_process()
            assert create(folder, number, faster["owner"])
        return create(folder, number, owner)

    monkeypatch.setattr(ownership, "_create", overtaken)
    with pytest.raises(NotOwner, match="is training this run"), owned(tmp_path, "run", patience=0.1, silence=5):
        pass
    assert current_owner(tmp_path)[1] == faster["owner"]
