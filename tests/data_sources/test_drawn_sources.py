"""Sources that are drawn: the anchor function and noisy patterns, against what their descriptions say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_increase.data.packed import DatasetError, open_dataset, pack
from rank_increase.data.sources.anchor import anchor
from rank_increase.data.sources.digits import digits
from rank_increase.data.sources.patterns import patterns


def chunk(source, split="train"):
    [(samples, labels)] = source.splits[split].chunks
    return samples, labels


@pytest.mark.parametrize("position", [0, 4, 8, None])
def test_label_is_the_key_after_the_anchor_plus_its_parity(tmp_path, position):
    source = anchor("", 1, position=position, train=300, test=50, seed=3)
    places = set()
    for split in ("train", "test"):
        for tokens, label in zip(*chunk(source, split), strict=True):
            [place] = np.flatnonzero(tokens <= 4)
            assert tokens[place] >= 1 and tokens.max() <= 100 and len(tokens) == 10
            assert label == tokens[place + 1] + tokens[place] % 2
            places.add(int(place))
    assert places == ({position} if position is not None else set(range(9)))
    pack(tmp_path / "set", source, {})
    packed = open_dataset(tmp_path / "set")
    assert packed.train_samples.shape == (300, 10) and packed.train_samples.dtype == np.uint8
    assert len(packed.manifest["classes"]) == 201


def test_splits_and_seeds_differ():
    one, other = anchor("", 1, seed=0), anchor("", 1, seed=1)
    assert not np.array_equal(chunk(one)[0], chunk(other)[0])
    assert not np.array_equal(chunk(one)[0][:1000], chunk(one, "test")[0])
    np.testing.assert_array_equal(chunk(one)[0], chunk(anchor("", 1, seed=0))[0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"vocabulary": 50}, "`vocabulary` is 50, but 96 keys need 102"),
        ({"position": 9}, "`position` is 9, but the anchor has a key after it: at most 8"),
    ],
)
def test_anchor_mistakes_are_sentences(options, sentence):
    with pytest.raises(DatasetError, match=sentence):
        anchor("", 1, **options)


@settings(max_examples=25, deadline=None)
@given(
    relevant=st.integers(2, 6),
    binary=st.booleans(),
    overlap=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
def test_patterns_have_the_cosines_and_samples_the_counts_that_are_said(relevant, binary, overlap, seed):
    options = {"relevant": relevant, "binary": binary, "overlap": overlap, "seed": seed}
    source = patterns("", 1, noise=0.0, train=400, test=20, **options)
    samples, labels = chunk(source)
    assert samples.shape == (400, 12, 32)
    found = np.unique(samples.reshape(-1, 32).round(9), axis=0)
    assert len(found) <= 24
    gram = found @ found.T
    np.testing.assert_allclose(gram, overlap + (1 - overlap) * np.eye(len(found)), atol=1e-6)
    # Each sample has 5 tokens with one relevant pattern and 2 of another label; which one it is follows from the label.
    classes = {}
    for sample, label in zip(samples.round(9), labels, strict=True):
        kinds, counts = np.unique(sample, axis=0, return_counts=True)
        numbers = [int(np.abs(found - kind).sum(1).argmin()) for kind in kinds]
        if (counts == 5).sum() == 1:  # a pattern without a label may fill as many tokens
            classes.setdefault(numbers[int(np.flatnonzero(counts == 5)[0])], set()).add(int(label))
    always = [next(iter(label)) for label in classes.values() if len(label) == 1]
    assert set(always) >= set(labels.tolist())
    assert len(source.classes) == (2 if binary else relevant)


def test_noise_has_the_deviation_that_is_said():
    clean, noisy = (chunk(patterns("", 1, noise=noise, train=500))[0] for noise in (0.0, 0.25))
    assert (noisy - clean)[:1].std() == pytest.approx(0.25, rel=0.2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"relevant": 24}, "patterns need `relevant` below `patterns`"),
        ({"overlap": 1.0}, "`overlap` below 1"),
        ({"relevant_share": 0.2, "confusing_share": 0.2}, "2 relevant and 2 confusing of 12 tokens make no majority"),
    ],
)
def test_pattern_mistakes_are_sentences(options, sentence):
    with pytest.raises(DatasetError, match=sentence):
        patterns("", 1, **options)


def test_patches_of_digits_are_their_pixels():
    pixels, _ = chunk(digits("", 1))
    patches, labels = chunk(digits("", 1, patch=4))
    assert patches.shape == (1438, 4, 16) and len(labels) == 1438
    # The third patch is the lower left one; patches are pixels less their mean, and over their mean norm.
    blocks = np.stack([pixels[:, r : r + 4, c : c + 4, 0].reshape(-1, 16) for r in (0, 4) for c in (0, 4)], axis=1)
    moved = blocks - blocks.mean((0, 1))
    np.testing.assert_allclose(patches, moved / np.linalg.norm(moved, axis=-1).mean(), atol=1e-12)
    with pytest.raises(DatasetError, match="`patch` is 3, but images of 8 pixels need a divisor of 8"):
        digits("", 1, patch=3)
