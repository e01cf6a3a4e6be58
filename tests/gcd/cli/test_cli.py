"""The command line: what it prints, writes, refuses; exit codes."""

import csv
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from eagc_jax.gcd import backbones, cli, sources
from eagc_jax.gcd.backbones import registry
from eagc_jax.gcd.cli import commands, errors
from eagc_jax.gcd.cli.progress import Shown
from eagc_jax.gcd.training import pretraining
from tests.gcd import clouds
from tests.gcd.bad_input import CASES, photos_with, write_photos, write_table

QUICK = ("--quick", "--num-classes", "4")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a cache of its own and a tiny backbone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_CACHE", str(tmp_path / "cache"))
    backbones.names()  # finds them all, before the list is copied
    monkeypatch.setattr(registry, "_LOADERS", dict(registry._LOADERS))

    @backbones.register("mean-colour")
    def load(weights, *, compute_dtype, image_size, checkpoint):
        return backbones.callable_backbone(
            lambda images: [image.mean((0, 1)) / 255.0 for image in images],
            "image",
            3,
            version="1",
        )

    return tmp_path


def eagc(*arguments):
    return cli.main([str(argument) for argument in arguments])


def assignment_of(run):
    with open(f"{run}/assignment.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_discover_prints_what_it_found(place, capsys):
    path = clouds.write_npz(place)
    assert eagc("discover", path, *QUICK, "--truth-column=truth", "--out=run") == 0
    told = capsys.readouterr()
    for part in (
        "48 embeddings, 12 labeled with 2 known classes, 36 unlabeled",
        "4 classes, as given",
        "clustered in",
        "novel-1: 14 items, such as row",
        "novel-2: 10 items, such as row",
        "All 1.000, Old 1.000, New 1.000, ARI 1.000, NMI 1.000",
        "wrote run: assignment.csv",
    ):
        assert part in told.out
    assert "not built yet" not in told.out
    assert told.err == ""
    assert len(assignment_of("run")) == clouds.ROWS


def test_without_quick_it_rehearses_trains_and_says_what_it_took(place, capsys):
    # With two known classes nothing can be rehearsed.
    options = ("--num-classes=4", "--cache=kept")
    assert eagc("discover", clouds.write(place), *options) == 0
    told = capsys.readouterr().out
    for part in ("first answer after", "trained for 20 epochs", "not rehearsed"):
        assert part in told
    assert len(assignment_of("clouds-run")) == clouds.ROWS
    assert eagc("discover", clouds.write(place), *options) == 0
    again = assignment_of("clouds-run-2")  # nothing is overwritten
    assert again == assignment_of("clouds-run")


def test_the_settings_give_the_run_back(place, capsys):
    clouds.write(place)
    assert eagc("discover", "clouds.npy", *QUICK, "--seed=7", "--out=run") == 0
    assert eagc("discover", "--settings", "run/settings.json", "--out=again") == 0
    for name in ("assignment.csv", "settings.json"):
        first, again = (pathlib.Path(run, name) for run in ("run", "again"))
        assert first.read_bytes() == again.read_bytes()
    more = ("--settings=run/settings.json", "--num-classes=3", "--out=other")
    assert eagc("discover", *more) == 0
    assert "3 classes, as given" in capsys.readouterr().out
    options = ("--quick", "--num-classes=2", "--out=known")
    assert eagc("discover", "clouds.npy", *options) == 0
    assert "no novel clusters; if you expect" in capsys.readouterr().out


def test_photos_are_embedded_once(capsys):
    data = write_photos("photos")
    options = ("--quick", "--num-classes=3", "--backbone=mean-colour")
    assert eagc("discover", data, *options, "--out=run") == 0
    assert "mean-colour on CPU: 9 embedded" in capsys.readouterr().out
    rows = assignment_of("run")
    assert {row["id"]: row["assigned"] for row in rows} == {
        **{f"labeled/{c}/{c}{i}.png": c for c in ("red", "green") for i in range(3)},
        **{f"unlabeled/{c}{i}.png": c for c in ("red", "green") for i in range(3)},
        **{f"unlabeled/blue{i}.png": "novel-1" for i in range(3)},
    }
    assert eagc("discover", data, *options, "--out=again") == 0
    assert "all features were cached" in capsys.readouterr().out
    assert eagc("cache", "show") == 0
    assert "9 rows" in capsys.readouterr().out
    assert eagc("cache", "prune", "--keep-gigabytes=0", "--dry-run") == 0
    assert eagc("cache", "prune", "--keep-gigabytes=0") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("removed 1 files")
    assert eagc("cache") == 0
    assert "0 entries" in capsys.readouterr().out


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(case, capsys):
    make, message = CASES[case]
    made = make()
    arguments = made if isinstance(made, tuple) else (made,)
    before = sorted(os.listdir())
    assert eagc("discover", "--quick", "--out=run", *arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1, told.err
    assert told.err.startswith("eagc: ")
    assert re.search(message, told.err), told.err
    assert sorted(set(os.listdir()) - {"cache"}) == before


def test_skipped_items_are_listed(capsys):
    data, backbone = photos_with("unlabeled/zero.png", b"")
    (data_path := pathlib.Path(data) / "unlabeled" / "note.txt").write_text("hi")
    options = ("--quick", "--num-classes=3", "--on-bad-item=skip", "--out=run")
    assert eagc("discover", data, backbone, *options) == 0
    told = capsys.readouterr()
    assert "left out 2 items" in told.err
    with open("run/skipped.csv", newline="") as file:
        skipped = [row["id"] for row in csv.DictReader(file)]
    assert [pathlib.Path(one).name for one in skipped] == [data_path.name, "zero.png"]
    assert len(assignment_of("run")) == 15


@pytest.mark.parametrize("name", ["e.npz", "e.parquet", "e.npy"])
def test_embed_writes_what_discover_reads(name, capsys):
    data = write_photos("photos")
    assert eagc("embed", data, "--backbone=mean-colour", "--out", name) == 0
    assert "15 rows of 3" in capsys.readouterr().out
    found, photos = sources.open_source(name), sources.open_source(data)
    assert found.labels.tolist() == photos.labels.tolist()
    assert found.class_names == photos.class_names
    np.testing.assert_allclose(found.items[0], [0, 250 / 255, 0], rtol=1e-6)
    if name != "e.npy":
        assert list(found.ids) == list(photos.ids)
    assert eagc("embed", data, "--backbone=mean-colour", "--out", name) == 2
    assert "is there already" in capsys.readouterr().err


def test_doctor_lists_all_problems(capsys):
    photos_with("unlabeled/zero.png", b"")
    pathlib.Path("photos", "labeled", "red", "cut.jpg").write_bytes(b"\xff\xd8")
    pathlib.Path("photos", "unlabeled", "note.txt").write_text("hi")
    assert eagc("doctor", "photos") == 1
    told = capsys.readouterr().out
    problems = [line for line in told.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 3
    for name in ("zero.png", "cut.jpg", "note.txt"):
        assert any(name in line for line in problems)
    assert "3 problems found" in told
    assert "jax" in told
    assert "backbone efficientnet-lite0: " in told


def test_doctor_reads_healthy_data(place, capsys, monkeypatch):
    monkeypatch.setattr(backbones, "names", lambda: ())  # loads none
    assert eagc("doctor", clouds.write(place)) == 0
    assert "the data can be read" in capsys.readouterr().out
    assert eagc("doctor", write_table(["x", "a"], ["y", "b"])) == 1
    assert "leave the label of some rows empty" in capsys.readouterr().out


def test_pretrain_passes_its_options_on(capsys, monkeypatch):
    given = []
    monkeypatch.setattr(pretraining, "main", given.extend)
    assert eagc("pretrain", "--output=w.npz", "--dataset=digits", "--epochs=3") == 0
    assert given == ["--output=w.npz", "--dataset=digits", "--epochs=3", "--seed=0"]
    assert eagc("pretrain", "--output=w.npz", "--dataset=nothing") == 2
    assert "dataset must be one of digits" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(place, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(backbones, "embed", interrupted)
        assert eagc("discover", clouds.write(place), *QUICK, "--out=run") == 130
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("interrupted; what is finished is kept in run")
    program, *arguments = shlex.split(told[1])
    assert program == "eagc"
    assert not pathlib.Path("run/assignment.csv").exists()
    assert eagc(*arguments) == 0
    assert len(assignment_of("run")) == clouds.ROWS
    assert not pathlib.Path("run/checkpoints").exists()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["discover", "--no-such-option"], "Unrecognized options: --no-such-option"),
        (["nothing"], "Available subcommands: discover"),
        ([], "Expected one of {discover, "),
        (["discover", "x", "--seed=no"], "--seed: invalid literal for int"),
        (["discover", "x", "--on-bad-item=no"], "'raise', 'skip'"),
        (["embed", "x"], "--out FILE"),
    ],
)
def test_what_is_typed_wrong_is_a_line(typed, told, capsys):
    assert eagc(*typed) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert found.err.startswith("eagc: ")
    assert told in found.err
    assert "--help" in found.err


def test_help_is_no_error(capsys):
    assert eagc("--help") == 0
    assert "discover" in capsys.readouterr().out
    assert eagc("discover", "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "eagc discover tickets.csv --budget 5m" in told
    assert "noqa" not in told


@pytest.mark.parametrize("content", ["", "[]", '{"discover": {"sede": 1}}', "\xff"])
def test_settings_that_are_none_are_refused(content, capsys):
    pathlib.Path("settings.json").write_text(content, encoding="latin-1")
    assert eagc("discover", "--settings=settings.json") == 2
    assert "eagc: settings.json" in capsys.readouterr().err


def test_a_missing_package_is_one_line_away(capsys, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert eagc("discover") == 2
    assert "pip install 'eagc_jax[gcd]'" in capsys.readouterr().err

    def command():
        raise ModuleNotFoundError("No module named 'flax'", name="flax")

    assert errors.guarded(command) == 2
    told = capsys.readouterr().err
    assert told == "eagc: flax is not installed: pip install 'eagc_jax[gcd]'\n"


def test_parsing_imports_little():
    code = (
        "import sys, eagc_jax; before = set(sys.modules)\n"
        "from eagc_jax.gcd.cli import commands\n"
        "commands.parse(['discover', 'data', '--quick'])\n"
        "heavy = {'flax', 'grain', 'pyarrow', 'sklearn', 'scipy.optimize', 'PIL'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
    )
    run = [sys.executable, "-c", code]
    root = pathlib.Path(__file__).parents[3]
    found = subprocess.run(run, capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout == "[]\n"


def test_every_option_reaches_its_setting():
    found = commands.parse(
        [
            *("discover", "data", "--quick", "--num-classes", "77", "--seed", "3"),
            *("--truth-column", "category", "--text-column", "words", "--cache", "c"),
            *("--path-column", "None", "--label-column", "kind", "--out", "run"),
            *("--budget", "5m", "--coordinators", "upgrad", "eagc", "--no-rehearsal"),
            *("--neighbours", "0", "5"),
            *(
                "--rehearsals",
                "4",
                "--backbone",
                "vit",
                "--weights",
                "w.pth",
                "--on-bad-item",
                "skip",
            ),
        ]
    )
    assert (found.source.data, found.source.truth_column) == ("data", "category")
    assert (found.source.text_column, found.source.path_column) == ("words", None)
    assert (found.source.label_column, found.source.on_bad_item) == ("kind", "skip")
    assert (found.backbone.name, found.backbone.weights) == ("vit", "w.pth")
    assert (found.clustering.num_classes, found.seed, found.quick) == (77, 3, True)
    assert (found.budget, found.coordinators) == ("5m", ("upgrad", "eagc"))
    assert found.neighbours == (0, 5)
    assert (found.rehearsals, found.no_rehearsal) == (4, True)
    assert (found.out, found.cache) == (pathlib.Path("run"), pathlib.Path("c"))


def test_progress_is_plain_lines_or_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("eagc_jax.gcd.cli.progress._SECONDS", 0.0)
    with Shown(Console(file=io.StringIO())) as shown:
        shown.stage("embedding")
        shown.embedding(512, 10_003, 310.0, 30.6)
    told = capsys.readouterr().err
    assert told == "embedded 512 of 10,003: 310 a second, 31 s left\n"
    screen = io.StringIO()
    with Shown(Console(file=screen, force_terminal=True, width=100)) as shown:
        shown.stage("embedding")
        shown.embedding(512, 10_003, 310.0, 3601.0)
        shown._bar.refresh()
    assert "512/10003" in screen.getvalue()
    assert "310 a second, 1 h left" in screen.getvalue()
    assert capsys.readouterr().err == ""


def test_how_far_an_export_is(capsys, monkeypatch):
    now = iter([0.0, 0.0, 0.5, 2.0, 20.0, 20.0])
    monkeypatch.setattr("eagc_jax.gcd.cli.progress.time.monotonic", lambda: next(now))
    with Shown(Console(file=io.StringIO())) as shown:
        shown.stage("writing")
        shown.writing(1_000, 4_000)
        shown.writing(2_000, 4_000)
    # Not after 2 seconds; after 20.
    assert capsys.readouterr().err == "wrote 2,000 of 4,000: 100 a second, 20 s left\n"
