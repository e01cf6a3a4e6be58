"""Where data sets are looked for."""

import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.named import fashion_mnist
from eagc_jax.gcd.sources.named._places import locate


def test_missing_data_says_where_it_looked_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EAGC_DATA", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError) as caught:
        sources.load("fashion-mnist")
    for part in ("apt-get install", "data/fashion-mnist", "nowhere", "EAGC_DATA"):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"this-one.*apt-get") as caught:
        sources.load("fashion-mnist", "this-one")
    assert "nowhere" not in str(caught.value)  # a given root is the only place


@pytest.mark.parametrize(
    "name", sorted(set(sources.benchmarks()) - {"digits", "banking77-sample"})
)
def test_every_data_set_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EAGC_DATA", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"was not found. Looked for data/"):
        sources.load(name)
    with pytest.raises(FileNotFoundError, match=r"Looked for absent\. .*[Gg]ive "):
        sources.load(name, "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match="empty"):
        sources.load(name, "empty")


def test_folders_of_data_sets_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_DATA", str(tmp_path / "mine"))
    for folder in ("mine", "data", "given"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "b").mkdir()
    assert str(locate("T", None, ["a", "b"], "")) == "data/b"
    (tmp_path / "mine" / "b").mkdir()
    assert locate("T", None, ["a", "b"], "") == tmp_path / "mine" / "b"
    (tmp_path / "mine" / "a").mkdir()
    assert locate("T", None, ["a", "b"], "") == tmp_path / "mine" / "a"
    # A root may be the data set, or hold it under one of its names.
    assert locate("T", tmp_path / "given", ["a"], "") == tmp_path / "given"
    (tmp_path / "given" / "a").mkdir()
    assert locate("T", tmp_path / "given", ["a"], "") == tmp_path / "given" / "a"
