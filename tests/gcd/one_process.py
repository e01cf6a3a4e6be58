"""One of several processes that train the tiny problem, for test_processes.py.

    python -m tests.gcd.one_process ADDRESS PROCESSES PROCESS DEVICES FILE [CHANGE]

DEVICES are this process's; process 0 writes parameters and history to FILE. A CHANGE
makes the last process another than the others: "config", "data", "aggregator",
"backbone", or "lost" (it ends after the first epoch, without a word). With "saved" all
of them keep checkpoints beside FILE, and leave a run that is new after an epoch.
"""

import dataclasses
import os
import sys

import jax


def tiny_run(mesh, change=None, checkpoints=None):
    """The run, and everything that a change may alter."""
    # Here, since importing these already asks JAX for its devices.
    from flax import nnx

    from eagc_jax.gcd import sources
    from eagc_jax.gcd.backbones import vit as models
    from eagc_jax.gcd.training.aggregation import Aggregation
    from eagc_jax.gcd.training.loop import TrainingRun
    from tests.gcd import tiny

    def another(truth):
        truth[0] = (truth[0] + 1) % 10
        return truth

    few = tiny.digits(another if change == "data" else None)
    config = dataclasses.replace(tiny.CONFIG, epochs=2, log_every=0)
    if change == "config":
        config = dataclasses.replace(config, learning_rate=0.05)
    seed = 1 if change == "backbone" else 0
    backbone = nnx.jit(
        lambda: models.VisionTransformer(tiny.VIT, rngs=nnx.Rngs(seed))
    )()
    options = {"granularity": "tensor", "warmup_steps": 2}
    floor = 0.1 if change == "aggregator" else 0.0
    aggregation = Aggregation("eagc", {"preset": "article", **options, "floor": floor})
    return TrainingRun(
        config,
        sources.pose(few, range(5)),
        backbone,
        aggregation.build(tiny.METHOD.objective_weights),
        method=tiny.METHOD,
        mesh=mesh,
        checkpoints=checkpoints,
    )


def found(run):
    """Parameters by name, losses and predictions, as NumPy arrays."""
    import numpy as np
    from flax import nnx

    from eagc_jax.objectives import named_leaves

    params = named_leaves(nnx.to_pure_dict(nnx.state(run.model, nnx.Param)))
    arrays = {name: np.asarray(leaf) for name, leaf in params.items()}
    losses = [run.history.losses[name] for name in run.history.objective_names]
    return arrays | {
        "losses": np.array(losses, np.float32),
        "predictions": run.evaluation.predictions,
    }


def main(arguments):
    address, number, process, devices, target, *rest = arguments
    number, process = int(number), int(process)
    saved = rest == ["saved"]
    change = rest[0] if rest and process == number - 1 and not saved else None
    jax.config.update("jax_num_cpu_devices", int(devices))
    import numpy as np

    from eagc_jax.gcd.training import parallel

    parallel.start(address, number, process, heartbeat_seconds=10)
    folder = f"{target}.checkpoints" if saved else None
    run = tiny_run(parallel.data_mesh(), change, folder)
    begun = bool(run.history.epochs)
    for _ in run:
        if saved and not begun:
            return
        if change == "lost":
            os._exit(3)
    if parallel.is_first():
        np.savez(target, **found(run))


if __name__ == "__main__":
    main(sys.argv[1:])
