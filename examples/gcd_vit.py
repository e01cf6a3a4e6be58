"""Discover digits that nobody labeled: plain summation against EAGC.

    python -m examples.gcd_vit

A small Vision Transformer has seen scikit-learn's digits without any label. Now half of
the images of 0 to 4 get their labels, and the model is to sort all other images into
ten classes: five it knows, five it has to discover. Two objectives train its last block
and its heads (SimGCD's): a supervised one on labeled rows, an unsupervised one on all
rows. The two runs differ in one line only: how two gradients become one update.

Flags choose another method for both runs, and what the second run does instead: any
aggregator, and the published coordinator at the feature, which starts from a model
trained on the labeled images (`--reference-epochs`).

With `--data-parallel` all devices divide every batch; several processes do so too, each
started with the same command but its own `--process` (docs/scaling.md).
"""

import argparse
import sys
from pathlib import Path

from jax.sharding import Mesh
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones.checkpoints import load_backbone
from eagc_jax.gcd.evaluation.accuracy import Accuracy, cluster_accuracy
from eagc_jax.gcd.evaluation.baselines import kmeans_predictions
from eagc_jax.gcd.methods import METHODS
from eagc_jax.gcd.report import write_report
from eagc_jax.gcd.runs import results
from eagc_jax.gcd.runs.history import Snapshot
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training import parallel
from eagc_jax.gcd.training.aggregation import Aggregation, aggregator_names
from eagc_jax.gcd.training.inputs import images_of
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.settings import (
    COORDINATION_MODES,
    FeatureCoordination,
    ReferenceConfig,
    TrainConfig,
)

KNOWN = range(5)
PLAIN = "plain summation"
# The best of the settings that python -m benchmarks.gcd_settings compares. Over ten
# seeds it is as good as plain summation; energy="magnitude" is worse.
EAGC = Aggregation(
    "eagc", {"preset": "article", "energy": "exploratory", "temperature": 0.5}
)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        mesh = devices(options)
    except (RuntimeError, ValueError) as error:
        Console().print(str(error), style="red", markup=False)
        return 2
    # Every process trains; the first one prints and writes.
    console = Console(quiet=not parallel.is_first())
    try:
        folder = options.output
        if parallel.is_first():
            folder = results.open_folder(folder)  # before the work, not after it
        settings = chosen_runs(options)
    except (FileExistsError, ValueError) as error:
        console.print(str(error), style="red", markup=False)
        return 2
    split = sources.load("digits", known_classes=KNOWN)
    introduce(console, split)

    runs: dict[str, TrainingRun] = {}
    interrupted = False
    try:
        with progress_bars(console) as progress:
            for name, one in settings.items():
                runs[name] = one.start(split, load_backbone(), mesh=mesh, name=name)
                train(runs[name], progress)
    except KeyboardInterrupt:
        interrupted = True

    finished = {name: run for name, run in runs.items() if run.history.epochs}
    if not finished:
        console.print("Interrupted before the first epoch was over; nothing to keep.")
        return 130
    if not parallel.is_first():
        return 130 if interrupted else 0
    page = write(folder, settings, split, finished, console)
    if interrupted:
        kept = ", ".join(
            f"{len(run.history.epochs)} of {name}" for name, run in finished.items()
        )
        console.print(
            f"Interrupted. Kept the finished epochs ({kept}) in {folder}; an epoch "
            "that was under way is lost. The same command starts over."
        )
        return 130
    console.print(f"Plots, clusters and settings: [bold]{page}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of heads, batches, views")
    parser.add_argument("--epochs", type=int, default=TrainConfig.epochs)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--fast", action="store_true", help="two epochs: does it run at all?"
    )
    parser.add_argument(
        "--method", choices=tuple(METHODS), default="simgcd", help="of both runs"
    )
    parser.add_argument(
        "--aggregator",
        metavar="NAME",
        choices=aggregator_names(),
        help="of the second run: eagc (the default), sum (the default with "
        f"--coordination), {', '.join(aggregator_names()[2:])}",
    )
    parser.add_argument(
        "--coordination",
        choices=("none", *COORDINATION_MODES),
        default="none",
        help="of the second run, at the feature; starts from the reference model",
    )
    parser.add_argument(
        "--reference-epochs",
        type=int,
        default=ReferenceConfig.epochs,
        help="of supervised training before a coordinated run",
    )
    several = parser.add_argument_group("several devices, several processes")
    several.add_argument(
        "--data-parallel",
        action="store_true",
        help="divide every batch over all devices; several processes always do",
    )
    several.add_argument(
        "--cluster",
        action="store_true",
        help="JAX finds the other processes: on a TPU pod, under Slurm or Open MPI",
    )
    several.add_argument(
        "--coordinator-address", metavar="HOST:PORT", help="of process 0"
    )
    several.add_argument("--processes", type=int, metavar="N", help="in all")
    several.add_argument("--process", type=int, metavar="I", help="this one, from 0")
    options = parser.parse_args(arguments)
    if options.fast:
        options.epochs = 2
        options.reference_epochs = 2
    return options


def devices(options: argparse.Namespace) -> Mesh | None:
    """Joins the other processes, where there are any; the devices to divide batches."""
    where = (options.coordinator_address, options.processes, options.process)
    several = options.cluster or any(value is not None for value in where)
    if several:
        parallel.start(*where)
    return parallel.data_mesh() if several or options.data_parallel else None


def chosen_runs(options: argparse.Namespace) -> dict[str, RunSettings]:
    """Plain summation, and what the flags say; alone, if that is the same."""
    method = METHODS[options.method]()
    coordination = reference = None
    if options.coordination != "none":
        coordination = FeatureCoordination(mode=options.coordination)
        reference = ReferenceConfig(epochs=options.reference_epochs, seed=options.seed)
    name = options.aggregator or ("eagc" if coordination is None else "sum")
    aggregator = EAGC if name == "eagc" else Aggregation(name)
    aggregator.build(method.objective_weights)  # complains now rather than later
    config = TrainConfig(epochs=options.epochs, seed=options.seed)
    runs = {PLAIN: RunSettings(method, config, Aggregation("sum"))}
    parts = [] if name == "sum" else ["EAGC" if name == "eagc" else name]
    if coordination is not None:
        parts.append(f"{coordination.mode} coordinator")
    if parts:
        second = RunSettings(method, config, aggregator, coordination, reference)
        runs[" + ".join(parts)] = second
    return runs


def introduce(console: Console, split: Records) -> None:
    """What is known, and what is not."""
    known, novel = (
        ", ".join(names)
        for names in (
            split.class_names[: split.num_known],
            split.class_names[split.num_known :],
        )
    )
    unlabeled = ~split.labeled_mask
    console.print(
        f"Known: that there are {split.num_classes} classes; what {known} look like, "
        f"from {split.labeled_mask.sum()} labeled images.\n"
        f"Not known: the class of {unlabeled.sum()} unlabeled images. "
        f"{(unlabeled & split.old_mask).sum()} of them show {known} again, "
        f"{(unlabeled & ~split.old_mask).sum()} show {novel}, which have no label at "
        "all. Their true classes serve for scoring alone."
    )


def progress_bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<15.24}"),
        BarColumn(bar_width=10),  # all of it in 80 columns
        MofNCompleteColumn(),
        TextColumn("epochs {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[accuracy]}"),
        console=console,
    )


def train(run: TrainingRun, progress: Progress) -> None:
    task = progress.add_task(
        run.history.name, total=run.config.epochs, rate="compiling", accuracy=""
    )
    for epoch in run:
        progress.update(
            task,
            completed=epoch,
            rate=f"{1 / run.history.seconds[-1]:.1f}/s",
            accuracy=f"All {run.evaluation.accuracy.all:.3f}",
        )


def write(
    folder: Path,
    chosen: dict[str, RunSettings],
    split: Records,
    runs: dict[str, TrainingRun],
    console: Console,
) -> Path:
    """Prints the table and writes the folder; returns the page to open."""
    histories = {name: run.history for name, run in runs.items()}
    baseline = score_kmeans(split, next(iter(runs.values())))
    accuracy = {name: run.evaluation.accuracy for name, run in runs.items()}
    console.print(table({"k-means on the features": baseline, **accuracy}))

    settings = results.describe_settings(
        {name: chosen[name] for name in runs}, data=split.name
    )
    results.write_results(folder, settings, histories, {"k-means": baseline})
    unlabeled = ~split.labeled_mask
    snapshot = Snapshot(
        title="Discovering digits that nobody labeled",
        settings=settings,
        images=images_of(split)[unlabeled],
        labels=split.truth[unlabeled],
        old_mask=split.old_mask[unlabeled],
        class_names=split.class_names,
        features={name: run.evaluation.features for name, run in runs.items()},
        predictions={name: run.evaluation.predictions for name, run in runs.items()},
        accuracy={"k-means": baseline, **accuracy},
        known_classes=tuple(range(split.num_known)),
    )
    return write_report(folder, histories, snapshot)


def score_kmeans(split: Records, run: TrainingRun) -> Accuracy:
    """Clustering the pretrained features as they are: what training starts from."""
    classes, seed = run.task.num_classes, run.config.seed
    clusters = kmeans_predictions(run.pretrained_features, classes, seed)
    unlabeled = ~split.labeled_mask
    return cluster_accuracy(split.truth[unlabeled], clusters, split.old_mask[unlabeled])


def table(accuracy: dict[str, Accuracy]) -> Table:
    """All, Old and New by the Hungarian protocol on the unlabeled images."""
    shown = Table(title="Accuracy on the unlabeled images, last epoch")
    shown.add_column("")
    for column in ("All", "Old", "New"):
        shown.add_column(column, justify="right")
    for name, values in accuracy.items():
        shown.add_row(name, *(f"{value:.3f}" for value in values))
    return shown


if __name__ == "__main__":
    sys.exit(main())
