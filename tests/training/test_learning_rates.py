"""Learning rates by step."""

import pytest

from synthmed.training.config import StageConfig
from synthmed.training.learning_rates import learning_rate


def test_learning_rate_rises_then_falls_to_zero():
    cosine = StageConfig(steps=110, lr=2.0, warmup_steps=10, lr_schedule="cosine")
    rates = [learning_rate(cosine, step, cosine.lr) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0, abs=1e-9)
    constant = StageConfig(steps=110, lr=2.0, warmup_steps=10)
    assert learning_rate(constant, 100, constant.lr) == 2.0
