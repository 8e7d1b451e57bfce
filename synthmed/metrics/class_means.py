"""Means of figures of images in which every class weighs the same, whatever number of images it has.

Shapes: N images, D figures, R resamples, K classes. Labelled figures are [N, 1 + D] with the class, a whole number from
0, in the first column, so that what chooses images chooses classes with them. Masks are [R, N] bool.
"""

from __future__ import annotations

import numpy as np

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import Features, Floats, Masks


def class_means(labelled: Features, masks: Masks, num_classes: int) -> tuple[Floats, Floats]:
    """Return how many images of each class a resample keeps, [R, K], and their means, [R, K, D]; 0 where none is kept.

    Args:
        labelled: [N, 1 + D].
        masks: [R, N].
        num_classes: K, above every class.
    """
    labels, values = labelled[:, 0].astype(np.int64), labelled[:, 1:].astype(np.float64)
    of_class = (labels[:, None] == np.arange(num_classes)).astype(np.float64)
    kept = np.asarray(masks, dtype=np.float64)
    counts = kept @ of_class
    spread = (of_class[:, :, None] * values[:, None, :]).reshape(len(values), -1)
    sums = (kept @ spread).reshape(len(kept), num_classes, values.shape[1])
    return counts, sums / np.maximum(counts, 1)[:, :, None]


def common_weights(real_counts: Floats, generated_counts: Floats, *, least: int = 1) -> Floats:
    """Return weights of classes, [R, K], equal and of sum 1, for those of which both sides have `least` images.

    Raises:
        DataError: There is no such class in a resample.
    """
    common = (np.minimum(real_counts, generated_counts) >= least).astype(np.float64)
    sums = common.sum(axis=1, keepdims=True)
    if not sums.all():
        raise DataError(f"there are too few images: no class has {least} of them on both sides")
    result: Floats = common / sums
    return result


def num_classes(*labelled: Features) -> int:
    """Return K for labelled figures of several sets."""
    return 1 + max(int(one[:, 0].max()) for one in labelled)


def balanced_means(
    real: Features, generated: Features, real_masks: Masks, generated_masks: Masks
) -> tuple[Floats, Floats]:
    """Return the means of real and of generated figures, [R, D] each, over the classes that both sides have.

    Raises:
        DataError: A resample has no class on both sides.
    """
    count = num_classes(real, generated)
    real_counts, real_means = class_means(real, real_masks, count)
    made_counts, made_means = class_means(generated, generated_masks, count)
    weights = common_weights(real_counts, made_counts)
    return np.einsum("rk,rkd->rd", weights, real_means), np.einsum("rk,rkd->rd", weights, made_means)
