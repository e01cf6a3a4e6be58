"""embed: order, batches, duplicates, bad items, progress; the cache in use."""

import dataclasses

import jax
import numpy as np
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones import batches, embed
from eagc_jax.gcd.backbones import cache as cache_room
from tests.gcd.backbones import fakes


@pytest.fixture(params=[False, True], ids=["in memory", "cached"])
def cache(request, tmp_path):
    return tmp_path / "cache" if request.param else None


def features_of(array):
    return array @ fakes.MATRIX  # small integers: exact in float32, in any order


def test_features_are_in_the_records_order(cache):
    array = fakes.rows(11)
    backbone = fakes.Linear()
    found = embed(fakes.records(array), backbone, cache=cache, batch_size=4)
    np.testing.assert_array_equal(found.features, features_of(array))
    np.testing.assert_array_equal(found.rows, np.arange(11))
    assert (found.embedded, found.bad) == (11, ())
    assert found.features.dtype == np.float32
    assert found.seconds > 0


def test_all_batches_have_one_shape():
    backbone = fakes.Linear()
    embed(fakes.records(fakes.rows(11)), backbone, batch_size=4)
    assert backbone.shapes == [(4, 4)] * 3


@pytest.mark.parametrize("size", [8, 5], ids=["divided over devices", "on one device"])
def test_a_module_is_compiled_with_its_weights_as_arguments(size):
    array = fakes.rows(20)
    assert jax.local_device_count() == 8
    found = embed(fakes.records(array), fakes.Module(), batch_size=size)
    np.testing.assert_array_equal(found.features, features_of(array))


def test_batches_are_divided_over_the_devices():
    forward = batches.forward(fakes.Module(), 8)
    result = forward(list(fakes.rows(3)))
    assert result.shape == (8, fakes.WIDTH)
    assert {shard.data.shape for shard in result.addressable_shards} == {(1, 3)}


def test_texts_of_like_length_are_computed_together(cache):
    random = np.random.default_rng(0)
    texts = ["x" * length for length in random.permutation(np.arange(1, 65))]
    backbone = fakes.Letters()
    found = embed(
        fakes.records(fakes.Listed(texts), "text"), backbone, cache=cache, batch_size=8
    )
    lengths = np.array([len(text) for text in texts], np.float32)
    expected = np.stack([lengths * ord("x"), lengths, 0 * lengths + ord("x")], axis=1)
    np.testing.assert_array_equal(found.features, expected)
    # Sorted, eight batches of eight need exactly these; unsorted, nearly all need 64.
    assert backbone.shapes == [(8, width) for width in range(64, 0, -8)]
    assert len(backbone.traced) == 8  # one compilation a shape


def test_windows_are_whole_batches_and_sorted_stably():
    items = iter([(i, np.zeros(i % 3)) for i in range(10)])
    found = [[i for i, _ in batch] for batch in batches.batches(items, 2, 6)]
    assert found == [[2, 5], [1, 4], [0, 3], [8, 7], [6, 9]]


def test_duplicates_are_computed_once(cache):
    array = fakes.rows(6)[[0, 1, 0, 2, 2, 0, 5]]
    backbone = fakes.Linear()
    found = embed(fakes.records(array), backbone, cache=cache, batch_size=4)
    np.testing.assert_array_equal(found.features, features_of(array))
    assert found.embedded == backbone.prepared == 4


def test_a_second_run_embeds_nothing(tmp_path):
    array = fakes.rows(10)
    embed(fakes.records(array), fakes.Linear(), cache=tmp_path, batch_size=4)
    backbone = fakes.Linear()
    turned = fakes.records(array[::-1].copy())  # by content, wherever a row lies
    found = embed(turned, backbone, cache=tmp_path, batch_size=4)
    np.testing.assert_array_equal(found.features, features_of(array)[::-1])
    assert (found.embedded, backbone.prepared, backbone.shapes) == (0, 0, [])


def test_only_what_is_new_is_computed(tmp_path):
    array = fakes.rows(10)
    embed(fakes.records(array[:6]), fakes.Linear(), cache=tmp_path)
    found = embed(fakes.records(array), fakes.Linear(), cache=tmp_path)
    np.testing.assert_array_equal(found.features, features_of(array))
    assert found.embedded == 4


@pytest.mark.parametrize("change", ["fingerprint", "preparation"])
def test_another_backbone_or_preparation_is_computed_anew(tmp_path, change):
    records = fakes.records(fakes.rows(3))
    embed(records, fakes.Linear(), cache=tmp_path)
    other = fakes.Linear("other" if change == "fingerprint" else "linear")
    other.preparation = "other" if change == "preparation" else "none"
    assert embed(records, other, cache=tmp_path).embedded == 3


BAD = sources.BadItem("photo 2", "is truncated")


@pytest.mark.parametrize("bad", [[2], [0, 2], [10], range(11)])
def test_bad_items_are_left_out_and_listed(cache, bad):
    items = fakes.Listed(list(fakes.rows(11)))
    for row in bad:
        items.items[row] = sources.BadItem(f"photo {row}", "is truncated")
    found = embed(
        fakes.records(items), fakes.Linear(), cache=cache, batch_size=4,
        on_bad_item="skip",
    )  # fmt: skip
    good = np.delete(np.arange(11), list(bad))
    np.testing.assert_array_equal(found.rows, good)
    np.testing.assert_array_equal(found.features, features_of(fakes.rows(11)[good]))
    assert found.features.shape == (len(good), 3)
    assert [row for row, _ in found.bad] == list(bad)
    assert str(found.bad[-1].error) == f"photo {bad[-1]}: is truncated"
    assert found.embedded == len(good)


def test_a_bad_item_raises_and_what_was_done_is_kept(tmp_path):
    items = fakes.Listed([*fakes.rows(11), BAD])
    with pytest.raises(sources.BadItem, match="photo 2: is truncated"):
        embed(fakes.records(items), fakes.Linear(), cache=tmp_path, batch_size=2)
    again = embed(fakes.records(fakes.Listed(items.items[:11])), fakes.Linear(),
                  cache=tmp_path)  # fmt: skip
    # Five batches were computed; the fifth's result was not yet asked for.
    assert again.embedded == 11 - 8


def test_who_interrupts_goes_on_from_there(tmp_path):
    def interrupt(done, *_):
        if done == 6:
            raise KeyboardInterrupt

    records = fakes.records(fakes.rows(11))
    with pytest.raises(KeyboardInterrupt):
        embed(records, fakes.Linear(), cache=tmp_path, batch_size=2,
              on_progress=interrupt)  # fmt: skip
    assert embed(records, fakes.Linear(), cache=tmp_path).embedded == 11 - 6


def test_prepared_texts_may_be_texts():
    backbone = fakes.Letters()
    backbone.prepare = lambda item: item
    collate = backbone.collate
    backbone.collate = lambda texts: collate([list(map(ord, one)) for one in texts])
    texts = fakes.Listed(["a", "bb" * 9, "c", "dd" * 9])
    found = embed(fakes.records(texts, "text"), backbone, batch_size=2)
    assert found.features[:, 1].tolist() == [1, 18, 1, 18]
    assert backbone.shapes == [(2, 24), (2, 8)]


def test_copies_of_a_bad_item_are_bad(cache):
    items = fakes.Listed([*fakes.rows(2), BAD, BAD])
    found = embed(fakes.records(items), fakes.Linear(), cache=cache, on_bad_item="skip")
    assert [row for row, _ in found.bad] == [2, 3]


class Gone(fakes.Listed):
    """A file that can't even be read for its digest."""

    def digest(self, row):
        if row == 1:
            raise sources.BadItem("photo 1", "does not exist")
        return super().digest(row)


def test_items_without_a_digest_are_bad(cache):
    records = fakes.records(Gone(list(fakes.rows(3))))
    found = embed(records, fakes.Linear(), cache=cache, on_bad_item="skip")
    np.testing.assert_array_equal(found.rows, [0, 2])
    with pytest.raises(sources.BadItem, match="photo 1: does not exist"):
        embed(records, fakes.Linear(), cache=cache)


def test_a_feature_that_is_not_finite_is_bad_and_not_kept(tmp_path):
    array = fakes.rows(5)
    array[3, 1] = np.nan
    found = embed(
        fakes.records(array), fakes.Linear(), cache=tmp_path, on_bad_item="skip"
    )
    np.testing.assert_array_equal(found.rows, [0, 1, 2, 4])
    assert "item 3" in str(found.bad[0].error)
    assert sum(entry.items for entry in cache_room.describe(tmp_path)) == 4
    with pytest.raises(sources.BadItem, match="not finite"):
        embed(fakes.records(array), fakes.Linear())


def test_an_error_of_the_preparation_says_where():
    class Broken(fakes.Linear):
        def prepare(self, item):
            raise TypeError("no")

    with pytest.raises(TypeError, match="no") as caught:
        embed(fakes.records(fakes.rows(3)), Broken())
    assert caught.value.__notes__ == ["while item 'item 0' (row 0) was prepared"]


def test_progress_ends_at_the_total():
    calls = []
    items = fakes.Listed([*fakes.rows(9), BAD])
    embed(
        fakes.records(items), fakes.Linear(), batch_size=4, on_bad_item="skip",
        on_progress=lambda *call: calls.append(call),
    )  # fmt: skip
    done, total, rate, left = zip(*calls, strict=True)
    assert total == (10, 10, 10)
    assert list(done) == sorted(done)
    assert (done[-1], left[-1]) == (10, 0.0)
    assert min(rate) > 0


def test_few_items_are_prepared_ahead():
    at_work = []

    class Slow(fakes.Linear):
        def prefix(self, arrays, num_blocks):
            at_work.append(self.prepared)
            return arrays

    embed(fakes.records(fakes.rows(400)), Slow(), batch_size=4, threads=3)
    ahead = np.array(at_work) - 4 * np.arange(1, 101)
    assert ahead.max() <= 2 * 4 + 1  # two batches, and the task that follows


class Given:
    """Embeddings that are features."""

    kind, width, depth, preparation, identity = "embedding", 4, 0, "none", True


def test_embeddings_go_straight_through(tmp_path):
    np.save(tmp_path / "rows.npy", fakes.rows(7))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r+")
    found = embed(fakes.records(mapped), Given(), cache=tmp_path / "cache")
    assert np.shares_memory(found.features, mapped)
    assert not found.features.flags.writeable
    assert mapped.flags.writeable
    assert not (tmp_path / "cache").exists()
    assert found.embedded == 0


def test_embeddings_with_nan_are_bad(monkeypatch):
    monkeypatch.setitem(embed.__globals__, "_ROWS_CHECKED", 3)
    array = fakes.rows(7)
    array[4, 2] = np.inf
    for items in (array, fakes.Listed(list(array))):
        with pytest.raises(sources.BadItem, match=r"item 4: .* not finite"):
            embed(fakes.records(items), Given())
        found = embed(fakes.records(items), Given(), on_bad_item="skip")
        np.testing.assert_array_equal(found.features, np.delete(array, 4, axis=0))


def test_many_features_are_mapped(tmp_path, monkeypatch):
    store = "eagc_jax.gcd.backbones.cache.store"
    monkeypatch.setattr(f"{store}._IN_MEMORY", 100)
    monkeypatch.setattr(f"{store}._SHARD_BYTES", 100)
    array = fakes.rows(50)
    found = embed(fakes.records(array), fakes.Linear(), cache=tmp_path, batch_size=4)
    assert isinstance(found.features, np.memmap)
    assert not found.features.flags.writeable
    np.testing.assert_array_equal(found.features, features_of(array))
    entry = cache_room.describe(tmp_path)[0]
    assert (entry.items, len(list(tmp_path.glob("*/*/*")))) == (50, 5)  # 12 rows each


def test_no_records_give_no_features(cache):
    empty = fakes.records(np.zeros((0, 4), np.float32))
    assert embed(empty, fakes.Linear(), cache=cache).features.shape == (0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"on_bad_item": "warn"}, "'raise' or 'skip', got 'warn'"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        embed(fakes.records(fakes.rows(2)), fakes.Linear(), **options)


def test_records_of_another_kind():
    records = dataclasses.replace(fakes.records(fakes.rows(2)), kind="image")
    with pytest.raises(ValueError, match="kind 'image', the backbone takes 'embed"):
        embed(records, fakes.Linear())


def test_a_backbone_of_another_width():
    backbone = fakes.Linear()
    backbone.width = 5
    with pytest.raises(ValueError, match=r"width 5 gave features of shape \(2, 3\)"):
        embed(fakes.records(fakes.rows(2)), backbone)


def test_a_digest_of_another_length():
    class Short(fakes.Listed):
        def digest(self, row):
            return b"short"

    with pytest.raises(ValueError, match="row 0 of few must have 16 bytes, got 5"):
        embed(fakes.records(Short([1])), fakes.Linear())
