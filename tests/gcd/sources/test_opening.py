"""One door: what the data is, is told by what is there."""

import numpy as np
import pytest

from eagc_jax.gcd import sources
from tests.gcd.sources.pictures import photos


def test_a_name_a_name_with_a_root_and_a_path(tmp_path, monkeypatch):
    assert len(sources.open_source("digits")) == 1797
    (tmp_path / "digits").mkdir()
    photos(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(sources.open_source("digits")) == 1797  # a name goes first
    assert len(sources.open_source("./digits")) == 8
    with pytest.raises(
        FileNotFoundError, match=r"BANKING77 was not found. Looked for no"
    ):
        sources.open_source("banking77:nowhere")
    with pytest.raises(FileNotFoundError, match="Looked for none"):
        sources.open_source("banking77", root="none")


def test_what_is_not_there_and_what_is_nothing_known(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"absent was not found.*banking77, banking77-sample, cifar",
    ):
        sources.open_source(tmp_path / "absent")
    (tmp_path / "a.doc").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.doc should be a folder.*ends in '\.doc'"):
        sources.open_source(tmp_path / "a.doc")
    with pytest.raises(ValueError, match="root is for a named benchmark"):
        sources.open_source(tmp_path / "a.doc", root=tmp_path)
    with pytest.raises(ValueError, match='on_bad_item must be "raise" or "skip", got'):
        sources.open_source(tmp_path / "a.doc", on_bad_item="ignore")


def test_user_data_that_is_fully_labeled_can_be_posed(tmp_path):
    lines = [f"text {i},{'abcd'[i % 4]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines]))
    with pytest.raises(ValueError, match="all 40 rows have one"):
        sources.open_source(tmp_path / "t.csv")
    records = sources.open_source(tmp_path / "t.csv", require_labels=False)
    posed = sources.pose_half(records)
    assert (posed.num_known, posed.num_classes) == (2, 4)
    assert posed.labeled_mask.sum() == 10
    names = np.array(posed.class_names)
    np.testing.assert_array_equal(names[posed.truth], np.tile(list("abcd"), 10))
