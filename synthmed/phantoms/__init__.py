"""Drawn eyes whose truth is known, and how to measure it again."""
