"""Nearest neighbours among features, in blocks: no matrix of all distances ever stands in memory.

Shapes: Q queries, N references, D features, k neighbours. Distances are Euclidean.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import Features, Floats, check_features

Numbers = NDArray[np.int64]

BLOCK = 1024
# Candidates beyond k that are measured directly: rounding of the fast distances may swap neighbours that lie equally
# far to the last digits.
SPARE = 4
# Rounding error of a squared distance by `squared_distances`, as a fraction of the largest squared norms.
ROUNDING = 1e-13


def nearest(
    queries: ArrayLike, references: ArrayLike, k: int, *, exclude_self: bool = False, block: int = BLOCK
) -> tuple[Floats, Numbers]:
    """Return the k nearest references of each query.

    Candidates come from products of centred features in float64; the distances of the winners are then measured
    directly, so that equal rows are exactly 0 apart. Among equally near references the first in order wins.

    Args:
        queries: [Q, D].
        references: [N, D].
        k: How many.
        exclude_self: The queries are the references, and none is its own neighbour; an equal row still is.
        block: Rows of either side taken at a time; memory is about 16 block (D + block) bytes beside the inputs.

    Returns:
        distances: [Q, k] float64, ascending.
        indices: [Q, k] int64, into `references`.

    Raises:
        DataError: Fewer than k references (other than the query itself), unlike or non-finite features.
    """
    first, second = check_features(queries, "query", minimum=0), check_features(references, "reference")
    available = len(second) - exclude_self
    if not 1 <= k <= available:
        raise DataError(f"{k} neighbours of {available} images cannot be found", "more images are needed")
    if first.shape[1] != second.shape[1]:
        raise DataError(f"{first.shape[1]} features cannot be compared with {second.shape[1]}")
    assert not exclude_self or len(first) == len(second), "exclude_self is for a set and itself"
    origin = second.mean(axis=0, dtype=np.float64)
    distances, indices = np.empty((len(first), k)), np.empty((len(first), k), dtype=np.int64)
    for start in range(0, len(first), block):
        rows = slice(start, start + block)
        candidates = _candidates(
            first[rows] - origin, second, origin, min(k + SPARE, available), start if exclude_self else None, block
        )
        measured = _measure(first[rows], second, candidates)
        order = np.lexsort((candidates, measured), axis=1)[:, :k]
        distances[rows] = np.take_along_axis(measured, order, axis=1)
        indices[rows] = np.take_along_axis(candidates, order, axis=1)
    return distances, indices


def blocks_of_distances(queries: Features, references: Features, block: int) -> Iterator[tuple[slice, slice, Floats]]:
    """Yield squared distances of all pairs, rows and columns in blocks: (rows, columns, [rows, columns])."""
    origin = references.mean(axis=0, dtype=np.float64)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        centred = queries[rows] - origin
        for other in range(0, len(references), block):
            columns = slice(other, other + block)
            yield rows, columns, squared_distances(centred, references[columns] - origin)


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return the squared distances of all pairs of rows, [N_a, N_b], as |a|^2 + |b|^2 - 2 a . b.

    The error is about 1e-16 of the squared norms, so centre the features first: float64 leaves room for norms a
    hundred thousand times the distance, float32 (what GPUs and other tools use here) only for norms of its size.
    """
    products = a @ b.T
    products *= -2
    products += (a * a).sum(axis=1)[:, None]
    products += (b * b).sum(axis=1)
    return np.maximum(products, 0, out=products)


def rounding_error(*sets: Features) -> float:
    """Return how far a squared distance among these sets' features, centred, can be off: see `squared_distances`."""
    origin = sets[-1].mean(axis=0, dtype=np.float64)
    return ROUNDING * max(
        float(((features[start : start + BLOCK] - origin) ** 2).sum(axis=1).max())
        for features in sets
        for start in range(0, len(features), BLOCK)
    )


def _candidates(
    queries: Floats, references: Features, origin: Floats, count: int, own: int | None, block: int
) -> Numbers:
    """Return the `count` nearest references of centred queries, in no order: [Q, count].

    Args:
        queries: [Q, D], centred.
        references: [N, D], not centred.
        origin: What is to be subtracted from them.
        count: How many.
        own: Number of the first query among the references, which must not find themselves; `None`: they may.
        block: References at a time.
    """
    best, found = np.empty((len(queries), 0)), np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(references), block):
        squared = squared_distances(queries, references[start : start + block] - origin)
        if own is not None:
            numbers = np.arange(len(queries)) + own - start
            inside = (numbers >= 0) & (numbers < squared.shape[1])
            squared[np.flatnonzero(inside), numbers[inside]] = np.inf
        # torch's selection is ten times as fast as NumPy's.
        values, columns = torch.topk(
            torch.from_numpy(squared), min(count, squared.shape[1]), dim=1, largest=False, sorted=False
        )
        best = np.concatenate([best, values.numpy()], axis=1)
        found = np.concatenate([found, columns.numpy() + start], axis=1)
        if best.shape[1] > count:
            kept = np.argpartition(best, count - 1, axis=1)[:, :count]
            best, found = np.take_along_axis(best, kept, axis=1), np.take_along_axis(found, kept, axis=1)
    return found


def _measure(queries: Features, references: Features, indices: Numbers) -> Floats:
    """Return the distances of queries and the references named beside them, by their differences: [Q, k]."""
    exact = queries.astype(np.float64)
    columns = [np.sqrt(((references[column] - exact) ** 2).sum(axis=1)) for column in indices.T]
    return np.stack(columns, axis=1)
