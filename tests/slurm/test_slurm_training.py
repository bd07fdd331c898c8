"""Whatever happens to the jobs of training runs, their tables are those of undisturbed ones."""

import pytest
import yaml

from cluster import ROOT, SEEDS, assert_same, end_in, log_of, sh, slurm_log, tables, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]
CANCELLED, REQUEUED, WARNED, OUT_OF_TIME, PREEMPTED, PUSHED_BACK = SEEDS
PARTITION = "{4: 'cancel', 5: 'requeue'}.get(int(wildcards.seed), 'main')"


def node(state):
    name = sh("hostname", "-s")
    sh("scontrol", "update", f"NodeName={name}", f"State={state}", *(["Reason=test"] if state == "drain" else []))


def preempt(count):
    """Submit an urgent job that finds no place unless `count` jobs of a core each leave theirs."""
    idle = int(sh("sinfo", "--noheader", "--partition=urgent", "--format=%C").split("/")[1])
    return sh(
        "sbatch", "--parsable", "-p", "urgent", "-c", idle + count, "--mem=1", "-o", "/dev/null", "--wrap", "true"
    )


def test_runs_that_were_cancelled_requeued_preempted_or_out_of_time_end_as_if_undisturbed(
    undisturbed, control, tmp_path
):
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())["set-resources"]["train_network"]
    settings = profile | {"slurm_partition": PARTITION}  # those of the command line replace the profile's
    options = ["--set-resources", *(f"train_network:{key}={value}" for key, value in settings.items())]
    options += ["--group-components", "spectra=6"]
    controller = control(*tables(SEEDS), *options)
    held = controller.hold(SEEDS)
    urgent = preempt(2)
    for seed in (PREEMPTED, PUSHED_BACK):
        wait_for(lambda seed=seed: not controller.jobs(seed), f"preemption of seed {seed}")
    wait_for(lambda: not sh("squeue", "--noheader", f"--jobs={urgent}"), "the urgent job")
    for seed in (PREEMPTED, PUSHED_BACK):
        # The same job, not a new attempt: it came back by itself, or Slurm brought it back.
        wait_for(lambda seed=seed: controller.jobs(seed, "PENDING,RUNNING") == [held[seed].job], f"seed {seed} back")
    # From here on, nothing starts until the node is back, and what has started keeps running.
    node("drain")
    sh("scancel", held[CANCELLED].job)
    sh("scontrol", "requeue", held[REQUEUED].job)
    end_in(0, held[OUT_OF_TIME].job)  # not a second later: Slurm would look in between, and only warn
    end_in(100, held[WARNED].job)
    for seed in (CANCELLED, REQUEUED, OUT_OF_TIME, WARNED):
        wait_for(lambda seed=seed: controller.jobs(seed, "PENDING"), f"seed {seed} in the queue again")
        assert not controller.jobs(seed)
    node("resume")
    assert controller.wait() == 0, controller.text
    for seed in SEEDS:
        assert "resumes after step" in log_of(tmp_path, seed), seed
    assert "received SIGURG" in slurm_log(tmp_path, held[WARNED].job)
    assert "DUE TO TIME LIMIT" in slurm_log(tmp_path, held[OUT_OF_TIME].job)
    assert_same(tmp_path, undisturbed, tables(SEEDS))
