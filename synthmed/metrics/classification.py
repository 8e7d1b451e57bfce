"""Scores of a classifier's probabilities [N, K] against labels [N]."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc


def auroc(probabilities: ArrayLike, labels: ArrayLike, positive: int) -> float:
    """Return the area under the ROC curve by torchmetrics.

    Args:
        probabilities: [N, K].
        labels: [N] int.
        positive: Positive class of two; with more classes not used: the mean of one-against-rest AUROCs is taken.
    """
    scores, truth = torch.tensor(np.asarray(probabilities).copy()), torch.tensor(np.asarray(labels).copy())
    if scores.shape[1] == 2:
        return float(binary_auroc(scores[:, positive], (truth == positive).long()))
    return float(multiclass_auroc(scores, truth, num_classes=scores.shape[1], average="macro"))


def balanced_accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean over classes of the share of their images for which the class is the likeliest."""
    predicted, truth = np.asarray(probabilities).argmax(axis=1), np.asarray(labels)
    return float(np.mean([(predicted[truth == label] == label).mean() for label in np.unique(truth)]))
