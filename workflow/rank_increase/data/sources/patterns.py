"""Tokens that are noisy patterns, drawn at random."""

import numpy as np

from rank_increase.data.packed import DatasetError, Source, Split
from rank_increase.options import Count, Flag, NotNegative, Points, Seed, Share
from rank_increase.registry import register


@register.source("patterns")
def patterns(
    downloads,
    threads,
    *,
    relevant: Points = 4,
    binary: Flag = False,
    patterns: Points = 24,
    dim: Count = 32,
    tokens: Count = 12,
    relevant_share: Share = 0.4,
    confusing_share: NotNegative = 0.2,
    noise: NotNegative = 0.1,
    overlap: NotNegative = 0.0,
    train: Count = 2000,
    test: Count = 1000,
    seed: Seed = 0,
):
    """Sequences of patterns with noise, and the label: which of the relevant patterns most tokens carry.

    A sample has one relevant pattern in `relevant_share` of its tokens, a relevant pattern of another label in
    `confusing_share` of them, and patterns without a label in the others.

    Parameters
    ----------
    relevant : int
        Number of relevant patterns, a class each.
    binary : bool
        Two classes instead: relevant patterns have label 0 and 1 in turn.
    patterns : int
        Number of patterns, relevant or not, at most `dim`.
    dim : int
        Features of a token.
    tokens : int
        Tokens in a sample.
    relevant_share, confusing_share : float
        Shares of the tokens, rounded to whole tokens; the first is the larger one.
    noise : float
        Standard deviation of the noise on each feature; patterns have norm 1.
    overlap : float
        Cosine between each two patterns, below 1; 0: they are orthogonal.
    train, test : int
        Samples of each split.
    seed : int
        Seed of patterns and samples.
    """
    many, few = round(relevant_share * tokens), round(confusing_share * tokens)
    if relevant >= patterns or patterns > dim or overlap >= 1:
        raise DatasetError("patterns need `relevant` below `patterns`, `patterns` up to `dim`, and `overlap` below 1.")
    if few >= many or many + few > tokens:
        raise DatasetError(
            f"{many} relevant and {few} confusing of {tokens} tokens make no majority: change the shares."
        )
    rng, splits = np.random.default_rng(seed), {}
    orthonormal = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    common = orthonormal[:, :patterns].mean(1) * patterns**0.5
    # All pairs of unit vectors have the cosine `overlap`: orthonormal ones, moved towards or away from their mean.
    ratio = ((1 + (patterns - 1) * overlap) / (1 - overlap)) ** 0.5
    made = orthonormal[:, :patterns].T @ (np.eye(dim) + (ratio - 1) * np.outer(common, common))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    classes = np.arange(relevant) % 2 if binary else np.arange(relevant)
    for name, count in (("train", train), ("test", test)):
        carried = rng.integers(relevant, patterns, (count, tokens))
        chosen = rng.integers(0, relevant, count)
        carried[:, :many] = chosen[:, None]
        others = [np.flatnonzero(classes != label) for label in classes]
        carried[:, many : many + few] = [rng.choice(others[one], few) for one in chosen]
        samples = made[rng.permuted(carried, axis=1)] + noise * rng.standard_normal((count, tokens, dim))
        splits[name] = Split("patterns", count, [(samples, classes[chosen])])
    return Source([str(label) for label in sorted(set(classes.tolist()))], (tokens, dim), splits, {}, "features")
