"""Probes of tasks, and whether trainings agree with them."""

import math

import pytest

from benchmarks.evidence import command, foretold, probing, rows, task
from tests.evidence.problems import two_wells


def row(task, arm, seed, value, split="dev"):
    cells = ("", "error", value, "", 6, 1.0, math.nan)
    return rows.Row("physics", task, arm, seed, split, "steps", *cells)


def trained(task, arm, ratio, *, spread=0.01):
    """Five seeds of an arm, about ``ratio`` times the sum's error."""
    return [
        row(task, arm, seed, ratio * (1 + seed) * (1 + spread * (-1) ** seed))
        for seed in range(5)
    ]


def probed(task, seed=0, *, worth_a_run=1, raised=0.9):
    numbers = (raised, 0.5, 0.4, -0.3, 1.0, 0.8, -0.1, 0.9, 0.2)
    return probing.Probed("physics", task, seed, 60, worth_a_run, "weights", *numbers)


SUMS = [*trained("a", "sum", 1, spread=0), *trained("b", "sum", 1, spread=0)]


def test_an_aggregator_helps_if_it_is_surely_better():
    arms = [
        *trained("a", "upgrad", 0.5),
        *trained("a", "mgda", 2.0),
        *trained("b", "upgrad", 1.001),
    ]
    found = foretold.outcomes([*SUMS, *arms], "dev")
    assert found["physics", "a"].better
    assert found["physics", "a"].arm == "upgrad"
    assert not found["physics", "b"].better
    # Surely worse is no help; nor is an arm that only weights losses an aggregator.
    arms = [*trained("a", "upgrad", 2.0), *trained("a", "tuned", 0.1)]
    found = foretold.outcomes([*SUMS, *arms], "dev")
    assert not found["physics", "a"].better
    assert foretold.outcomes(SUMS, "dev") == {}
    assert foretold.outcomes([*SUMS, *arms], "fresh") == {}


def test_where_none_beats_the_sum_the_best_is_named_not_the_surest():
    arms = [
        *trained("a", "gem", 20.0, spread=0),
        *trained("a", "upgrad", 1.5, spread=0.1),
        *trained("b", "gem", 0.9),
    ]
    found = foretold.outcomes([*SUMS, *arms], "dev")["physics", "a"]
    assert found.arm == "upgrad"
    assert found.text.startswith("none surely beats the sum, best UPGrad +52.3 %")


def test_many_arms_are_not_many_chances():
    """p of .03 of one arm is nothing beside nine others."""
    close = [row("a", "upgrad", s, (1 + s) * r) for s, r in enumerate(NEARLY)]
    alone = foretold.outcomes([*SUMS, *close], "dev")["physics", "a"]
    assert 0.01 < alone.p < 0.05
    assert alone.better
    names = [name for name in foretold.AGGREGATED if name != "upgrad"][:9]
    others = [one for name in names for one in trained("a", name, 1.0)]
    among = foretold.outcomes([*SUMS, *close, *others], "dev")["physics", "a"]
    assert not among.better


NEARLY = (0.9, 0.95, 0.99, 0.93, 0.97)


def test_the_page_says_hit_or_miss():
    arms = [*trained("a", "upgrad", 0.5), *trained("b", "upgrad", 1.0)]
    probes = [probed("a"), probed("b"), probed("b", 1, worth_a_run=0), probed("c")]
    text = "\n".join(foretold.section([*SUMS, *arms], probes))
    assert "### Against trainings on development seeds" in text
    assert (
        "| physics, a | try (weights, 1 of 1 seeds); 90 % of steps raise a loss" in text
    )
    assert text.count("| hit |") == text.count("| **miss** |") == 1
    assert "The rules: 1 of 2 tasks; " in text
    # Neither is one of those that the rules were made in view of.
    assert "those after their last change, 1 of 2.\n" in text
    assert "leave-one-task-out" not in text  # too few
    assert list(foretold.section(SUMS, probes)) == []


def test_thresholds_are_tried_on_four_tasks_that_differ():
    tasks = "abcd"
    sums = [one for task in tasks for one in trained(task, "sum", 1, spread=0)]
    shares = dict(zip(tasks, (0.1, 0.2, 0.8, 0.9), strict=True))
    probes = [probed(task, raised=share) for task, share in shares.items()]

    def text(ratios):
        arms = [
            one
            for task, ratio in zip(tasks, ratios, strict=True)
            for one in trained(task, "upgrad", ratio)
        ]
        return "\n".join(foretold.section([*sums, *arms], probes))

    assert "| raised | 4 of 4 |" in text([1.0, 1.0, 0.5, 0.5])
    assert "leave-one-task-out" not in text([0.5] * 4)  # nothing to learn from


def test_a_threshold_is_learned_from_the_other_tasks():
    assert foretold.left_out([0.1, 0.2, 0.8, 0.9], [False, False, True, True]) == 4
    assert foretold.left_out([0.1, 0.2, 0.8, 0.9], [True, True, False, False]) == 4
    # What tells nothing is wrong where the others mislead.
    assert foretold.left_out([0.1, 0.2, 0.3, 0.4], [True, False, True, False]) < 3


def test_probes_are_a_command_and_go_on_where_they_were(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(task._BUILDERS["physics"], "two-wells", two_wells)
    table = tmp_path / "evidence.csv"
    arguments = ("--family", "physics", "--tasks", "two-wells", "--out", str(table))
    assert command.main([*arguments, "--probe", "--seeds", "2"]) == 0
    path = probing.beside(table)
    first = path.read_text()
    found = probing.read(path)
    assert [(one.task, one.seed) for one in found] == [
        ("two-wells", 0),
        ("two-wells", 1),
    ]
    # Two of six steps: 2 %, and at least two. The second gradient is the longer one.
    assert {one.steps for one in found} == {2}
    assert all(one.imbalance > 1 for one in found)
    assert command.main([*arguments, "--probe", "--seeds", "2"]) == 0
    assert path.read_text() == first
    assert command.main([*arguments, "--arms", "sum", "upgrad", "--seeds", "2"]) == 0
    assert command.main(["--report", "--out", str(table)]) == 0
    page = table.with_suffix(".md").read_text()
    assert "## What a probe foretells" in page
    assert "--probe --seeds 2" in page
    assert "| physics, two-wells |" in page


def test_a_table_of_something_else(tmp_path):
    path = tmp_path / "x_probes.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="should begin with family,task"):
        probing.read(path)
    probing.write(path, [probed("a")])
    path.write_text(path.read_text() + "physics,a,zero\n")
    with pytest.raises(ValueError, match="line 3"):
        probing.read(path)
