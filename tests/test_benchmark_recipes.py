"""The probe beside the recipes' long runs: the rules, and that the tasks are recipes."""

import math

import jax
import numpy as np
import pytest

from benchmarks.evidence.probing import Probed
from benchmarks.evidence.rows import Row
from benchmarks.evidence.task import Draw
from benchmarks.recipes import command
from benchmarks.recipes.tasks import BUILDERS
from examples.recipes import multi_task, physics_informed
from tests.evidence.problems import two_wells

NEAR = (0.99, 1.01, 1.0, 0.995, 1.005, 1.002)  # of six seeds: no difference


def rows(arm, factor):
    kind = ("multitask", "multi_task", arm)
    rest = ("", 600, 1.0, math.nan)
    noise = NEAR if arm != "sum" else [1.0] * 6
    return [
        Row(*kind, seed, "dev", "steps", "", "error", (1 + seed) * factor * off, *rest)
        for seed, off in enumerate(noise)
    ]


def probes(kind, worth_a_run):
    numbers = (0.9, 0.0, 0.4, -0.3, 1.0, 0.8, -0.1, 0.9, 0.2)
    one = Probed("multitask", "multi_task", 0, 12, worth_a_run, kind, *numbers)
    return [one, one]


@pytest.mark.parametrize(
    ("worth_a_run", "factor", "said"),
    [(1, 0.5, "right"), (0, 0.5, "wrong"), (1, 1, "wrong"), (0, 1, "right")],
)
def test_right_is_what_the_trainings_say(worth_a_run, factor, said):
    trained = [*rows("sum", 1), *rows("eagc", 1), *rows("conflict_free", factor)]
    kind = "weights" if worth_a_run else "sum"
    found = command.table(probes(kind, worth_a_run), trained, ["eagc", "conflict_free"])
    assert [row["method"] for row in found] == ["EAGC", "ConFIG"]
    assert [row["and is"] for row in found] == [said, ""]
    assert {row["named"] for row in found} == ({"yes"} if worth_a_run else {"no"})
    assert found[0]["recipe"] == "multi_task"
    assert found[0]["the probe says"].startswith("try" if worth_a_run else "sum")
    first, last = (float(row["difference"].split(" %")[0]) for row in found)
    assert abs(first) < 1
    assert last == pytest.approx(100 * (factor - 1), abs=1)
    assert found[1]["better in"] == ("6 of 6" if factor < 1 else "2 of 6")


def test_what_the_probe_recommends_is_trained_besides():
    assert command.methods("language_model", probes("sum", 0)) == ["upgrad"]
    found = command.methods("language_model", probes("aggregator", 1))
    assert found == ["upgrad", "eagc", "nash_mtl", "conflict_free"]
    found = command.methods("multi_task", probes("weights", 1))
    assert found == ["upgrad", "nash_mtl", "eagc", "conflict_free"]
    for name in {name for names in command.RECOMMENDED.values() for name in names}:
        assert name in command.METHODS


def test_a_method_that_the_probe_does_not_name_makes_it_no_righter():
    trained = [*rows("sum", 1), *rows("eagc", 1), *rows("nash_mtl", 0.5)]
    trained += rows("conflict_free", 1)
    names = ["eagc", "nash_mtl", "conflict_free"]
    found = command.table(probes("weights", 1), trained, names)
    assert found[0]["and is"] == "wrong"
    assert [row["named"] for row in found] == ["yes", "no", "yes"]
    # Of seeds that disagree, half are enough to try.
    assert command.named([*probes("sum", 0), *probes("weights", 1)]) != ()


def draw(data):
    return Draw(data, jax.random.key(3), np.int32(0), np.float32(0))


def test_the_tasks_are_the_recipes():
    task = BUILDERS["multi_task"](None)
    params = jax.jit(task.init)(jax.random.key(1), task.data)
    assert task.steps == multi_task.STEPS
    # Both in one program: nothing but another computation makes a difference.
    of_task, of_recipe = jax.jit(
        lambda p: (task.losses(p, draw(task.data)), multi_task.losses_fn(p, *task.data))
    )(params)
    np.testing.assert_array_equal(np.stack(of_task), of_recipe)
    task = BUILDERS["physics_informed"](None)
    params = jax.jit(physics_informed.start)(jax.random.key(1))
    of_task, of_recipe = jax.jit(
        lambda p: (task.evaluate(p, ())["error"], physics_informed.relative_error(p))
    )(params)
    assert of_task == of_recipe


def test_it_needs_pairs(capsys):
    for given in (("--seeds", "1"), ("--seeds", "3", "--probes", "4")):
        with pytest.raises(SystemExit):
            command.main([*given])
        assert "--seeds must be at least 2" in capsys.readouterr().err


def test_it_runs(tmp_path, capsys, monkeypatch):
    """A few steps of a tiny task: all that lies between a probe and a line."""
    monkeypatch.setitem(BUILDERS, "two-wells", lambda steps: two_wells(steps=steps))
    monkeypatch.setitem(command.CLAIMED, "two-wells", ("upgrad",))
    target = tmp_path / "recipes.json"
    given = ("--recipes", "two-wells", "--seeds", "2", "--probes", "1")
    assert command.main([*given, "--steps", "3", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "| two-wells |" in printed
    assert "UPGrad" in printed
    assert target.exists()
