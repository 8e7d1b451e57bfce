"""Labelled images by position, and the order in which training sees them."""
