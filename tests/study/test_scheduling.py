"""The mend of Snakemake's scheduler: one timer at a time, and the scheduler goes on after it."""

import threading
import time
from types import SimpleNamespace

from snakemake.scheduling.job_scheduler import JobScheduler

from rank_increase.study.scheduling import pass_once_at_a_time


def passes(semaphore):
    count = 0
    while semaphore.acquire(blocking=False):
        count += 1
    return count


def test_one_timer_at_a_time(monkeypatch):
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", JobScheduler._schedule_reevalutation)
    pass_once_at_a_time()
    scheduler, threads = SimpleNamespace(_open_jobs=threading.Semaphore(0)), threading.active_count()
    for _ in range(2):  # the second time, once the first timer has ended
        for _ in range(50):
            JobScheduler._schedule_reevalutation(scheduler, 0.2)
        assert threading.active_count() == threads + 1
        assert all(thread.daemon for thread in threading.enumerate() if isinstance(thread, threading.Timer))
        assert scheduler._open_jobs.acquire(timeout=60)
        while threading.active_count() > threads:
            time.sleep(0.01)
        assert passes(scheduler._open_jobs) == 0


def test_another_snakemake_is_left_alone(monkeypatch):
    monkeypatch.delattr(JobScheduler, "_schedule_reevalutation")
    pass_once_at_a_time()
    assert not hasattr(JobScheduler, "_schedule_reevalutation")
