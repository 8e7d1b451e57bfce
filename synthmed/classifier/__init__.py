"""Classifiers trained on real and on synthetic images, and what the comparison says."""
