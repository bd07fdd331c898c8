"""Mistakes in the configuration of datasets and vision transformers: one sentence each, before anything runs."""

import copy
from pathlib import Path

import pytest
import yaml

from rank_increase.configuration import ConfigError, check_config, vit_runs

DEMO = yaml.safe_load((Path(__file__).parents[1] / "config/config.yaml").read_text())


@pytest.fixture
def config():
    return copy.deepcopy(DEMO)


def put(config, path, value):
    *parents, last = path.split(".")
    for key in parents:
        config = config[int(key) if key.isdigit() else key]
    config[int(last) if last.isdigit() else last] = value


@pytest.mark.parametrize(
    "dataset",
    [
        {"source": "cifar10"},
        {"source": "cifar100", "mirrors": ["https://example.org/cifar-100-python.tar.gz"]},
        {"source": "image_folder", "path": "/data/imagenet", "size": 224},
        {"source": "parquet", "train": "a.parquet", "test": "b.parquet", "classes": 10, "size": 32},
    ],
)
def test_every_source_is_accepted(config, dataset):
    config["datasets"]["more"] = dataset
    check_config(config)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("datasets.digits.source", "mnist", "`datasets.digits.source` is 'mnist', but must be digits, cifar10"),
        ("datasets.more", {"source": "parquet", "train": "a", "test": "b", "size": 3}, "lacks the key `classes`"),
        ("datasets.more", {"source": "digits", "size": 3}, "`datasets.more.size` is no key of digits"),
        ("datasets.more", {"source": "cifar10", "mirrors": ["example.org"]}, "must be an address"),
        ("data_dir", "", "must be the path of a folder, or null"),
        ("vit.runs.0.dataset", "cifar", "`vit.runs[0].dataset` is 'cifar', which is not among `datasets`: digits"),
        ("vit.models", {}, "is 'digits', which is not among `vit.models`"),
        ("vit.runs.0.alphas", ["1e-32"], "`vit.runs[0]` has alpha '1e-32', but must stay within"),
        ("vit.runs.0.alphas", [0.1], "must be a positive number in quotes"),
        ("vit.training.digits.warmup_epochs", 30, "warmup_epochs` must be less than its `epochs`"),
        ("vit.training.digits.augment", "no", "must be true or false"),
        ("vit.models.digits.dimhead", 3, "unknown key `vit.models.digits.dimhead`; did you mean `dim_head`?"),
        ("vit.hardware.digits.gpu", -1, "`vit.hardware.digits.gpu` is -1, but must be a whole number from 0"),
    ],
)
def test_mistakes_are_sentences(config, path, value, sentence):
    put(config, path, value)
    with pytest.raises(ConfigError) as error:
        check_config(config)
    assert sentence in str(error.value)


def test_runs_are_every_alpha_with_every_seed_of_a_line_once(config):
    line = {"dataset": "digits", "alphas": ["0.1", "1"], "seeds": [0, 1]}
    config["vit"]["runs"] = [line, {**line, "alphas": ["1"], "seeds": [1, 2]}]
    runs = [(run["dataset"], run["alpha"], run["seed"]) for run in vit_runs(config)]
    assert runs == [("digits", a, s) for a, s in [("0.1", 0), ("0.1", 1), ("1", 0), ("1", 1), ("1", 2)]]
