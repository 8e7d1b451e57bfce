"""Classifier-free guidance: what the network predicts, pushed away from what it predicts without the label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from synthmed.errors import UsageError

NULL_LABEL = -1
Predict = Callable[[Tensor], Tensor]
"""What the network predicts for labels [N], at one x_t and t."""


def guide(predict: Predict, labels: Tensor, away: Tensor, scale: float) -> Tensor:
    """Return un + scale (cond - un), on what the network predicts, before any clipping: Medfusion's order.

    Args:
        predict: The network at one x_t and t.
        labels: What `cond` is told, [N] int64.
        away: What `un` is told.
        scale: 1 costs no second pass.
    """
    cond = predict(labels)
    if scale == 1:
        return cond
    un = predict(away)
    return un + scale * (cond - un)


def away_labels(labels: Tensor, reference: Literal["null", "other"], classes: Sequence[str]) -> Tensor:
    """Return what guidance leads away from: no label, or the other class of two.

    Raises:
        UsageError: There are not two classes.
    """
    if reference == "null":
        return torch.full_like(labels, NULL_LABEL)
    if len(classes) != 2:
        raise UsageError(f"guidance against the other class needs 2 classes, not {len(classes)}")
    return 1 - labels
