"""The program: it resumes, tunes, keeps splits apart, and makes a page of its table."""

import json
import pathlib

import pytest

from benchmarks.evidence import command, pairs, report, rows, task, training
from tests.evidence.problems import two_wells


@pytest.fixture
def program(monkeypatch, tmp_path):
    """The program with one task, two wells; returns what calls it and its table."""
    monkeypatch.setitem(task._BUILDERS["physics"], "two-wells", two_wells)
    path = tmp_path / "docs" / "evidence.csv"

    def run(*arguments):
        options = ("--family", "physics", "--tasks", "two-wells", "--out", str(path))
        return command.main([*options, *arguments])

    return run, path


@pytest.fixture
def count(monkeypatch):
    """How many runs were trained, call by call."""
    trained, original = [], training.train

    def train(runs, seeds, *rest):
        trained.append(list(seeds))
        return original(runs, seeds, *rest)

    monkeypatch.setattr(training, "train", train)
    return trained


def test_it_goes_on_where_it_stopped(program, count, tmp_path):
    run, path = program
    assert run("--arms", "sum", "--seeds", "2") == 0
    assert count == [[0, 1]]
    first = path.read_bytes()
    # One more seed: only that is trained. A line that was cut off is done again.
    path.write_bytes(first[: first.rfind(b"\n", 0, -1) + 8])
    assert run("--arms", "sum", "--seeds", "3", "--json", str(tmp_path / "r.json")) == 0
    assert count == [[0, 1], [1, 2]]
    found = rows.read(path)
    assert [row.seed for row in found] == [0, 1, 2]
    # The seed that was trained twice is as it was.
    assert str(found[1].value) in first.decode()
    assert found[0].others.startswith("first=")
    assert found[0].steps == 6
    assert len(json.loads((tmp_path / "r.json").read_text())) == 3
    assert run("--arms", "sum", "--seeds", "3") == 0
    assert len(count) == 2


def test_splits_have_seeds_of_their_own(program):
    run, path = program
    assert run("--arms", "sum", "--seeds", "1", "--split", "fresh") == 0
    assert run("--arms", "sum", "--seeds", "1") == 0
    assert [(row.split, row.seed) for row in rows.read(path)] == [
        ("fresh", 10_000),
        ("dev", 0),
    ]


def test_tuned_weights_page_and_figures(program, count, capsys):
    run, path = program
    arms = ("--arms", "sum", "tuned", "upgrad", "--seeds", "3")
    assert run(*arms) == 0
    found = rows.read(path)
    tuning = [row for row in found if row.split == "tuning"]
    # Five powers of ten at least, on two seeds; each trained once, three at a time.
    assert len({row.setting for row in tuning}) * 2 == len(tuning) >= 10
    assert {row.seed for row in tuning} == {20_000, 20_001}
    assert max(map(len, count)) == 3
    (setting,) = {row.setting for row in found if row.arm == "tuned"}
    scores = {}
    for row in tuning:
        scores[row.setting] = scores.get(row.setting, 1) * row.value
    assert setting == min(scores, key=scores.get)
    before = len(count)
    assert run(*arms) == 0
    assert len(count) == before
    assert run("--arms", "upgrad", "--seeds", "2", "--budget", "time") == 0
    assert run("--arms", "sum", "tuned", "--budget", "time", "--seeds", "3") == 0
    timed = [row for row in rows.read(path) if row.budget == "time"]
    assert {row.arm for row in timed} == {"upgrad"}  # sums take as long as the sum
    assert all(row.cost > 0 for row in timed)
    assert {row.steps for row in timed} == {max(round(6 / timed[0].cost), 1)}
    # A further seed keeps the cost that was measured, and so the steps.
    assert run("--arms", "upgrad", "--seeds", "3", "--budget", "time") == 0
    timed = [row for row in rows.read(path) if row.budget == "time"]
    assert len({row.steps for row in timed}) == 1
    capsys.readouterr()
    assert command.main(["--report", "--out", str(path)]) == 0
    page = path.with_suffix(".md").read_text()
    assert "### two-wells: equal steps, development seeds, 6 steps" in page
    assert page.count("| plain sum | 3 |") == 2
    assert "### two-wells: equal time, development seeds, 6 steps" in page
    assert page.count("Two quadratic losses") == 2
    assert f"Tuned weights: {setting}; {len(tuning)} runs" in page
    assert "--tasks two-wells --arms sum tuned upgrad --seeds 3" in page
    assert "](evidence/physics_steps_dev.svg)" in page
    figure = path.with_suffix("") / "physics_steps_dev.svg"
    drawn = figure.read_bytes()
    assert command.main(["--report", "--out", str(path)]) == 0
    assert figure.read_bytes() == drawn
    assert path.with_suffix(".md").read_text() == page


def test_one_arm_against_another():
    def row(arm, seed, value, budget="steps"):
        cells = ("", "error", value, "", 6, 1.0, 1.0)
        return rows.Row("physics", "x", arm, seed, "dev", budget, *cells)

    table = [row("eagc", seed, 2.0 + seed) for seed in range(3)]
    table += [row("upgrad", seed, 1.0 + seed / 2) for seed in range(4)]
    head, _, line = pairs.lines(table, "upgrad", "eagc")
    assert "UPGrad against EAGC" in head
    assert line.startswith(
        "| physics, x, dev seeds, equal steps | -50 % [-50, -50] | 3 of 3 | "
    )
    # The plain sum takes equal steps and equal time at once.
    table += [row("sum", seed, 2.0 + seed) for seed in range(3)]
    table += [row("upgrad", seed, 4.0 + 2 * seed, "time") for seed in range(3)]
    *_, steps, time = pairs.lines(table, "upgrad", "sum")
    assert steps.startswith("| physics, x, dev seeds, equal steps | -50 %")
    assert time.startswith("| physics, x, dev seeds, equal time | +100 %")
    table += [row("tuned", seed, 1.0 + seed) for seed in range(3)]
    for arm in ("eagc", "tuned"):  # no rows at equal time: told once
        assert len(list(pairs.lines(table, arm, "sum"))) == 3


def test_the_page_names_the_command_of_the_search():
    def row(arm, setting):
        return rows.Row(
            *("physics", "x", arm, 0, "tuning" if arm == "static" else "dev", "steps"),
            *(setting, "error", 1.0, "", 6, 1.0, 1.0),
        )

    powers = ("0.01", "0.1", "1", "10", "100")
    weights = [f"1 {a} {b}" for a in powers for b in powers]
    static = [row("static", setting) for setting in weights]
    every = [*static, row("sum", ""), row("tuned", weights[0])]
    (line,) = report.commands(every, pathlib.Path("t.csv"))
    assert line.endswith("--budget steps --full-grid --out t.csv")
    (line,) = report.commands(every[1:], pathlib.Path("t.csv"))
    assert "--full-grid" not in line
    between = [row("static", f"1 1 {x}") for x in ("3.16", "31.6", "5.62")]
    (line,) = report.commands([*every, *between], pathlib.Path("t.csv"))
    assert line.endswith("--full-grid --refine 1 --out t.csv")


def test_bad_input_gets_a_sentence(program, tmp_path, capsys):
    run, path = program
    assert run("--arms", "nothing") == 2
    assert "arms must be core, all or of" in capsys.readouterr().err
    assert command.main(["--family", "physics", "--tasks", "tea"]) == 2
    assert "tasks of physics are" in capsys.readouterr().err
    assert command.main([]) == 2
    assert command.main(["--compare", "sum", "tea", "--out", str(path)]) == 2
    assert "got 'tea'" in capsys.readouterr().err
    assert command.main(["--compare", "sum", "eagc", "--out", str(path)]) == 2
    assert "no task has seeds of both" in capsys.readouterr().err
    assert command.main(["--report", "--out", str(tmp_path / "none.csv")]) == 2
    with pytest.raises(SystemExit):
        command.main(["--data", "mnist", "--family", "physics"])
    assert run("--arms", "sum", "--seeds", "1", "--steps", "3") == 0
    capsys.readouterr()
    assert run("--arms", "sum", "--seeds", "2") == 2
    assert "has runs of two-wells with 3 steps" in capsys.readouterr().err
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="should begin with the line family,task"):
        rows.read(path)


def test_a_run_is_in_the_table_once(tmp_path):
    path = tmp_path / "rows.csv"
    numbers = ("", "error", 0.5, "", 6, 0.1, 1.0)
    one = rows.Row("physics", "two-wells", "sum", 0, "dev", "steps", *numbers)
    rows.append(path, [one])
    assert rows.read(path) == [one]
    rows.append(path, [one])
    with pytest.raises(ValueError, match=r"line 3: .* is there twice"):
        rows.read(path)
    path.write_text(path.read_text().replace("0.5", "half", 1))
    with pytest.raises(ValueError, match=r"line 2: could not convert"):
        rows.read(path)
