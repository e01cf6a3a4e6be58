"""What helps category discovery, and what doesn't: a table with intervals.

    python -m examples.what_helps
    python -m examples.what_helps --datasets digits --seeds 2 --arms plain AGA EEP
    python -m examples.what_helps --inspect
    python -m examples.what_helps --large --images 60000 --output runs/large.csv

For each data set and seed one backbone is pretrained without labels, some views of each
image are drawn and run through its frozen blocks, and one reference model is trained on
the labeled images. All arms start there: same heads, batches, views and number of steps.
Each finished run is one row of a CSV file; the same command goes on where it stopped.

`--inspect` shows instead what the projection sees: how its weights are distributed, the
labeled reference and the conceptor's spectrum. `--large` takes a larger transformer, for
a machine with a GPU.

Accuracies are those of the last epoch. They need the true classes of the unlabeled
images, which had no part in the choice of any setting.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from eagc_jax import features
from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones import checkpoints
from eagc_jax.gcd.backbones.vit import VisionTransformer
from eagc_jax.gcd.methods import SimGCD
from eagc_jax.gcd.runs.comparison import finished, intervals, tables
from eagc_jax.gcd.runs.comparison.arms import ARMS, CONTROL, Arm
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training import pretraining, views
from eagc_jax.gcd.training.inputs import images_of
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.reference import train_reference
from eagc_jax.gcd.training.settings import ReferenceConfig, TrainConfig

DATASETS = ("digits", "fashion-mnist", "omniglot")
WARMUP = 0.15  # of the teacher, as a share of the run, as in the published settings
INSPECTED = ("EEP", "EEP 3", "EEP, centred", "EEP, refreshed")
LOG_EVERY = 20  # steps between two measurements of GDC


@dataclasses.dataclass(frozen=True)
class Size:
    """How long a run is on a data set; the same for all arms."""

    epochs: int
    reference_epochs: int
    views: int  # per image in the pool


SIZES = {
    "digits": Size(epochs=40, reference_epochs=30, views=16),
    "fashion-mnist": Size(epochs=10, reference_epochs=10, views=8),
    "omniglot": Size(epochs=40, reference_epochs=30, views=16),
}


# In place of width 64, depth 4, 4 heads: 27 times the work of a step.
LARGE = {"width": 256, "depth": 8, "heads": 8}


class Start(NamedTuple):
    """What all arms of a data set and seed share."""

    split: Records
    backbone: VisionTransformer
    reference: VisionTransformer
    pool: views.ViewPool


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console(width=120)
    if options.inspect:
        return inspect(options, console)
    arms = {name: ARMS[name] for name in options.arms}
    runs = finished.read_runs(options.output, console.print)
    done = finished.finished(runs)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for dataset in options.datasets:
        split = load(dataset, options, console)
        if split is None:
            return 2
        for seed in seeds:
            missing = [arm for arm in arms if (dataset, arm, seed) not in done]
            if not missing:
                continue
            start = prepare(dataset, split, seed, options, console)
            for name in missing:
                row = measure(dataset, start, name, arms[name], seed, options.epochs)
                finished.append_run(options.output, row)
                runs.append(row)
                console.print(
                    f"{dataset}, seed {seed}, {name}: All {row.all:.3f}, Old "
                    f"{row.old:.3f}, New {row.new:.3f}",
                    highlight=False,
                )
    shown = [
        run
        for dataset in options.datasets
        for arm in arms
        for run in runs
        if (run.dataset, run.arm) == (dataset, arm) and run.seed in seeds
    ]
    summaries = intervals.summarize(shown, CONTROL)
    print(tables.to_text(summaries, CONTROL))
    if options.markdown:
        options.markdown.write_text(tables.to_markdown(summaries, CONTROL))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=10_000, help="of Fashion-MNIST")
    parser.add_argument("--epochs", type=int, help="instead of the data set's own")
    parser.add_argument("--fashion-mnist", type=Path, help="folder of its IDX files")
    parser.add_argument("--omniglot", type=Path, help="its zip file or folder")
    parser.add_argument("--large", action="store_true", help="a larger transformer")
    parser.add_argument("--inspect", action="store_true", help="see above")
    parser.add_argument("--output", type=Path, default=Path("runs/what_helps.csv"))
    parser.add_argument("--markdown", type=Path, help="write the tables here, too")
    parser.add_argument("--cache", type=Path, default=Path("runs/backbones"))
    options = parser.parse_args(arguments)
    given = {"fashion-mnist": options.fashion_mnist, "omniglot": options.omniglot}
    options.paths = {name: path for name, path in given.items() if path is not None}
    return options


def load(dataset: str, options: argparse.Namespace, console: Console) -> Records | None:
    """The data set, or None after a message on how to get it."""
    arguments = {"images": options.images} if dataset == "fashion-mnist" else {}
    try:
        return sources.load(dataset, options.paths.get(dataset), **arguments)
    except (FileNotFoundError, ValueError) as error:
        console.print(f"{dataset}: {error}", style="red", markup=False)
        return None


def prepare(
    dataset: str,
    split: Records,
    seed: int,
    options: argparse.Namespace,
    console: Console,
) -> Start:
    """Backbone, views and reference model; the backbone is kept in the cache."""
    vit, recipe = pretraining.recipe(dataset)
    recipe = dataclasses.replace(recipe, seed=seed)
    if options.large:
        vit = dataclasses.replace(vit, **LARGE)
    size = "large-" if options.large else ""
    path = options.cache / f"{dataset}-{size}{len(split)}-{seed}.npz"
    if path.exists():
        backbone = checkpoints.load_backbone(path)
    else:
        console.print(f"{dataset}, seed {seed}: pretraining the backbone")
        backbone = pretraining.pretrain(images_of(split), vit, recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save_backbone(path, backbone)
    size = SIZES[dataset]
    pool = views.pool_views(
        jax.random.key(seed),
        images_of(split),
        backbone,
        recipe.augmentation,
        views=size.views,
    )
    config = ReferenceConfig(epochs=size.reference_epochs, seed=seed)
    reference = train_reference(config, split, backbone, pool)
    return Start(split, backbone, reference, pool)


def measure(
    dataset: str, start: Start, name: str, arm: Arm, seed: int, epochs: int | None
) -> finished.FinishedRun:
    """One run from its start to its last epoch."""
    run = arm_run(dataset, start, name, arm, seed, epochs)
    for _ in run:
        pass
    accuracy = run.evaluation.accuracy
    # Of the run: GDC is the mean over its measured steps. The median leaves the first
    # epoch's compilation out.
    return finished.FinishedRun(
        dataset=dataset,
        arm=name,
        seed=seed,
        **accuracy._asdict(),
        gdc=float(np.nanmean(run.history.gradient_deviation)),
        soc=run.evaluation.subspace_overlap,
        seconds_per_step=float(np.median(run.history.step_seconds)),
    )


def arm_run(
    dataset: str, start: Start, name: str, arm: Arm, seed: int, epochs: int | None
) -> TrainingRun:
    """The run of an arm, not yet trained."""
    number = epochs or SIZES[dataset].epochs
    method = SimGCD(
        teacher_warmup_epochs=max(round(WARMUP * number), 1),
        extra_head_layer=arm.extra_head,
    )
    config = TrainConfig(
        epochs=number,
        head_rate=arm.head_rate,
        log_every=LOG_EVERY,
        evaluate_every=number,  # the last epoch alone
        seed=seed,
    )
    aggregator = None
    if arm.aggregator is not None:
        aggregator = arm.aggregator.build(method.objective_weights)
    coordination = arm.coordination
    if coordination is not None:
        changes = {"refresh_epochs": coordination.refresh_epochs and -(-number // 10)}
        if arm.decay:
            changes["decay_epochs"] = number
        coordination = dataclasses.replace(coordination, **changes)
    return TrainingRun(
        config,
        start.split,
        start.reference if arm.warm else start.backbone,
        aggregator,
        method=method,
        coordination=coordination,
        reference=start.reference if arm.warm else None,
        pool=start.pool,
        name=name,
    )


def inspect(options: argparse.Namespace, console: Console) -> int:
    """Trains the arms that project, first seed alone; prints what they projected."""
    seed = options.first_seed
    console.print("projection weight: quantiles over unlabeled rows, mean over steps")
    for dataset in options.datasets:
        split = load(dataset, options, console)
        if split is None:
            return 2
        start = prepare(dataset, split, seed, options, console)
        for name in INSPECTED:
            run = arm_run(dataset, start, name, ARMS[name], seed, options.epochs)
            state = run.coordinator
            for _ in run:
                pass
            console.print(f"{dataset}, {name}: {what_it_saw(run, state)}")
    return 0


def what_it_saw(run: TrainingRun, state: features.CoordinatorState | None) -> str:
    assert state is not None
    steps = run.history.traces
    quantiles = np.concatenate([t.projection_quantiles for t in steps]).mean(axis=0)
    removed = np.concatenate([t.removed for t in steps]).mean()
    mu = float(state.labeled_reference), float(steps[-1].labeled_reference[-1])
    spectrum = np.linalg.eigvalsh(np.asarray(state.conceptor))
    return (
        f"weight {' '.join(f'{q:.3f}' for q in quantiles)}; {100 * removed:.1f} % of the "
        f"gradient's norm removed; mu {mu[0]:.3f} at first, {mu[1]:.3f} at last; "
        f"eigenvalues: {(spectrum > 0.5).sum()} of {len(spectrum)} above 0.5, "
        f"{(spectrum > 0.9).sum()} above 0.9, median {np.median(spectrum):.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
