"""`synthmed train`."""

from __future__ import annotations

from synthmed.cli.common import JsonOption, print_json
from synthmed.cli.groups import grouped
from synthmed.cli.training import check_data, print_stage, register_model, stage_result, training_request
from synthmed.generators.family import StageRequest
from synthmed.runtime.launch import started_as_main


@grouped(request=training_request)
def train(*, request: StageRequest, as_json: JsonOption = False) -> None:
    """Train all stages of a model, one after the other. The same command goes on where it was stopped.

    Example: synthmed train --data shards/mine -o runs/mine

    When it ends, `synthmed generate` finds the model by the name of its data set. train-autoencoder and train-diffusion
    train single stages. Several GPUs: torchrun --nproc-per-node 4 -m synthmed train ...
    """
    check_data(request.data)
    from synthmed.generators.stages import run_recipe

    finished = list(run_recipe(request))
    if not started_as_main():
        return
    # The last stage's model is the whole one. Those of a run that was given up are not to be found by their data set.
    register_model(finished[-1][1])
    results = [stage_result(*stage) for stage in finished]
    if as_json:
        print_json(results)
    for result in () if as_json else results:
        print_stage(result)
