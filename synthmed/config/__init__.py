"""Configuration: described fields, strict tables, recipe files."""
