"""Medfusion's networks under its own parameter names, and what else can be a first stage."""
