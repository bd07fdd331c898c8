"""What is said of failed jobs, from logs as Snakemake 9.27 and its SLURM plugin 2.8 write them."""

import pytest

from rank_increase.failures import describe_failures

SUBMISSION = """\
[Sun Nov 22 08:37:42 2026]
Error in rule train_vit:
    message: SLURM sbatch failed. The error message was 'sbatch: error: {said}
sbatch: error: Batch job submission failed: {said}'.
    sbatch call:
        sbatch --parsable -A out_of_memory -p nosuch -t 720 --wrap="python -m snakemake --retries 0"
For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: {job}
    output: results/s/vit/digits/alpha_1/seed_{job}/metrics.parquet, results/s/vit/digits/alpha_1/seed_{job}/snapshots
    log: {folder}/job_{job}.log (check log file(s) for error details)
"""
STATUS = """\
[Sun Nov 22 08:40:28 2026]
Error in rule train_vit:
    message: SLURM-job '10' failed, SLURM status is: '{said}'. Detailed failure reason unavailable (status command is \
not 'sacct').For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: {job}
    output: results/s/vit/digits/alpha_1/seed_{job}/metrics.parquet, results/s/vit/digits/alpha_1/seed_{job}/snapshots
    log: {folder}/job_{job}.log, {folder}/10.log (check log file(s) for error details)
    external_jobid: 10
"""

GROUP = """\
[Sun Nov 22 09:30:05 2026]
    message: Error in group toy
{log}    jobs:
        rule make_problem:
            jobid: 13
            output: results/s/toy/diagonal/seed_99/problem.npz
            log: {folder}/job_13.log (check log file(s) for error details)
    [Sun Nov 22 09:30:05 2026]
    Error in rule make_problem:
        message: None
        jobid: 13
        output: results/s/toy/diagonal/seed_99/problem.npz
        log: {folder}/job_13.log (check log file(s) for error details)
"""


@pytest.fixture
def said(tmp_path):
    """What is said of a run with these errors, and with these logs of its jobs."""

    def describe_run(*blocks, **logs):
        for name, text in logs.items():
            (tmp_path / f"{name.removeprefix('n')}.log").write_text(text)
        (tmp_path / "snakemake.log").write_text("Select jobs to execute...\n" + "".join(blocks) + "Shutting down\n")
        return describe_failures([tmp_path / "snakemake.log"])

    return describe_run


@pytest.fixture
def block(tmp_path):
    def fill(template, words, job=1):
        return template.format(said=words, job=job, folder=tmp_path)

    return fill


@pytest.mark.parametrize(
    ("template", "words", "why", "advice"),
    [
        (
            SUBMISSION,
            "Invalid partition name specified",
            "partition that it asks for does not exist",
            "slurm_partition",
        ),
        (SUBMISSION, "Invalid account or account/partition combination specified", "account", "slurm_account"),
        (SUBMISSION, "Requested node configuration is not available", "no node of the partition", "vit.hardware"),
        (SUBMISSION, "Requested time limit is invalid", "more time than the partition", "`runtime`"),
        (STATUS, "OUT_OF_MEMORY", "more memory than", "mem_mb"),
        (STATUS, "TIMEOUT", "its time was up", "same command"),
        (STATUS, "NODE_FAIL", "its node failed", "same command"),
        (STATUS, "CANCELLED", "it was cancelled", "same command"),
        (STATUS, "FAILED", "it does not say why", "its log"),
    ],
)
def test_a_failure_is_said_with_its_reason_and_what_to_do(said, block, template, words, why, advice):
    first, reason, do, *_ = said(block(template, words)).splitlines()
    assert first == "FAILED: train_vit for results/s/vit/digits/alpha_1/seed_1/metrics.parquet"
    assert reason.startswith("  why:  ")
    assert why in reason
    assert do.startswith("  do:   ")
    assert advice in do


def test_jobs_that_failed_for_one_reason_are_told_of_once_and_with_their_last_attempt_only(said, block):
    blocks = [block(STATUS, "TIMEOUT", job) for job in (1, 2, 3, 1, 2, 3)]
    text = said(*blocks, block(STATUS, "CANCELLED", 4))
    assert [line for line in text.splitlines() if line.startswith("FAILED")] == [
        "FAILED: train_vit for results/s/vit/digits/alpha_1/seed_1/metrics.parquet, and 2 more jobs",
        "FAILED: train_vit for results/s/vit/digits/alpha_1/seed_4/metrics.parquet",
    ]
    assert said(block(STATUS, "CANCELLED", 1), block(STATUS, "TIMEOUT", 1)).count("why") == 1


def test_a_job_that_succeeded_in_the_end_is_not_told_of(said, block):
    assert said(block(STATUS, "CANCELLED", 7), "Finished jobid: 7 (Rule: train_vit)\n") == ""
    assert "FAILED" in said(block(STATUS, "CANCELLED", 7), "Finished jobid: 70 (Rule: train_vit)\n")


def test_the_last_line_of_a_log_is_the_reason_where_slurm_knows_none(said, block, tmp_path):
    log = 'goes on\n12:00:00 failed\nTraceback (most recent call last):\n  File "x"\nRuntimeError: torch sees no GPU.\n'
    text = said(block(STATUS, "FAILED"), job_1=log, n10="Error in rule train_vit\n")
    assert "  why:  torch sees no GPU\n" in text
    assert f"  log:  {tmp_path}/job_1.log\n  log:  {tmp_path}/10.log" in text
    running = said(block(STATUS, "FAILED"), job_1="12:00:00 train_vit: 12 % done\n")
    assert "it does not say why" in running


@pytest.mark.parametrize(
    "logs",
    [
        {"n10": "slurmstepd: error: Detected 1 oom_kill event in StepId=10.batch.\n"},
        {"job_1": "Traceback (most recent call last):\nnumpy._core._exceptions._ArrayMemoryError: Unable\n"},
        {"job_1": "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory. Tried\n"},
    ],
)
def test_lack_of_memory_is_seen_in_the_logs_too(said, block, logs):
    assert "more memory than" in said(block(STATUS, "FAILED"), **logs)


def test_a_killed_process_is_told_from_a_killed_job(said, block):
    log = "Command 'set -euo pipefail;  python train_vit.py' died with <Signals.SIGKILL: 9>.\nslurmstepd-n1: error: x\n"
    assert "it was killed" in said(block(STATUS, "FAILED"), n10=log)
    assert "its time was up" in said(block(STATUS, "TIMEOUT"), n10=log)
    assert "it was interrupted" in said(block(STATUS, "FAILED"), n10=log.replace("SIGKILL: 9", "SIGTERM: 15"))
    assert "it does not say why" in said(block(STATUS, "FAILED"), n10=log.replace("SIGKILL: 9", "SIGUSR1: 10"))


def test_a_run_that_was_warned_of_its_end_too_often_is_one_out_of_time(said, block):
    log = "12:00:00 ViT: received SIGURG; the state after step 5 is saved, and the same command goes on from there.\n"
    assert "its time was up" in said(block(STATUS, "FAILED"), job_1=log)
    assert "make room" in said(block(STATUS, "FAILED"), job_1=log.replace("SIGURG", "SIGTERM"))


EXCEPTION = """\
RuleException:
CalledProcessError in file "/w/workflow/rules/vit.smk", line 41:
Command 'set -euo pipefail;  python /w/tmp.train_vit.py' {how}.
"""


def test_what_snakemake_says_before_its_error_counts(said, block):
    failed = block(STATUS, "FAILED")
    for how, why in (
        ("died with <Signals.SIGINT: 2>", "it was interrupted"),
        ("died with <Signals.SIGTERM: 15>", "it was interrupted"),
        ("died with <Signals.SIGKILL: 9>", "it was killed"),
        ("returned non-zero exit status 1", "it does not say why"),
    ):
        assert f"  why:  {why}" in said(EXCEPTION.format(how=how), failed)
    # That of one job says nothing of another.
    text = said(EXCEPTION.format(how="died with <Signals.SIGINT: 2>"), failed, block(STATUS, "FAILED", 2))
    assert text.count("FAILED") == 2 and "it does not say why" in text


def test_a_run_that_was_interrupted_between_jobs_says_so(said, block):
    note = "Terminating processes on user request, this might take some time.\n"
    assert said(note) == "The run was interrupted: run the same command again, and it resumes."
    assert "it was interrupted" in said(note, block(STATUS, "FAILED"))
    log = "Traceback (most recent call last):\nRuntimeError: torch sees no GPU.\n"
    assert "torch sees no GPU" in said(note, block(STATUS, "FAILED"), job_1=log)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("failed: the disk is full: results/x.png cannot be written", "the disk is full: results/x.png cannot be"),
        ("failed: there is no permission: x.png cannot be written", "there is no permission: x.png cannot be"),
        ("interrupted by SIGTERM", "it was interrupted"),
        ("run: received SIGINT; the state after step 3 is saved, and the same command goes on", "it was interrupted"),
    ],
)
def test_reasons_without_a_traceback_are_seen(said, block, end, why):
    assert f"  why:  {why}" in said(block(STATUS, "FAILED"), job_1=f"12:00:00 {end}\n")


def test_jobs_that_the_same_disk_stopped_come_together(said, block):
    full = "12:00:00 failed: the disk is full: results/{}.png cannot be written\n"
    text = said(*(block(STATUS, "FAILED", n) for n in (1, 2)), job_1=full.format(1), job_2=full.format(2))
    assert text.count("FAILED") == 1 and "and 1 more job" in text and "results/1.png" in text


def test_groups_are_told_of_from_their_logs(said, tmp_path):
    (tmp_path / "slurm_logs").mkdir()
    log = tmp_path / "slurm_logs" / "48.log"
    log.write_text("slurmstepd-vm: error: *** JOB 48 ON vm CANCELLED AT 2026-11-22T09:11:22 DUE TO TIME LIMIT ***\n")
    group = GROUP.format(folder=tmp_path, log=f"    log: {log} (check log file(s) for error details)\n")
    first, why, *_ = said(group).splitlines()
    assert first == "FAILED: group toy for results/s/toy/diagonal/seed_99/problem.npz"
    assert "its time was up" in why
    log.write_text("slurmstepd-vm: error: *** JOB 48 ON vm CANCELLED AT 2026-11-22T09:11:22 ***\n")
    assert "it was cancelled" in said(group)
    log.write_text("At least one job did not complete successfully.\n")
    assert "why:  no such file" in said(group, job_13="Traceback (most recent call last):\nOSError: no such file\n")
    assert said(group, "Finished jobid: 13 (Rule: make_problem)\n") == ""


def test_a_group_that_slurm_did_not_take_is_told_of(said, tmp_path):
    assert "sbatch --test-only" in said(GROUP.format(folder=tmp_path, log=""))


def test_a_log_without_failed_jobs_gives_nothing(said):
    assert said("MissingInputException\n") == ""
