"""The whole way with a rehearsal: what is chosen, kept, cut to a time, and decided."""

import dataclasses
import json

import numpy as np
import pytest

from eagc_jax.gcd import ClusteringSettings, DiscoverSettings, discover, reopen, sources
from eagc_jax.gcd.decisions import Decision, Decisions, Round
from eagc_jax.gcd.methods import SimGCD
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.training.settings import AdapterConfig, TrainConfig, WarmStart

CLASSES, KNOWN, OF_EACH, WIDTH = 9, 5, 12, 16
# One epoch of a small head: what it makes of the items does not matter here.
RUN = RunSettings(
    SimGCD(head_hidden=8, head_projection=6),
    TrainConfig(
        epochs=1,
        batch_size=16,
        log_every=0,
        trains="adapter",
        adapter=AdapterConfig(hidden=4, noise=0.1),
        warm_start=WarmStart(epochs=1, restarts=2),
    ),
)
SETTINGS = DiscoverSettings(
    clustering=ClusteringSettings(num_classes=CLASSES, restarts=3),
    run=RUN,
    rehearsals=2,
)


@pytest.fixture(scope="module")
def records():
    random = np.random.default_rng(0)
    classes = np.repeat(np.arange(CLASSES), OF_EACH)
    centres = np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0][:CLASSES]
    rows = centres[classes] + 0.08 * random.normal(size=(len(classes), WIDTH))
    labeled = (classes < KNOWN) & (np.arange(len(classes)) % 2 == 0)
    return sources.Records(
        "clouds",
        "embedding",
        sources.ArrayItems(rows.astype(np.float32)),
        ids=tuple(f"item {i}" for i in range(len(classes))),
        labels=np.where(labeled, classes, -1).astype(np.int32),
        class_names=tuple("abcdefghi"),
        num_known=KNOWN,
        truth=classes.astype(np.int32),
    )


@pytest.fixture(scope="module")
def found(records, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    told = []
    one = discover(
        records,
        SETTINGS,
        out=place / "run",
        cache=place / "cache",
        on_answer=lambda *what: told.append(what),
    )
    (first,) = told
    assert first[0].num_known == KNOWN
    assert first[1].assignment.assigned == one.first.assigned
    assert first[2] > 0
    return one


def test_the_rehearsal_chooses_and_is_kept(found, records):
    rehearsal = found.rehearsal
    assert [one.name for one in rehearsal.candidates] == ["first answer", "trained"]
    assert [len(one.trials) for one in rehearsal.candidates] == [2, 2]
    assert found.chosen == rehearsal.chosen
    assert (found.training is None) == (found.chosen == "first answer")
    assert rehearsal.best.new.expected > 0.9  # the clouds lie far apart
    cache = found.folder.parent / "cache"
    again = discover(records, SETTINGS, cache=cache)
    assert again.rehearsal == rehearsal  # its seconds, too: it was not done again
    assert again.assignment.assigned == found.assignment.assigned
    if found.training is not None:
        assert again.history.seconds == found.history.seconds


def test_no_time_is_no_training(records):
    short = dataclasses.replace(SETTINGS, budget=1e-3)
    found = discover(records, short)
    assert found.chosen == "first answer"
    assert found.training is None
    assert any("no time" in what for what in found.rehearsal.left_out)


def test_it_is_opened_again_with_all_that_it_knows(found, records):
    again = reopen(found.folder, records=records)
    assert again.rehearsal == found.rehearsal
    assert again.chosen == found.chosen
    assert again.records.class_names == tuple("abcdefghi")
    np.testing.assert_array_equal(again.records.truth, records.truth)
    np.testing.assert_allclose(again.adapted, found.adapted, atol=1e-6)
    assert (again.history is None) == (found.history is None)
    new = records.items.array + 0.01
    assert again.predict(new).name == found.predict(new).name
    unlabeled = ~records.labeled_mask
    judged = again.predict(records.items.array)
    np.testing.assert_array_equal(  # the table has what `predict` says: calibrated
        judged.probability[unlabeled], again.assignment.probability[unlabeled]
    )
    own = np.array(judged.name)[unlabeled]
    assert own.tolist() == np.array(found.assignment.assigned)[unlabeled].tolist()
    summary = json.loads((found.folder / "summary.json").read_text())
    assert summary["chosen"] == found.chosen


def test_what_a_person_decided_holds(found, records, tmp_path):
    names = found.assignment.assigned
    novel = [name for name in found.assignment.names if name not in "abcde"][:2]
    members = {
        name: tuple(
            i for i, given in zip(records.ids, names, strict=True) if given == name
        )
        for name in novel
    }
    decided = Decisions(
        (
            Round(
                "run",
                members,
                (
                    Decision("rename", clusters=(novel[0],), name="scratch"),
                    Decision("apart", items=members[novel[1]][:2]),
                    Decision("junk", items=("item 1",)),
                ),
            ),
        )
    )
    path = tmp_path / "decisions.json"
    decided.write(path)
    quick = dataclasses.replace(SETTINGS, quick=True, decisions=str(path))
    again = discover(records, quick, out=tmp_path / "run")
    assigned = dict(zip(again.records.ids, again.assignment.assigned, strict=True))
    assert {assigned[name] for name in members[novel[0]]} == {"scratch"}
    assert len({assigned[name] for name in members[novel[1]][:2]}) == 2
    assert "item 1" not in assigned
    assert ("item 1", "junk, as a person decided") in [
        (bad.item, bad.reason) for bad in again.skipped
    ]
    opened = reopen(tmp_path / "run", records=records)
    assert opened.decisions == decided
    assert "scratch" in opened.predictor.names


def test_a_number_that_was_given_counts_what_was_merged(found, records):
    novel = [name for name in found.assignment.names if name not in "abcde"][:2]
    names = found.assignment.assigned
    members = {
        name: tuple(
            i for i, given in zip(records.ids, names, strict=True) if given == name
        )
        for name in novel
    }
    merge = Decision("merge", clusters=tuple(novel), name="both")
    decided = Decisions((Round("run", members, (merge,)),))
    quick = dataclasses.replace(SETTINGS, quick=True)
    again = discover(records, quick, decided=decided)
    assert again.num_classes == CLASSES - 1
    assigned = dict(zip(again.records.ids, again.assignment.assigned, strict=True))
    assert {assigned[i] for some in members.values() for i in some} == {"both"}
