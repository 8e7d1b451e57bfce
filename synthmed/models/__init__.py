"""Medfusion's networks, under Medfusion's parameter names."""
