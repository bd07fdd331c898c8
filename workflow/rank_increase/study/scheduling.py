"""A workaround for a fault of Snakemake's scheduler."""

import threading


def pass_once_at_a_time():
    """Let Snakemake's scheduler have one timer for its next pass, not one more with each job that ends.

    With a limit of jobs per timespan, as by default, every pass of the scheduler's loop starts a timer for another pass
    a second later, and each job that ends adds a pass. So passes per second grow with the number of jobs done. In a
    study of 1,795 jobs on two cores, after 440 of them, the loop took 0.75 of a core and had hundreds of threads
    (Snakemake 9.27.1).
    """
    try:
        from snakemake.scheduling.job_scheduler import JobScheduler
    except ImportError:  # another version of Snakemake, with a scheduler elsewhere
        return

    def schedule_pass(self, delay):
        if getattr(self, "_pass_is_due", False):
            return

        def begin():
            self._pass_is_due = False
            self._open_jobs.release()

        self._pass_is_due = True
        timer = threading.Timer(delay, begin)
        timer.daemon = True  # Snakemake need not wait for it when it is done
        timer.start()

    if hasattr(JobScheduler, "_schedule_reevalutation"):
        JobScheduler._schedule_reevalutation = schedule_pass
