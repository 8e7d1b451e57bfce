"""`synthmed train`."""

from __future__ import annotations

from synthmed.cli.common import JsonOption, print_json
from synthmed.cli.groups import grouped
from synthmed.cli.training import print_stage, register_stage, training_request
from synthmed.generators.family import StageRequest


@grouped(request=training_request)
def train(*, request: StageRequest, as_json: JsonOption = False) -> None:
    """Train all stages of a model, one after the other. The same command goes on where it was stopped.

    Example: synthmed train --data shards/mine -o runs/mine

    When it ends, `synthmed generate` finds the model by the name of its data set. train-autoencoder and train-diffusion
    train single stages. Several GPUs: torchrun --nproc-per-node 4 -m synthmed train ...
    """
    from synthmed.generators.stages import run_recipe
    from synthmed.runtime.processes import started_as_main

    results = []
    for stage, figures in run_recipe(request):
        if started_as_main():
            results.append(register_stage(stage, figures))
    if as_json and results:
        print_json(results)
    else:
        for result in results:
            print_stage(result)
