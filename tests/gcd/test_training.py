"""The training loop: the published objectives, determinism, interrupts, no leaks."""

import csv
import dataclasses
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from eagc_jax import eagc, sum_objectives
from eagc_jax.gcd import baselines, checkpoints, data, models, pretraining, results
from eagc_jax.gcd.methods import Batch, SimGCD
from eagc_jax.gcd.metrics import Accuracy
from eagc_jax.gcd.training import TrainConfig, TrainingRun
from examples import gcd_vit
from tests.gcd import golden

CONFIG = TrainConfig(epochs=3, batch_size=32, log_every=2)
METHOD = SimGCD(head_hidden=8, head_projection=6, teacher_warmup_epochs=2)
PLAIN = sum_objectives(METHOD.objective_weights)
VIT = models.ViTConfig(
    image_size=8, patch_size=4, channels=1, width=8, depth=2, heads=2, mlp_ratio=1
)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def split():
    whole = data.load_digits()
    few = dataclasses.replace(whole, images=whole.images[:96], labels=whole.labels[:96])
    return data.split_categories(few, range(5))


@pytest.fixture(scope="module")
def backbone():
    return nnx.jit(lambda: models.VisionTransformer(VIT, rngs=nnx.Rngs(0)))()


@pytest.fixture(scope="module")
def plain(split, backbone):
    run = TrainingRun(CONFIG, split, backbone, PLAIN, method=METHOD, name="plain")
    assert list(run) == [1, 2, 3]
    return run


@pytest.fixture(scope="module")
def coordinated(split, backbone):
    aggregator = eagc(2, weights=METHOD.objective_weights, warmup_steps=2)
    run = TrainingRun(CONFIG, split, backbone, aggregator, method=METHOD, name="EAGC")
    next(iter(run))
    return run


@pytest.mark.parametrize("name", ["simgcd_losses_0", "simgcd_losses_1"])
def test_weighted_objectives_are_the_published_total(name):
    case = golden.load(name)
    batch = Batch(case["labels"], case["labeled_mask"], jnp.float32(3))
    objectives = jax.jit(
        lambda p, z: jnp.stack(SimGCD().objectives_of_outputs(p, z, batch))
    )(case["projections"], case["logits"])
    total = jnp.dot(objectives, jnp.array(SimGCD().objective_weights))
    np.testing.assert_allclose(total, case["total"], rtol=1e-5)


def test_teacher_temperature_is_the_published_schedule():
    method = SimGCD(teacher_warmup_epochs=6)
    found = [method.teacher_temperature_at(jnp.float32(epoch)) for epoch in range(20)]
    expected = np.concatenate([np.linspace(0.07, 0.04, 6), np.full(14, 0.04)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    no_warmup = SimGCD(teacher_warmup_epochs=0)
    np.testing.assert_allclose(no_warmup.teacher_temperature_at(0), 0.04, rtol=1e-6)


def test_history_has_one_entry_per_epoch(plain):
    history = plain.history
    assert history.epochs == [1, 2, 3]
    assert len(history.accuracy) == len(history.seconds) == 3
    assert {name: len(values) for name, values in history.losses.items()} == {
        "supervised": 3,
        "unsupervised": 3,
    }
    assert np.all(np.isfinite(list(history.losses.values())))
    assert history.losses["supervised"][2] < history.losses["supervised"][0]
    assert history.gate == history.energy == history.layers == []


def test_stopping_and_going_on_is_the_same_as_never_stopping(plain, split, backbone):
    run = TrainingRun(CONFIG, split, backbone, PLAIN, method=METHOD)
    for _ in run:
        break
    assert run.history.epochs == [1]
    assert run.evaluation.accuracy == run.history.accuracy[0]
    assert list(run) == [2, 3]
    assert run.history.losses == plain.history.losses
    np.testing.assert_array_equal(
        run.evaluation.predictions, plain.evaluation.predictions
    )


def test_the_seed_changes_the_run_but_not_the_problem(plain, split, backbone):
    config = dataclasses.replace(CONFIG, seed=1)
    run = TrainingRun(config, split, backbone, PLAIN, method=METHOD)
    np.testing.assert_array_equal(run.pretrained_features, plain.pretrained_features)
    next(iter(run))
    assert run.history.losses["supervised"][0] != plain.history.losses["supervised"][0]


def test_labels_of_unlabeled_images_never_reach_training(plain, split, backbone):
    shuffled = np.where(split.labeled_mask, split.labels, split.labels[::-1])
    blind = dataclasses.replace(split, labels=shuffled)
    run = TrainingRun(CONFIG, blind, backbone, PLAIN, method=METHOD)
    next(iter(run))
    for name, values in plain.history.losses.items():
        assert run.history.losses[name][0] == values[0]


def test_training_is_given_the_labeled_images_labels_alone(plain, split):
    labels, labeled_mask = plain._data.labels, plain._data.labeled_mask
    np.testing.assert_array_equal(labeled_mask, split.labeled_mask)
    np.testing.assert_array_equal(labels >= 0, split.labeled_mask)


def test_only_the_last_block_and_the_heads_move(plain, backbone):
    before = checkpoints._parameters(backbone)
    after = checkpoints._parameters(plain.model.backbone)
    moved = {name for name in before if np.any(before[name] != after[name])}
    assert moved
    assert all(name.startswith("blocks.1.") for name in moved)


def test_the_model_is_what_was_evaluated(plain, split):
    images = jnp.asarray(split.images[~split.labeled_mask])
    logits = nnx.jit(lambda m, x: m(m.tokens(x))[1])(plain.model, images)
    np.testing.assert_array_equal(logits.argmax(1), plain.evaluation.predictions)


@pytest.mark.slow
def test_any_aggregator_will_do(split, backbone, plain):
    weights = jnp.array(CONFIG.objective_weights)

    def combine(updates, params):
        return jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), updates)

    run = TrainingRun(CONFIG, split, backbone, optax.stateless(combine), method=METHOD)
    next(iter(run))
    for name, values in plain.history.losses.items():
        np.testing.assert_allclose(run.history.losses[name][0], values[0], rtol=1e-4)


def test_gates_and_energies_are_recorded_by_layer(coordinated):
    history = coordinated.history
    count = len(history.layers)
    assert history.gate[0].shape == history.energy[0].shape == (2, count)
    assert "head/classifier/kernel" in history.layers
    assert "backbone/blocks/1/attn/qkv/kernel" in history.layers
    np.testing.assert_allclose(history.gate[0].sum(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("head_rate", 0.0),
        ("log_every", -1),
        ("weight_decay", -1.0),
    ],
)
def test_wrong_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        dataclasses.replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("student_temperature", -0.1),
        ("supervised_weight", 1.5),
        ("entropy_weight", -1.0),
        ("head_hidden", 0),
    ],
)
def test_wrong_settings_of_the_method_name_the_field(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        dataclasses.replace(METHOD, **{field: value})


def test_wrong_inputs_name_the_argument(split, backbone):
    with pytest.raises(ValueError, match="batch_size must be at most the 96 images"):
        TrainingRun(dataclasses.replace(CONFIG, batch_size=97), split, backbone)
    large = dataclasses.replace(split, images=np.zeros((96, 9, 9, 1), np.float32))
    with pytest.raises(ValueError, match=r"images must have shape \(B, 8, 8, 1\)"):
        TrainingRun(CONFIG, large, backbone)
    with pytest.raises(ValueError, match=r"features must have shape \(N, D\)"):
        baselines.kmeans_predictions(np.zeros((3, 2)), 4, seed=0)


def test_results_hold_every_epoch_and_no_nan(tmp_path, plain, coordinated):
    folder = results.open_folder(tmp_path / "a" / "run")
    settings = results.describe_settings(CONFIG, data="digits")
    runs = {"plain": plain.history, "EAGC": coordinated.history}
    results.write_results(
        folder, settings, runs, {"k-means": Accuracy(0.5, 0.5, float("nan"))}
    )
    rows = read_lines(folder / "metrics.jsonl")
    assert [(row["run"], row["epoch"]) for row in rows] == [
        ("k-means", 0),
        *(("plain", epoch) for epoch in (1, 2, 3)),
        ("EAGC", 1),
    ]
    assert rows[0]["new"] is None
    gate = rows[-1]["gate"]["head/classifier/kernel"]
    assert gate["supervised"] + gate["unsupervised"] == pytest.approx(1)
    table = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert float(table[1]["all"]) == plain.history.accuracy[0].all
    assert float(table[-1]["energy_ratio"]) > 0
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["batch_size"] == 32
    assert config["versions"]["jax"] == jax.__version__
    names = {"config.json", "metrics.csv", "metrics.jsonl"}
    assert {file.name for file in folder.iterdir()} == names


def test_only_folders_of_our_own_are_taken_over(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="did not write"):
        results.open_folder(tmp_path / "theirs")
    (tmp_path / "theirs" / "config.json").write_text('{"epochs": 3}')
    with pytest.raises(FileExistsError, match="did not write"):
        results.open_folder(tmp_path / "theirs")
    with pytest.raises(FileExistsError, match="is a file"):
        results.open_folder(tmp_path / "theirs" / "thesis.tex")
    ours = results.open_folder(tmp_path / "ours")
    results.write_results(ours, results.describe_settings(CONFIG), {}, {})
    assert results.open_folder(ours) == ours


PRETRAINING = pretraining.PretrainConfig(
    epochs=3, warmup_epochs=0, batch_size=48, learning_rate=3e-3, hidden=8
)


def test_pretraining_learns(split):
    seen: list[float] = []
    backbone = pretraining.pretrain(
        split.images, VIT, PRETRAINING, lambda epoch, loss: seen.append(loss)
    )
    assert backbone.config == VIT
    assert seen[2] < seen[0]


@pytest.mark.slow
def test_pretraining_repeats_itself_with_its_seed(split):
    first, again, other = (
        pretraining.pretrain(
            split.images, VIT, dataclasses.replace(PRETRAINING, epochs=1, seed=seed)
        ).norm.bias[...]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_wrong_pretraining_names_the_argument(split):
    with pytest.raises(ValueError, match="images must number at least"):
        pretraining.pretrain(split.images[:5], VIT, PRETRAINING)
    with pytest.raises(ValueError, match="epochs must exceed"):
        dataclasses.replace(PRETRAINING, warmup_epochs=3)
    with pytest.raises(ValueError, match="temperature must be positive"):
        dataclasses.replace(PRETRAINING, temperature=0.0)


@pytest.fixture
def small_demo(monkeypatch, split, backbone):
    """The example on few images and a tiny backbone, without its report."""
    monkeypatch.setattr(gcd_vit.data, "split_categories", lambda *_: split)
    monkeypatch.setattr(gcd_vit, "load_backbone", lambda: backbone)
    # The compilations of the other tests serve here too.
    config = mock.Mock(return_value=CONFIG, epochs=CONFIG.epochs)
    monkeypatch.setattr(gcd_vit, "TrainConfig", config)
    monkeypatch.setattr(gcd_vit, "SimGCD", lambda: METHOD)
    monkeypatch.setattr(gcd_vit, "sum_objectives", lambda _: PLAIN)
    monkeypatch.setattr(
        gcd_vit, "write_report", lambda folder, *_: folder / "index.html"
    )


def interrupt_after(epochs):
    def train(run, progress):
        for epoch in run:
            if epoch == epochs:
                raise KeyboardInterrupt
        raise AssertionError("ran to its end")

    def at_once(run, progress):
        raise KeyboardInterrupt

    return train if epochs else at_once


def test_an_interrupt_keeps_finished_epochs(small_demo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gcd_vit, "train", interrupt_after(2))
    assert gcd_vit.main(["--output", str(tmp_path / "demo")]) == 130
    out = " ".join(capsys.readouterr().out.split())
    assert "Kept the finished epochs (2 of plain summation)" in out
    rows = read_lines(tmp_path / "demo/metrics.jsonl")
    assert [row["epoch"] for row in rows] == [0, 1, 2]


def test_an_interrupt_before_the_first_epoch(small_demo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gcd_vit, "train", interrupt_after(0))
    assert gcd_vit.main(["--output", str(tmp_path / "demo")]) == 130
    assert "nothing to keep" in capsys.readouterr().out
    assert list((tmp_path / "demo").iterdir()) == []


def test_a_foreign_folder_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert gcd_vit.main(["--output", str(tmp_path)]) == 2
    assert "did not write" in " ".join(capsys.readouterr().out.split())
    assert gcd_vit.main(["--epochs", "0", "--output", str(tmp_path / "new")]) == 2


@pytest.mark.slow
def test_the_demo_reaches_its_figures_and_repeats_them(tmp_path):
    tables = []
    for name in ("first", "second"):
        folder = tmp_path / name
        assert gcd_vit.main(["--output", str(folder)]) == 0
        rows = read_lines(folder / "metrics.jsonl")
        for row in rows:
            row.pop("seconds", None)
        tables.append(rows)
    assert tables[0] == tables[1]
    last = {row["run"]: row for row in tables[0]}
    plain = last["plain summation"]
    assert plain["all"] >= 0.78
    assert plain["old"] >= 0.90
    assert plain["new"] >= 0.70
    assert plain["all"] > last["k-means"]["all"]
    assert last["EAGC"]["all"] >= 0.78
    assert (tmp_path / "first" / "index.html").stat().st_size > 10_000
