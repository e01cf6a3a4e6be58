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
from PIL import Image

from eagc_jax import features
from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones import weights
from eagc_jax.gcd.evaluation import baselines
from eagc_jax.gcd.evaluation.accuracy import Accuracy
from eagc_jax.gcd.methods import Batch, SimGCD
from eagc_jax.gcd.runs import results
from eagc_jax.gcd.settings import running as settings
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import ArrayItems
from eagc_jax.gcd.training import pretraining
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.epoch import optimizer_of, strength
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.settings import (
    FeatureCoordination,
    ReferenceConfig,
)
from examples import gcd_vit
from tests.gcd import golden
from tests.gcd.tiny import CONFIG, METHOD, VIT, plain_sum

PLAIN = plain_sum()
AUDITED = RunSettings(
    METHOD,
    dataclasses.replace(CONFIG, evaluate_every=2),
    Aggregation(
        "eagc", {"preset": "article", "warmup_steps": 2, "granularity": "tensor"}
    ),
    FeatureCoordination(refresh_epochs=2, decay_epochs=4),
    ReferenceConfig(epochs=1, batch_size=8),
)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(split, backbone):
    run = TrainingRun(CONFIG, split, backbone, PLAIN, method=METHOD, name="plain")
    assert list(run) == [1, 2, 3]
    return run


@pytest.fixture(scope="module")
def audited(split, backbone):
    """All there is: reference model, coordinator, gate; every other epoch evaluated."""
    run = AUDITED.start(split, backbone, name="audited")
    run.initial_features = run._features(run._carry.params)
    run.states = [run.coordinator]
    run.features = []
    for _ in run:
        run.states.append(run.coordinator)
        run.features.append(run.evaluation.features)
    return run


@pytest.mark.parametrize("name", ["simgcd_losses_0", "simgcd_losses_1"])
def test_weighted_objectives_are_the_published_total(name):
    case = golden.load(name)
    batch = Batch(case["labels"], case["labeled_mask"], jnp.float32(3))
    objectives = jax.jit(
        lambda p, z: jnp.stack(SimGCD().objectives_of_outputs(p, z, batch))
    )(case["projections"], case["logits"])
    total = np.dot(objectives, SimGCD().objective_weights)
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
    assert history.decided == history.energy == history.layers == []


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
    blind = dataclasses.replace(split, truth=split.truth[::-1])
    run = TrainingRun(CONFIG, blind, backbone, PLAIN, method=METHOD)
    next(iter(run))
    for name, values in plain.history.losses.items():
        assert run.history.losses[name][0] == values[0]


def test_only_the_last_block_and_the_heads_move(plain, backbone):
    before = weights.parameters(backbone)
    after = weights.parameters(plain.model.backbone)
    moved = {name for name in before if np.any(before[name] != after[name])}
    assert moved
    assert all(name.startswith("blocks.1.") for name in moved)


def test_the_model_is_what_was_evaluated(plain, split):
    images = split.items.array[~split.labeled_mask]
    logits = nnx.jit(lambda m, x: m(m.tokens(x))[1])(plain.model, images)
    np.testing.assert_array_equal(logits.argmax(1), plain.evaluation.predictions)


@pytest.mark.slow
def test_any_aggregator_will_do(split, backbone, plain):
    weights = jnp.array(METHOD.objective_weights)

    def combine(updates, params):
        return jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), updates)

    run = TrainingRun(CONFIG, split, backbone, optax.stateless(combine), method=METHOD)
    next(iter(run))
    for name, values in plain.history.losses.items():
        np.testing.assert_allclose(run.history.losses[name][0], values[0], rtol=1e-4)


def test_gates_and_energies_are_recorded_by_layer(audited):
    history = audited.history
    count = len(history.layers)
    assert history.decided[0].shape == history.energy[0].shape == (2, count)
    assert "head/classifier/kernel" in history.layers
    assert "backbone/blocks/1/attn/qkv/kernel" in history.layers
    np.testing.assert_allclose(history.decided[0].sum(axis=0), 1, rtol=1e-5)


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
    with pytest.raises(ValueError, match="batch_size must be at most the 96 items of"):
        TrainingRun(dataclasses.replace(CONFIG, batch_size=97), split, backbone)
    large = ArrayItems(np.zeros((96, 9, 9, 1), np.float32))
    large = dataclasses.replace(split, items=large)
    with pytest.raises(ValueError, match=r"images must have shape \(B, 8, 8, 1\)"):
        TrainingRun(CONFIG, large, backbone)
    with pytest.raises(ValueError, match=r"features must have shape \(N, D\)"):
        baselines.kmeans_predictions(np.zeros((3, 2)), 4, seed=0)


def test_an_evaluation_every_other_epoch(audited):
    history = audited.history
    evaluated = [np.isfinite(accuracy.all) for accuracy in history.accuracy]
    assert evaluated == [False, True, True]  # the last epoch always is
    assert list(np.isfinite(history.subspace_overlap)) == evaluated
    assert [len(found) > 0 for found in audited.features] == evaluated


def test_the_conceptor_is_renewed_when_it_is_due(audited, split):
    start, first, second, third = (np.asarray(s.conceptor) for s in audited.states)
    np.testing.assert_array_equal(start, first)
    assert np.any(first != second)
    np.testing.assert_array_equal(second, third)
    # The student's conceptor after the second epoch isn't kept anywhere else; the first
    # one is of the reference model's features, which the run started from.
    labeled = audited.initial_features[split.labeled_mask]
    np.testing.assert_allclose(features.conceptor(labeled), start, atol=1e-5)
    assert [int(s.step) for s in audited.states] == [0, 3, 0, 3]


def test_strength_falls_to_nothing():
    settings = FeatureCoordination(decay_epochs=4)
    found = [float(strength(settings, jnp.float32(e))) for e in range(6)]
    assert found == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert strength(FeatureCoordination(), jnp.float32(99)) == 1


def test_the_heads_move_as_if_their_rate_were_multiplied():
    ones = np.ones((2, 2), np.float32)
    params = {"backbone": {"a": ones}, "head": {"b": ones}}
    moved = []
    for rate in (1.0, 10.0):
        config = dataclasses.replace(CONFIG, head_rate=rate, weight_decay=0.1)
        optimizer = optimizer_of(config, None, steps=4)
        update = jax.jit(optimizer.update)
        state, total = optimizer.init(params), jax.tree.map(np.zeros_like, params)
        for scale in np.float32([1.0, -3.0]):  # with momentum
            gradients = jax.tree.map(lambda leaf, s=scale: s * leaf, params)
            updates, state = update(gradients, state, params)
            total = jax.tree.map(np.add, total, updates)
        moved.append(total)
    np.testing.assert_array_equal(moved[1]["backbone"]["a"], moved[0]["backbone"]["a"])
    np.testing.assert_allclose(
        moved[1]["head"]["b"], 10 * moved[0]["head"]["b"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aga_weight": -0.1}, "aga_weight must be at least 0"),
        ({"eep_weight": -0.1}, "eep_weight must be at least 0"),
        ({"refresh_epochs": -1}, "refresh_epochs must be at least 0"),
        ({"decay_epochs": -1}, "decay_epochs must be at least 0"),
        ({"aperture": 0.0}, "aperture must be positive"),
        ({"mode": "both"}, "mode must be one of .*'paper'.*got 'both'"),
        ({"max_projection": 1.5}, r"max_projection must be in \[0, 1\] or None"),
    ],
)
def test_wrong_coordination_names_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        FeatureCoordination(**changes)


def test_results_hold_every_epoch_and_no_nan(tmp_path, plain, audited):
    folder = results.open_folder(tmp_path / "a" / "run")
    described = results.describe_settings({"EAGC": AUDITED}, data="digits")
    runs = {"plain": plain.history, "EAGC": audited.history}
    results.write_results(
        folder, described, runs, {"k-means": Accuracy(0.5, 0.5, float("nan"))}
    )
    rows = read_lines(folder / "metrics.jsonl")
    assert [(row["run"], row["epoch"]) for row in rows] == [
        ("k-means", 0),
        *(("plain", epoch) for epoch in (1, 2, 3)),
        *(("audited", epoch) for epoch in (1, 2, 3)),
    ]
    assert rows[0]["new"] is rows[4]["all"] is rows[4]["soc"] is None
    assert rows[1]["gdc"] == plain.history.gradient_deviation[0]
    assert rows[1]["soc"] == plain.history.subspace_overlap[0]
    assert 0 < rows[1]["step_seconds"] < rows[1]["seconds"]
    gate = rows[-1]["gate"]["head/classifier/kernel"]
    assert gate["supervised"] + gate["unsupervised"] == pytest.approx(1)
    table = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert float(table[1]["all"]) == plain.history.accuracy[0].all
    assert table[4]["all"] == table[4]["soc"] == ""
    assert float(table[-1]["energy_ratio"]) > 0
    config = json.loads((folder / "config.json").read_text())
    assert config["runs"]["EAGC"]["training"]["batch_size"] == 32
    assert config["versions"]["jax"] == jax.__version__
    names = {"config.json", "metrics.csv", "metrics.jsonl", "steps.jsonl"}
    assert {file.name for file in folder.iterdir()} == names


def test_every_step_is_on_record(tmp_path, plain, audited):
    runs = {"plain": plain.history, "audited": audited.history}
    results.write_results(tmp_path, {}, runs, {})
    rows = read_lines(tmp_path / "steps.jsonl")
    assert [(row["run"], row["epoch"], row["step"]) for row in rows] == [
        (name, 1 + step // 3, 1 + step) for name in runs for step in range(9)
    ]
    assert not any("gates" in row or "coordinator" in row for row in rows[:9])
    for row, (epoch, step) in zip(rows[9:], np.ndindex(3, 3), strict=True):
        trace = audited.history.traces[epoch]
        assert np.float32(row["loss"]["unsupervised"]) == trace.losses[step, 1]
        assert ("cosines" in row) == ("gradient_norms" in row) == (step % 2 == 0)
        if step % 2:
            assert row["gdc"] is None
        else:
            layer = audited.history.parameters[4]
            norm = np.float32(row["gradient_norms"][layer]["supervised"])
            assert norm == trace.gradient_norms[step, 0, 4]
            assert np.float32(row["gdc"]) == trace.gradient_deviation[step]
        layer = audited.history.layers[2]
        gate = np.float32(row["gates"][layer]["supervised"])
        assert gate == trace.gates[step, 0, 2]
        coordinator = row["coordinator"]
        assert np.float32(coordinator["removed"]) == trace.removed[step]
        assert coordinator["labeled_reference"] > 0
        assert len(coordinator["projection_quantiles"]) == 5
    number = repr(rows[0]["loss"]["supervised"])
    assert len(number.replace(".", "")) <= 9  # digits that float32 needs, no more


def test_a_run_is_replayed_from_its_settings(tmp_path, audited, split, backbone):
    described = results.describe_settings({"audited": AUDITED})
    first, again = (results.open_folder(tmp_path / name) for name in ("1", "2"))
    results.write_results(first, described, {"audited": audited.history}, {})
    written = json.loads((first / "config.json").read_text())
    runs = settings.read_runs(written)
    assert runs == {"audited": AUDITED}
    run = runs["audited"].start(split, backbone, name="audited")
    assert list(run) == [1, 2, 3]
    results.write_results(again, described, {"audited": run.history}, {})
    steps = (first / "steps.jsonl").read_bytes()
    assert len(steps.splitlines()) == 9
    assert (again / "steps.jsonl").read_bytes() == steps


def test_settings_of_an_unknown_method_are_refused():
    entry = {**RunSettings(METHOD).describe(), "method": {"name": "other"}}
    written = results.describe_settings({}) | {"runs": {"run": entry}}
    with pytest.raises(
        ValueError, match=r"method must be one of rankstats.*got 'other'"
    ):
        settings.read_runs(written)


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
    results.write_results(ours, results.describe_settings({}), {}, {})
    assert results.open_folder(ours) == ours


PRETRAINING = pretraining.PretrainConfig(
    epochs=3, warmup_epochs=0, batch_size=48, learning_rate=3e-3, hidden=8
)


def test_pretraining_learns(split):
    seen: list[float] = []
    backbone = pretraining.pretrain(
        split.items.array, VIT, PRETRAINING, lambda epoch, loss: seen.append(loss)
    )
    assert backbone.config == VIT
    assert seen[2] < seen[0]


@pytest.mark.slow
def test_pretraining_repeats_itself_with_its_seed(split):
    first, again, other = (
        pretraining.pretrain(
            split.items.array,
            VIT,
            dataclasses.replace(PRETRAINING, epochs=1, seed=seed),
        ).norm.bias[...]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_wrong_pretraining_names_the_argument(split):
    with pytest.raises(ValueError, match="images must number at least"):
        pretraining.pretrain(split.items.array[:5], VIT, PRETRAINING)
    with pytest.raises(ValueError, match="epochs must exceed"):
        dataclasses.replace(PRETRAINING, warmup_epochs=3)
    with pytest.raises(ValueError, match="temperature must be positive"):
        dataclasses.replace(PRETRAINING, temperature=0.0)


@pytest.fixture
def small_demo(monkeypatch, split, backbone):
    """The example on few images and a tiny backbone, without its report."""
    monkeypatch.setattr(gcd_vit.sources, "load", lambda *_, **__: split)
    monkeypatch.setattr(gcd_vit, "load_backbone", lambda: backbone)
    # The compilations of the other tests serve here too.
    config = mock.Mock(return_value=CONFIG, epochs=CONFIG.epochs)
    monkeypatch.setattr(gcd_vit, "TrainConfig", config)
    monkeypatch.setattr(gcd_vit, "METHODS", {"simgcd": lambda: METHOD})
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


def chosen(*arguments):
    return gcd_vit.chosen_runs(gcd_vit.parse(list(arguments)))


def test_flags_choose_the_second_run():
    runs = chosen()
    assert list(runs) == ["plain summation", "EAGC"]
    assert {run.method for run in runs.values()} == {SimGCD()}
    assert runs["EAGC"].aggregator.options["energy"] == "exploratory"
    assert list(chosen("--aggregator", "sum")) == ["plain summation"]
    assert list(chosen("--aggregator", "upgrad"))[1] == "upgrad"
    runs = chosen("--coordination", "paper", "--reference-epochs", "7", "--seed", "3")
    second = runs["paper coordinator"]
    assert second.aggregator.name == "sum"
    assert second.coordination == FeatureCoordination(mode="paper")
    assert second.reference == ReferenceConfig(epochs=7, seed=3)
    both = chosen("--coordination", "released", "--aggregator", "eagc")
    assert list(both)[1] == "EAGC + released coordinator"
    assert chosen("--method", "simgcd", "--fast")["EAGC"].reference is None


@pytest.mark.parametrize("flag", ["--method", "--aggregator", "--coordination"])
def test_flags_refuse_what_is_not_there(flag, capsys):
    with pytest.raises(SystemExit):
        gcd_vit.parse([flag, "other"])
    assert "invalid choice" in capsys.readouterr().err


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
            row.pop("step_seconds", None)
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


@pytest.mark.slow
def test_images_that_are_read_when_their_turn_comes_train_the_same(
    tmp_path, split, backbone, plain
):
    """A folder's pictures, decoded by the loader, beside the same ones in memory."""
    pixels = np.rint(255 * split.items.array[..., 0]).astype(np.uint8)
    for row, one in enumerate(pixels):
        label = split.labels[row]
        place = f"labeled/{label}" if label >= 0 else "unlabeled"
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(tmp_path / place / f"{row:02}.png")
    read = sources.open_source(tmp_path)
    order = [int(name.rsplit("/", 1)[1][:2]) for name in read.ids]
    assert sorted(order) == list(range(96))
    config = dataclasses.replace(CONFIG, epochs=1)
    run = TrainingRun(config, read, backbone, PLAIN, method=METHOD, num_classes=10)
    assert list(run) == [1]
    gray = pixels[order][..., None].astype(np.float32) / 255
    held = dataclasses.replace(read, items=ArrayItems(gray))
    same = TrainingRun(config, held, backbone, PLAIN, method=METHOD, num_classes=10)
    assert list(same) == [1]
    # Bytes become floats on the device in one, on the host in the other.
    for name, values in same.history.losses.items():
        np.testing.assert_allclose(run.history.losses[name], values, rtol=1e-5)
    np.testing.assert_allclose(
        run.pretrained_features, same.pretrained_features, atol=1e-5
    )
    assert np.isnan(run.evaluation.accuracy.all)  # a folder has no true classes
    text = dataclasses.replace(read, kind="text")
    with pytest.raises(ValueError, match="of kind 'text', and blocks train on images"):
        TrainingRun(config, text, backbone, PLAIN, method=METHOD, num_classes=10)
