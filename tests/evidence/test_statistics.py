"""The evidence suite: comparisons, Holm's correction, the search for static weights."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence import tuning
from benchmarks.evidence.rows import Row
from benchmarks.evidence.statistics import compared, errors, holm, spread


def test_a_comparison_is_a_paired_t_test_of_logarithms():
    random = np.random.default_rng(0)
    ours, theirs = np.exp(random.normal(size=(2, 7)))
    seeds = range(7)
    found = compared(
        dict(zip(seeds, ours, strict=True)),
        # A seed that only one of the two has is left out.
        {**dict(zip(seeds, theirs, strict=True)), 99: 1.0},
    )
    expected = stats.ttest_rel(np.log(ours), np.log(theirs))
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.difference.low == pytest.approx(interval.low, rel=1e-9)
    assert found.difference.high == pytest.approx(interval.high, rel=1e-9)
    assert found.difference.pairs == 7
    assert found.wins == (ours < theirs).sum()


def test_comparisons_without_spread():
    same = {0: 0.5, 1: 0.25}
    assert compared(same, same).p == 1
    assert compared(same, {0: 1.0, 1: 0.5}).p == 0
    assert math.isnan(compared({0: 0.5}, {0: 0.4}).p)
    assert compared({}, same).difference.pairs == 0


def test_holm_is_what_its_article_says():
    # Smallest first: 4 * .005, 3 * .01 (then at least the one before), 2 * .03, .04.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    adjusted = holm([0.02, math.nan, 0.01])
    assert adjusted[0] == pytest.approx(0.02)
    assert adjusted[2] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])


def test_holm_bounds_the_chance_of_a_false_claim():
    random = np.random.default_rng(0)
    claims = [min(holm(random.random(10))) < 0.05 for _ in range(2000)]
    # 5 % would be 100 of 2000, with a standard deviation of 9.7; four of them.
    assert abs(np.mean(claims) - 0.05) < 0.02


def row(seed, value, family="physics"):
    numbers = ("error", value, "", 10, 1.0, math.nan)
    return Row(family, "burgers", "sum", seed, "dev", "steps", "", *numbers)


def test_a_failed_run_counts_as_the_bound():
    rows = [row(0, 0.5), row(1, math.nan), row(2, math.inf), row(3, 1e6)]
    assert errors(rows) == {0: 0.5, 1: 100.0, 2: 100.0, 3: 100.0}
    assert errors([row(0, math.nan, "continual")]) == {0: 1.0}


def test_spread_of_errors():
    found = spread([1.0, 10.0, 100.0])
    assert found.geometric_mean == pytest.approx(10)
    assert (found.seeds, found.median, found.worst) == (3, 10, 100)
    assert found.low < 10 < found.high < 100


def quadratic(best):
    """Scores with their least at a point in logarithms; counts the settings tried."""
    tried = []

    def evaluate(settings):
        tried.extend(settings)
        return {
            s: float(np.sum((np.log10(s[1:]) - np.asarray(best)) ** 2))
            for s in settings
        }

    return evaluate, tried


def test_the_search_finds_the_best_ratios():
    evaluate, tried = quadratic([1.0, -1.0])
    found = tuning.search(3, evaluate)
    assert found.weights == (1.0, 10.0, 0.1)
    assert found.tried == len(tried) == len(set(tried)) == 9


def test_the_grid_grows_where_its_best_is_at_an_end():
    evaluate, tried = quadratic([3.1])
    assert tuning.search(2, evaluate).weights == (1.0, 1000.0)
    assert len(tried) == 7
    evaluate, _ = quadratic([-9.0])
    assert tuning.search(2, evaluate).weights == (1.0, 1e-4)  # two more, no further


def test_settings_that_fail_are_not_chosen():
    def evaluate(settings):
        return {s: math.nan if s[1] < 1 else s[1] for s in settings}

    assert tuning.search(2, evaluate).weights == (1.0, 1.0)


def test_the_full_grid_sees_what_turns_miss():
    """A valley along the diagonal: by turns, neither ratio improves alone."""

    def evaluate(settings):
        return {
            s: abs(math.log10(s[1]) - math.log10(s[2])) - 0.1 * math.log10(s[1])
            for s in settings
        }

    # 100 and 100 are at an end: one and two powers more are tried by turns, too.
    assert tuning.search(3, evaluate).weights == (1.0, 1.0, 1.0)
    assert tuning.search(3, evaluate, full=True).weights == (1.0, 100.0, 100.0)


def test_refining_looks_between_the_powers_of_ten():
    evaluate, tried = quadratic([0.6, -1.3])
    coarse = tuning.search(3, evaluate).weights
    assert coarse == (1.0, 10.0, 0.1)
    fine = tuning.search(3, evaluate, refine=3).weights
    # An eighth of a power of ten at the end, so a sixteenth away at most, and rounding.
    np.testing.assert_allclose(np.log10(fine[1:]), [0.6, -1.3], atol=0.0625 + 0.003)
    assert {len(f"{w:g}") <= 6 for one in tried for w in one} == {True}
