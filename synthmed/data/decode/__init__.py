"""Encoded images as their headers mean them: reduced to what the pixels need, bounded, then decoded."""
