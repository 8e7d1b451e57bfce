"""The training loop: knows no family of generators."""
