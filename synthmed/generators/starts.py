"""Which model file a stage of training starts from; told before torch is imported."""

from __future__ import annotations

from pathlib import Path

from synthmed.errors import CheckpointError
from synthmed.formats.diffusers_files import find_weights
from synthmed.generators.family import Stage
from synthmed.generators.registry import MODEL


def find_start(stage: Stage, run: Path, chosen: Path | None = None) -> Path | None:
    """Return the model file that a stage starts from: the one that was chosen, else the run folder's own, else `None`.

    Args:
        stage: It prefers some of the stages before it to others.
        run: The run folder.
        chosen: Model file, run folder or folder that diffusers saved, from the command line.

    Raises:
        CheckpointError: There is nothing of the kind at `chosen`.
    """
    if chosen is not None and chosen.is_file():
        return chosen
    for name in stage.after:
        path = (chosen or run) / name / MODEL
        if path.is_file():
            return path
    if chosen is None:
        return None
    if found := find_weights(chosen):
        return found
    raise CheckpointError(
        f"no such {stage.after[-1]}: {chosen}", "give a model file, its run folder, or a folder that diffusers saved"
    )
