"""The sample that comes along, and the script that makes it."""

import numpy as np

from benchmarks import banking77_sample
from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.named.banking77_sample import SAMPLE
from tests.gcd.sources.pictures import tree


def test_it_opens_and_has_the_stated_counts():
    assert SAMPLE.stat().st_size <= 300_000
    records = sources.open_source("banking77-sample")
    assert (records.name, records.kind, len(records)) == (
        *("banking77-sample", "text"),
        3075,
    )
    assert (records.num_known, records.num_classes) == (39, 77)
    sizes = np.bincount(records.truth)
    assert (sizes.min(), sizes.max()) == (35, 40)
    for c in range(77):
        assert (records.labels == c).sum() == (sizes[c] // 2 if c < 39 else 0)
    labeled = records.labeled_mask
    np.testing.assert_array_equal(records.labels[labeled], records.truth[labeled])
    texts = [records.items[row] for row in range(len(records))]
    assert len(set(texts)) > 3000


def test_its_licence_lies_beside_it():
    told = (SAMPLE.parent / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in told
    assert "Casanueva" in told


def test_the_script_draws_as_it_says(tmp_path, capsys):
    lines = [f'"a ""question"" {i}",intent_{i % 5 if i < 40 else 0}' for i in range(60)]
    tree(tmp_path, {"train.csv": "\n".join(["text,category", *lines]).encode()})
    out = tmp_path / "sample.csv"
    banking77_sample.main([str(tmp_path / "train.csv"), "--output", str(out)])
    records = sources.open_source(out, truth_column="truth")
    assert sorted(np.bincount(records.truth).tolist()) == [8, 8, 8, 8, 28]
    assert (records.num_known, records.num_classes) == (3, 5)
    assert records.items[0].startswith('a "question" ')
    fewer = banking77_sample.sampled(
        sources.open_source(out, label_column="truth", require_labels=False), each=3
    )
    assert np.bincount(fewer.truth).tolist() == [3] * 5
    assert np.bincount(fewer.labels[fewer.labeled_mask]).tolist() == [1] * 3
