"""Features without weights: first-order, texture, wavelet and gradient statistics, as radiomics measures them.

They need no download and no GPU, so that images can always be scored. They see brightness, contrast, colour, sharpness,
noise and texture, and of shape no more than the coarse layout. Scales are in pixels: features compare images of one
size only.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import Tensor

from synthmed.errors import DataError
from synthmed.features.detail import gradient_features, wavelet_features
from synthmed.features.intensity import Features, colour_correlations, first_order, layout, split_planes
from synthmed.features.texture import binary_pattern_features, co_occurrence_features
from synthmed.files.content import hash_json

VERSION = 1  # of the features: to be raised whenever the same image gives others
MIN_SIZE = 32  # at the coarsest scale four coefficients a side are left
CHUNK_PIXELS = 1 << 18  # what is computed at once stays near the processor's caches
# What counts as 1 in each feature; the first pattern that fits its name does. About the standard deviation within a
# set of images of one kind at 64 pixels (fundus photographs, chest radiographs, histology), rounded, so that no feature
# outweighs the others in a Euclidean distance. Fixed: scores of different data are in the same unit.
UNITS = (
    ("luma.sd", 0.05),
    ("luma.entropy", 0.35),
    ("c[br].mean", 0.03),
    ("c[br].sd", 0.015),
    ("c[br].entropy", 0.35),
    ("c[br].q*", 0.04),
    ("*.skewness", 0.5),
    ("*.log_kurtosis", 0.35),
    ("luma.*", 0.1),
    ("colour.*", 0.1),
    ("cooccurrence.*.contrast", 0.35),
    ("cooccurrence.*.homogeneity", 0.06),
    ("cooccurrence.*.energy", 0.08),
    ("cooccurrence.*.correlation", 0.1),
    ("cooccurrence.*.entropy", 0.6),
    ("patterns.*", 0.05),
    ("haar.s1.*.mean_absolute", 0.006),
    ("haar.s2.*.mean_absolute", 0.02),
    ("haar.s3.*.mean_absolute", 0.06),
    ("*.log_energy", 0.6),
    ("gradient.mean", 0.012),
    ("gradient.sd", 0.012),
    ("gradient.q50", 0.01),
    ("gradient.q90", 0.025),
    ("gradient.q99", 0.06),
    ("gradient.across", 0.2),
    ("gradient.diagonal", 0.2),
    ("layout.*", 0.13),
)


class RadiomicExtractor:
    """Statistics of images at their own size.

    Attributes:
        feature_names: Of each column, as `FAMILY.WHAT`, e.g. `cooccurrence.d2.contrast`.
    """

    name = "radiomic"
    weights_sha256: str | None = None
    resize = "none: at the images' own size"

    def __init__(self) -> None:
        self.feature_names = tuple(measure(torch.zeros(1, 3, MIN_SIZE, MIN_SIZE, dtype=torch.uint8)))
        self.num_features = len(self.feature_names)
        units = [unit_of(name) for name in self.feature_names]
        self._units = torch.tensor(units, dtype=torch.float64)
        self.fingerprint = hash_json([self.name, VERSION, self.feature_names, units])

    def __call__(self, images: Tensor) -> Tensor:
        """Return features [N, D] float32, in units of `UNITS`, of images [N, 3, H, W] uint8.

        Raises:
            DataError: The images have a side of less than 32 pixels.
        """
        height, width = images.shape[2:]
        if min(height, width) < MIN_SIZE:
            raise DataError(
                f"radiomic features of images of {height} x {width} pixels", f"they need {MIN_SIZE} pixels a side"
            )
        chunks = torch.split(images, max(1, CHUNK_PIXELS // (height * width)))
        values = torch.cat([torch.stack(list(measure(chunk.cpu()).values()), dim=1) for chunk in chunks])
        return (values / self._units).float()


@torch.inference_mode()
def measure(images: Tensor) -> Features:
    """Return each feature of images [N, 3, H, W] uint8 in its natural unit: [N] float64 by name."""
    luma, cb, cr = split_planes(images)
    return {
        **first_order(luma, "luma"),
        **first_order(cb, "cb"),
        **first_order(cr, "cr"),
        **colour_correlations(images),
        **co_occurrence_features(luma),
        **binary_pattern_features(luma),
        **wavelet_features(luma, cb, cr),
        **gradient_features(luma),
        **layout(luma),
    }


def unit_of(name: str) -> float:
    """Return what counts as 1 in a feature."""
    return next(unit for pattern, unit in UNITS if fnmatchcase(name, pattern))
