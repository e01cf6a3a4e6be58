"""benchmarks/rehearsal.py and num_classes.py count what they say."""

import numpy as np

from benchmarks import num_classes, rehearsal
from eagc_jax.gcd.evaluation.rehearsal import Rehearsal
from tests.gcd.evaluation.rehearsal.problems import QUICK, blobs


def test_a_split_is_rehearsed_and_compared_with_the_truth(tmp_path, monkeypatch):
    records, rows = blobs()
    kept = rehearsal.split(records, rows, [QUICK], seed=0, rehearsals=2)
    candidates = Rehearsal.from_plain(kept["found"]).candidates
    found = rehearsal.rows_of(kept, candidates)
    path = tmp_path / "runs" / "rehearsal.csv"
    for row in found * 2:
        rehearsal.append(path, row)
    read = rehearsal.read(path)
    assert read == found * 2
    low, expected, high, _ = rehearsal.values(read[0], "new")
    assert low <= expected <= high
    assert "first answer (" in rehearsal.line(read[0])
    read[1] |= {"new_low": "0.9", "new_high": "0.95", "new_true": "0.5"}
    lines = rehearsal.summary(read)
    assert lines[0].startswith("first answer, new: held in 1 of 2 splits, mean width")
    np.testing.assert_allclose(float(read[0]["true_classes"]), 16)
    # Made anew from what was kept, in the same way, they are the same.
    rehearsal.keep(path, {"source": "blobs", **kept})
    monkeypatch.setattr(rehearsal.sources, "open_source", lambda source: records)
    monkeypatch.setattr(rehearsal.sources, "pose_half", lambda records, seed: records)
    (again,) = rehearsal.read_kept(path)
    assert rehearsal.again(again) == found
    assert rehearsal.main(["--again", "--output", str(path)]) == 0


def test_estimates_are_summed_up():
    found = [
        num_classes.Found("a", "neighbours", 10, 11, 9, 12, 1.0),
        num_classes.Found("b", "neighbours", 10, 8, 7, 9, 3.0),
    ]
    lines = num_classes.summary(found)
    assert lines[-1] == (
        "neighbours, all: error 15.0% (mean -5.0%), held in 1 of 2, "
        "high over low 1.31, 2.0 s"
    )
