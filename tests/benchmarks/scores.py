"""Figures of the scores, measured on this machine.

`python tests/benchmarks/scores.py`            cost of all scores at 10 000 x 10 000 x 2 048
`python tests/benchmarks/scores.py resampling` cost of an interval, a floor split and a permutation at the same sizes
`python tests/benchmarks/scores.py coverage [REPEATS]`
                                               how often intervals hold the truth, on Gaussians, beside the bootstrap
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial

import numpy as np
from numpy.typing import NDArray

from synthmed.metrics.feature_arrays import Features, Floats, keep_all
from synthmed.metrics.kernel import kid
from synthmed.metrics.resampling import jackknife_intervals
from synthmed.metrics.scores import BOUNDS, FAMILIES
from synthmed.runtime.seeds import numpy_generator

COUNT, WIDTH = 10_000, 2_048


def features(seed: int, count: int = COUNT, width: int = WIDTH, *, shift: float = 0.0) -> NDArray[np.float32]:
    """Return features like a network's: not negative, correlated, with a spectrum that falls."""
    mixing = numpy_generator(0, "mixing").normal(size=(width, width)) * (1 + np.arange(width)[:, None]) ** -0.6
    sample = numpy_generator(seed, "features").normal(size=(count, width)).astype(np.float32)
    mixed = sample @ (mixing * 0.2).astype(np.float32)
    mixed += np.float32(0.3 + shift)
    return np.maximum(mixed, 0, out=mixed)


def measure(name: str, work: Callable[[], object], *, show: bool = False) -> None:
    """Run and print wall time, CPU time of all threads, and the peak of memory so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<44} {wall:7.1f} s  {cpu:7.1f} s of CPU  peak {peak:.2f} GiB  {result if show else ''}", flush=True)


def one_value(family: str, real: Features, generated: Features) -> dict[str, float]:
    """Return the scores of a family."""
    values = FAMILIES[family](
        real=real, generated=generated, real_masks=keep_all(real), generated_masks=keep_all(generated)
    )
    return {name: round(float(array[0]), 6) for name, array in values.items()}


def cost() -> None:
    """Print what every family costs."""
    real, generated = features(1), features(2, shift=0.02)
    measure("features made", lambda: None)
    begin, used = time.perf_counter(), time.process_time()
    for family in ("frechet", "manifold"):
        measure(family, partial(one_value, family, real, generated), show=True)
    measure("KID, 100 subsets of 1000 and full", partial(kid, real, generated, numpy_generator(0, "kid")), show=True)
    print(f"together {time.perf_counter() - begin:.1f} s, {time.process_time() - used:.1f} s of CPU")


def resampling() -> None:
    """Print what resamples of every family cost."""
    real, generated = features(1), features(2, shift=0.02)
    generator = numpy_generator(0, "masks")
    for family, score in FAMILIES.items():
        for share in (0.95, 0.5):
            for rows in (1, 5):
                masks = generator.uniform(size=(rows, COUNT)) < share
                full = np.ones_like(masks)
                work = partial(score, real=real, generated=generated, real_masks=full, generated_masks=masks)
                measure(f"{family}, {rows} x {share}", work)


BOOTSTRAPPED = 60
# Real and generated sizes, width, shift of the generated ones, images of a patient.
CASES = {
    "400 x 300, 16 features": (400, 300, 16, 0.5, 1),
    "400 x 300, 16 features, no difference": (400, 300, 16, 0.0, 1),
    "120 x 100, 256 features (fewer images)": (120, 100, 256, 0.3, 1),
    "400 x 300, 16 features, 5 images a patient": (400, 300, 16, 0.5, 5),
}


def sample(seed: int, name: str) -> tuple[Floats, Floats, list[str]]:
    """Return real and generated features of a case, and the patients of the real ones."""
    count, other, width, shift, together = CASES[name]
    generator = numpy_generator(seed, name)
    scale = (1 + np.arange(width)) ** -0.3
    patients = np.arange(count) // together
    # Of a patient's images half of the variance is common to them.
    common = generator.normal(size=(patients.max() + 1, width))[patients]
    own = generator.normal(size=(count, width))
    real = (common + own) * 0.5**0.5 if together > 1 else own
    generated = generator.normal(size=(other, width)) * (0.9 if shift else 1)
    generated[:, 0] += shift
    return real * scale, generated * scale, [f"p{patient}" for patient in patients]


def bootstrap(family: str, real: Floats, generated: Floats, generator: np.random.Generator) -> Mapping[str, Floats]:
    """Return scores of resamples drawn with replacement, as other tools do."""
    values: dict[str, list[float]] = {}
    for _ in range(60):
        drawn = (side[generator.integers(len(side), size=len(side))] for side in (real, generated))
        for name, value in one_value(family, *drawn).items():
            values.setdefault(name, []).append(value)
    return {name: np.array(found) for name, found in values.items()}


def coverage(repeats: int, families: Sequence[str] = tuple(FAMILIES), *, compare: bool = True) -> None:
    """Print how often 95 % intervals hold the expected score of sets of these sizes."""
    for case in CASES:
        print(f"\n{case}: score, expectation, standard deviation, mean standard error, held by jackknife", end=" ")
        print("(patients ignored), by bootstrap")
        for family in families:
            truth: dict[str, list[float]] = {}
            for seed in range(10_000, 10_000 + 5 * repeats):
                for name, value in one_value(family, *sample(seed, case)[:2]).items():
                    truth.setdefault(name, []).append(value)
            held: dict[str, list[float]] = {name: [] for name in truth}
            errors, ignoring, boot = (deepcopy(held) for _ in range(3))
            for seed in range(repeats):
                real, generated, patients = sample(seed, case)
                for groups, target in ((patients, held), ([""] * len(real), ignoring)):
                    found = jackknife_intervals(
                        FAMILIES[family],
                        real=real,
                        generated=generated,
                        real_groups=groups,
                        generated_groups=[""] * len(generated),
                        generator=numpy_generator(seed, "blocks"),
                        bounds=BOUNDS,
                    )
                    for name, interval in found.items():
                        target[name].append(float(interval.low <= np.mean(truth[name]) <= interval.high))
                        if target is held:
                            errors[name].append(interval.std)
                if compare and seed < BOOTSTRAPPED:
                    for name, values in bootstrap(family, real, generated, numpy_generator(seed, "boot")).items():
                        low, high = np.quantile(values, (0.025, 0.975))
                        boot[name].append(float(low <= np.mean(truth[name]) <= high))
            for name in truth:
                print(
                    f"  {name:<10} {np.mean(truth[name]):9.4f} {np.std(truth[name]):8.4f} {np.mean(errors[name]):8.4f}"
                    f"  {np.mean(held[name]):6.1%}  ({np.mean(ignoring[name]):6.1%})"
                    + (f"  {np.mean(boot[name]):6.1%}" if compare else ""),
                    flush=True,
                )


def main() -> None:
    """Print the figures asked for."""
    words = sys.argv[1:]
    if words[:1] == ["coverage"]:
        coverage(int(words[1]) if len(words) > 1 else 300)
    elif words == ["resampling"]:
        resampling()
    else:
        cost()


if __name__ == "__main__":
    main()
