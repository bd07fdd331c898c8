"""What a person reads when jobs fail on a Slurm: every reason once, what to do, and where the logs are."""

import os
import re
import signal

import pytest

from cluster import end_in, tables

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]
NO_PARTITION, NO_NODE, NO_CUDA, OUT_OF_TIME, KILLED = SEEDS = range(5)
SETTINGS = {
    "slurm_partition": "'nowhere' if wildcards.seed == '0' else 'main'",
    "gpu": "{'1': 5, '2': 1}.get(wildcards.seed, 0)",
}


def paragraphs(text):
    """Of each failed job that is named at the end, its seed and what is said of it."""
    found = re.findall(r"FAILED: train_network for \S*seed_(\d)\S*\n((?:  \w+: .*\n)+)", text)
    return {int(seed): said for seed, said in found}


def test_failures_are_told_once_with_reason_advice_and_log(control, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the GPUs of this Slurm are pretended
    options = ["--set-resources", *(f"train_network:{key}={value}" for key, value in SETTINGS.items())]
    controller = control(*tables(SEEDS), *options, "--retries", "0", "--keep-going")
    held = controller.hold([OUT_OF_TIME, KILLED])
    end_in(1, held[OUT_OF_TIME].job)
    os.kill(held[KILLED].process, signal.SIGKILL)
    assert controller.wait() == 1
    said = paragraphs(controller.text)
    assert set(said) == set(SEEDS), controller.text
    assert controller.text.count("FAILED: ") == len(SEEDS)
    assert "the partition that it asks for does not exist" in said[NO_PARTITION]
    assert "no node of the partition has the GPUs" in said[NO_NODE]
    assert "asks for 1 GPU and torch" in said[NO_CUDA]
    assert "its time was up" in said[OUT_OF_TIME]
    assert "it was killed" in said[KILLED]
    for seed in (NO_CUDA, OUT_OF_TIME, KILLED):
        assert f"  log:  results/slurm/logs/train_network/digits_alpha_1_seed_{seed}.log\n" in said[seed]
        assert "/slurm_logs/rule_train_network/" in said[seed]
