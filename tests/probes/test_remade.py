"""Probes that run a model again: a remade network is the trained one, and what it is asked agrees with other ways."""

import numpy as np
import pytest
import torch

from rank_increase.data.batches import Batches
from rank_increase.data.packed import open_dataset, pack
from rank_increase.data.sources.anchor import anchor
from rank_increase.data.sources.patterns import patterns
from rank_increase.ownership import owned
from rank_increase.probes import ablations, condensation
from rank_increase.probes.remade import RemadeNetwork
from rank_increase.tables import SCHEMAS, read_table
from rank_increase.training import processes
from rank_increase.training.loop import Job
from rank_increase.training.recipe import Recipe
from rank_increase.training.results import finished_metrics
from rank_increase.training.snapshots import Snapshots, snapshot_path, write_snapshot
from scripts.probes import ablate_network, measure_condensation

RUN = {"network": "x", "alpha": "1", "seed": 3}


def trained(folder, source, model, **settings):
    """Folder of the dataset, snapshots, last row of metrics, and the options of `RemadeNetwork` of a small run."""
    pack(folder / "set", source, {"relevant": 2})
    plan = {"batch_size": 40, "decay": "none", "optimizer": {"name": "sgd"}, **settings}
    job = Job(
        dataset=str(folder / "set"),
        scratch=str(folder / "scratch"),
        model=model,
        recipe=Recipe(**plan),
        alpha=1.0,
        seed=RUN["seed"],
        code="code",
        checkpoint_minutes=60,
        pass_size=0,
        threads=1,
        label="run",
        device="cpu",
    )
    with owned(job.scratch, job.label) as ownership:
        processes.train(job, ownership)
    options = {"model": model, "recipe": job.recipe.model_dump(), "alpha": "1", "seed": RUN["seed"]}
    return folder / "set", folder / "scratch" / "snapshots", finished_metrics(job).iloc[-1], options


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    model = {"family": "decoder", "dim": 6, "mlp_dim": 8, "std": 0.3, "depth": 1, "heads": 1}
    source = anchor("", 1, keys=6, length=4, position=1, vocabulary=12, train=80, test=30)
    settings = {"epochs": 20, "learning_rate": 0.5, "snapshots": 21}
    return trained(tmp_path_factory.mktemp("decoder"), source, model, **settings)


@pytest.fixture(scope="module")
def pattern_network(tmp_path_factory):
    model = {"family": "patterns", "neurons": 10, "heads": 2, "depth": 1}
    source = patterns("", 1, relevant=2, patterns=6, dim=8, train=80, test=50)
    settings = {"epochs": 15, "learning_rate": 3.0, "snapshots": 4, "loss": {"name": "hinge"}}
    return trained(tmp_path_factory.mktemp("patterns"), source, model, **settings)


def remade(run, **change):
    dataset, snapshots, _, options = run
    return RemadeNetwork(open_dataset(dataset), Snapshots(snapshots), **{**options, **change})


@pytest.mark.parametrize("name", ["decoder", "pattern_network"])
def test_remade_network_is_as_good_as_the_trained_one(request, name):
    run = request.getfixturevalue(name)
    last = Snapshots(run[1]).steps[-1]
    network = remade(run)
    assert network.accuracy(network.weights(last)) == pytest.approx(run[2]["test_accuracy"])
    with pytest.raises(ValueError, match="of the model with seed 4 is not that of the first snapshot"):
        remade(run, seed=4)


def test_gradient_is_the_quotient_of_differences(pattern_network, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # losses are float32
    network = remade(pattern_network)
    weights = network.weights(2)
    gradient = network.gradient(weights, 7)
    rng = np.random.default_rng(0)
    samples, labels = (part[:7] for part in network._train)
    for name, weight in weights.items():
        direction = torch.from_numpy(rng.standard_normal(tuple(weight.shape)))
        losses = []
        for step in (1e-6, -1e-6):
            network.model.set_weights(weights | {name: weight + step * direction})
            losses.append(network._loss(network.model(samples), labels).item() / 7)
        expected = (losses[0] - losses[1]) / 2e-6
        assert (gradient[name] * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_driving_matrix_drives_keys_and_queries(decoder):
    network = remade(decoder)
    weights = network.weights(10)
    F, gradient = condensation.driving_matrix(network, 10), network.gradient(weights)
    W_K, W_Q = (weights[f"layer_0.{name}"][0].numpy() for name in ("W_K", "W_Q"))
    np.testing.assert_allclose(-gradient["layer_0.W_Q"][0].numpy(), F @ W_K, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(-gradient["layer_0.W_K"][0].numpy(), F.T @ W_Q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("last", "expected"), [(4.0, [2, 3]), (3.9, [])])
def test_window_is_from_grown_outer_weights_to_grown_keys_and_queries(tmp_path, last, expected):
    outer, inner = [1.0, 1.9, 2.0, 9.0, 9.0], [1.0, 3.0, 1.0, last, 1.0]
    for step in range(5):
        weights = {f"layer_0.{name}": np.full((1, 2, 2), outer[step]) for name in condensation.OUTER}
        weights |= {f"layer_0.{name}": np.full((1, 2, 2), inner[step]) for name in condensation.INNER}
        weights["layer_0.W_1"] = np.full((1, 2, 2), 5.0 * 3 ** min(step, 1))
        write_snapshot(snapshot_path(tmp_path, step), weights, [], step=step, epoch=step)
    assert condensation.window(Snapshots(tmp_path)) == expected


def test_linear_system_is_solved_for_a_single_direction():
    # F = f e_1 e_1^T: the sums and differences of the first rows grow and shrink, all other rows stay.
    F, time = np.zeros((2, 2)), 0.7
    F[0, 0] = 3.0
    before = {"W_K": np.array([[1.0, 2.0], [5.0, 6.0]]), "W_Q": np.array([[0.5, -1.0], [7.0, 8.0]])}
    after = condensation._moved(before, F, time)
    grown, shrunk = np.exp(3 * time), np.exp(-3 * time)
    plus, minus = before["W_K"][0] + before["W_Q"][0], before["W_K"][0] - before["W_Q"][0]
    np.testing.assert_allclose(after["W_K"], [(grown * plus + shrunk * minus) / 2, [5, 6]])
    np.testing.assert_allclose(after["W_Q"], [(grown * plus - shrunk * minus) / 2, [7, 8]])


def test_condensation_tables(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(condensation, "window", lambda snapshots: snapshots.steps[5:9])
    dataset, snapshots, _, options = decoder
    given = {key: options[key] for key in ("model", "recipe")}
    paths = tmp_path / "cosines.parquet", tmp_path / "key_query.parquet"
    measure_condensation.main([snapshots], dataset, *paths, runs=[RUN], **given, extensions=(), provenance={})
    cosines, key_query = map(read_table, paths)
    assert cosines.groupby("weight", observed=True)["step"].nunique().tolist() == [4] * 5
    for one in cosines[cosines["weight"] == "W_V"]["cosines"]:
        matrix = np.reshape(one, (6, 6))
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-3)
        np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-3)
        leading = np.linalg.eigh(matrix)[1][:, -1]
        assert (np.diff(np.abs(leading)) > -0.05).all() or (np.diff(np.abs(leading)) < 0.05).all()
    steps = condensation.window(Snapshots(snapshots))
    assert sorted(key_query["step"].unique()) == steps[1:]
    first = key_query[(key_query["step"] == steps[1]) & (key_query["system"] == "measured")]
    assert (first["cosine"] > 0.99).all()  # two steps of a batch that is half of the data
    assert set(key_query.columns) == set(SCHEMAS["key_query"].names)


def test_ablations_and_gradients(pattern_network, tmp_path):
    dataset, snapshots, metrics, options = pattern_network
    given = {key: options[key] for key in ("model", "recipe")}
    paths = tmp_path / "ablations.parquet", tmp_path / "gradients.parquet"
    ablate_network.main([snapshots], dataset, *paths, runs=[RUN], **given, extensions=(), provenance={})
    found, gradients = map(read_table, paths)
    accuracy = found.set_index(["ablation", "amount"])["accuracy"]
    assert accuracy["whole", 0.0] == pytest.approx(metrics["test_accuracy"])
    assert found["patterns"].unique().tolist() == [2] and found["classes"].unique().tolist() == [2]
    assert accuracy["head"].index.tolist() == [0, 1]
    network = remade(pattern_network)
    weights, key = network.weights(Snapshots(snapshots).steps[-1]), "layer_0.W_O"
    sizes = weights[key][0].norm(dim=1).tolist()
    small = sorted(range(10), key=lambda neuron: sizes[neuron])[:4]
    weights[key][0, small] = 0
    assert accuracy["smallest", 0.4] == network.accuracy(weights)
    at_start = gradients[(gradients["step"] == 0) & (gradients["samples"] == 40)].set_index(["weight", "head"])
    expected = network.gradient(network.weights(0), 40)["layer_0.W_V"][1].numpy()
    values = at_start.loc[("W_V", 1), "singular_values"]
    np.testing.assert_allclose(values, np.linalg.svd(expected)[1], rtol=1e-9, atol=1e-15)


def test_truncation_to_full_rank_changes_nothing(pattern_network):
    _, snapshots, _, _ = pattern_network
    network, opened = remade(pattern_network), Snapshots(snapshots)
    frame = ablations.ablations_frame(opened, network, 0, classes=8, patterns=None)
    accuracy = frame.set_index(["ablation", "amount"])["accuracy"]
    assert accuracy["truncated", 8.0] == accuracy["whole", 0.0] and frame["patterns"].isna().all()


def test_only_the_samples_that_are_used_are_asked_for(tmp_path):
    """Of a part of the dataset with shuffled labels: gradients are those of one batch of the whole part."""
    model = {"family": "patterns", "neurons": 6, "depth": 1}
    source = patterns("", 1, relevant=2, patterns=6, dim=8, train=80, test=50)
    part = {"train_samples": 40, "test_samples": 30, "shuffled_labels": True}
    settings = {"epochs": 2, "learning_rate": 0.1, "snapshots": 2, **part}
    dataset, snapshots, _, options = run = trained(tmp_path, source, model, **settings)
    network = remade(run)
    batches = Batches(open_dataset(dataset), torch.device("cpu"), batch_size=40, seed=0, **part)
    samples, labels = next(iter(batches.train(1)))
    network.model.set_weights(network.weights(0))
    outputs = network.model(batches.inputs(samples).double())
    loss = torch.nn.functional.cross_entropy(outputs, labels)
    expected = dict(zip(network.weights(0), torch.autograd.grad(loss, list(network.model.parameters())), strict=True))
    for name, gradient in network.gradient(network.weights(0)).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9)
    right = sum((network.model(batches.inputs(s).double()).argmax(-1) == y).sum().item() for s, y in batches.test(7))
    assert network.accuracy(network.weights(0)) == pytest.approx(right / 30)
