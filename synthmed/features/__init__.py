"""Images to numbers: the feature extractors behind FID and its kin."""
