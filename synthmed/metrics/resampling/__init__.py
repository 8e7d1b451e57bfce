"""How sure a score is: intervals, the floor of real against real, and tests between two generators.

For any score of two sets of images, given as a function of masks (`feature_arrays.MaskedScores`). Shapes as there.

Why no bootstrap: an image drawn twice is its own neighbour at distance 0 and adds nothing to the covariance, so
resamples with replacement look less diverse than the set they come from; Fréchet distances come out too large and
scores of neighbours altogether wrong. The three schemes here draw without replacement:

- `jackknife_intervals` leaves out one block of patients at a time. The variance that it finds is on average never less
  than the true one, for any score of independent units (Efron and Stein 1981, theorem 2), and hardly more for smooth
  ones. The interval is for the score expected of sets of *these sizes*: FID and its like depend on size, so compare
  sets of equal size, and compare with the floor.
- `real_floor` scores disjoint parts of the real images against each other: what a perfect generator would reach.
- `permutation_test` exchanges the images of two generators.
"""

from synthmed.metrics.resampling.floor import Floor, real_floor
from synthmed.metrics.resampling.jackknife import Interval, blocks_of_groups, jackknife_intervals
from synthmed.metrics.resampling.permutation import Permutation, permutation_test

__all__ = [
    "Floor",
    "Interval",
    "Permutation",
    "blocks_of_groups",
    "jackknife_intervals",
    "permutation_test",
    "real_floor",
]
