"""Checkpoints: the newest whole one is read, nothing in it runs; and the signals that ask a run to stop."""

import logging
import os
import pickle
import signal
import time

import pytest
import torch

from rank_increase.ownership import NotOwner
from rank_increase.training.checkpoints import KEPT, SIGNALS, Checkpoints, StopRequest
from runs import Sole


def test_checkpoints_hold_nothing_that_runs(tmp_path):
    Checkpoints(tmp_path, "key", Sole().check).save(1, {"model": print})
    with pytest.raises(pickle.UnpicklingError, match="print"):
        Checkpoints(tmp_path, "key", Sole().check).load()


@pytest.fixture
def checkpoints(tmp_path):
    """With states after steps 1 to 12, of which the newest are kept."""
    made = Checkpoints(tmp_path / "checkpoints", "key", Sole().check)
    for step in range(1, 13):
        made.save(step, {"step": step, "model": {"weight": torch.full((3,), step / 7)}})
    return made


def test_newest_states_are_kept_and_the_newest_is_read(checkpoints):
    steps = [int(path.name.split("_")[1]) for path in sorted(checkpoints.folder.iterdir())]
    assert steps == list(range(13 - KEPT, 13))
    state = checkpoints.load()
    assert state["step"] == 12
    torch.testing.assert_close(state["model"]["weight"], torch.full((3,), 12 / 7), rtol=0, atol=0)


def test_states_that_are_rejected_are_deleted_and_older_ones_asked_for(checkpoints):
    asked = []
    assert checkpoints.load(lambda state: asked.append(state["step"]) or state["step"] < 12)["step"] == 11
    assert asked == [12, 11]
    assert [path.name.split("_")[1] for path in checkpoints.folder.iterdir()] == ["0000000011"]
    assert checkpoints.load(lambda state: False) is None
    assert not checkpoints.folder.exists()


def test_states_of_another_key_are_deleted(checkpoints, caplog):
    with caplog.at_level(logging.INFO, "rank_increase"):
        assert Checkpoints(checkpoints.folder, "another key", Sole().check).load() is None
    assert "settings, data or code have changed" in caplog.text
    assert not checkpoints.folder.exists()


def test_what_a_killed_process_left_half_written_is_deleted(checkpoints):
    (checkpoints.folder / ".4711.partial").write_bytes(b"half")
    assert checkpoints.load()["step"] == 12
    assert not list(checkpoints.folder.glob(".*"))


def test_process_that_is_not_the_owner_any_more_changes_nothing(checkpoints):
    def taken_over():
        raise NotOwner

    before = sorted(checkpoints.folder.iterdir())
    other = Checkpoints(checkpoints.folder, "another key", taken_over)
    with pytest.raises(NotOwner):
        other.load()
    with pytest.raises(NotOwner):
        other.save(13, {"step": 13})
    assert sorted(checkpoints.folder.iterdir()) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_a_reason_to_stop_and_given_back_afterwards(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert stop.reason == f"received {signal.Signals(number).name}"
    assert signal.getsignal(number) == before


def test_second_sigint_interrupts_at_once():
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("seconds", "ends"), [(100, True), (1000, False)])
def test_end_of_a_slurm_job_is_a_reason_to_stop_two_minutes_before(monkeypatch, seconds, ends):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + seconds))
    assert StopRequest().reason == ("the SLURM job is about to end" if ends else None)
