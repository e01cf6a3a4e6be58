"""The file of runs survives any cut; the statistics are scipy's and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eagc_jax.gcd.runs.comparison import finished, intervals, tables
from eagc_jax.gcd.runs.comparison.finished import FinishedRun


def run(arm="plain", seed=0, dataset="digits", **values):
    numbers = dict(all=0.8, old=0.9, new=0.7, gdc=0.1, soc=0.2, seconds_per_step=0.01)
    return FinishedRun(dataset, arm, seed, **(numbers | values))


RUNS = [
    run(),
    run('EEP 3.0, "paper"', 1, gdc=math.nan, soc=math.nan, all=1 / 3),
    run("größer", 2, "omniglot", seconds_per_step=1e-5, new=0.0, old=1.0),
]


def write(path, runs):
    for one in runs:
        finished.append_run(path, one)
    return path


def quiet(message):
    raise AssertionError(message)


def test_runs_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "sub" / "runs.csv"
    assert finished.read_runs(path, quiet) == []
    write(path, RUNS)
    # repr, because NaN is not equal to itself.
    assert repr(finished.read_runs(path, quiet)) == repr(RUNS)
    assert path.read_text().startswith(
        "dataset,arm,seed,all,old,new,gdc,soc,seconds_per_step\ndigits,plain,0,0.8,"
    )
    numpy_run = run(seed=np.int64(7), all=np.float32(0.5))
    finished.append_run(path, numpy_run)
    assert finished.read_runs(path, quiet)[-1] == run(seed=7, all=0.5)
    assert finished.finished(RUNS) == {
        ("digits", "plain", 0),
        ("digits", 'EEP 3.0, "paper"', 1),
        ("omniglot", "größer", 2),
    }


def test_a_file_cut_anywhere_is_resumed(tmp_path):
    whole = write(tmp_path / "whole.csv", RUNS).read_bytes()
    path = tmp_path / "cut.csv"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        said = []
        found = finished.read_runs(path, said.append)
        assert repr(found) == repr(RUNS[: len(found)])
        # Exactly the lines that are whole, and a message unless the cut is at an end.
        assert len(found) == max(0, whole[:cut].count(b"\n") - 1)
        assert len(said) == (cut > 0 and not whole[:cut].endswith(b"\n"))
        assert all("incomplete last line" in message for message in said)
        write(path, RUNS[len(found) :])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,value\n1,2\n", "should begin with the line dataset,arm"),
        ("years of work", "should begin with the line dataset,arm"),
        (finished._HEADER + "digits,plain\n", "line 2: should have 9 fields, has 2"),
        (finished._HEADER + 'd,"a,0,1,1,1,1,1,1\n', "line 2: unexpected end of data"),
        (finished._HEADER + "\n", "line 2: should have 9 fields, has 0"),
        (finished._HEADER + "d,a,0,x,1,1,1,1,1\n", "line 2: could not convert"),
        (finished._HEADER + "d,a,0.5,1,1,1,1,1,1\n", "line 2: invalid literal"),
        (finished._HEADER + "d,a,0,1.5,1,1,1,1,1\n", "line 2: all must be in"),
        (finished._HEADER + "d,a,0,1,1,1,1,1,1\n" * 2, "line 3: d, a, seed 0 is there"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    (tmp_path / "runs.csv").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        finished.read_runs(tmp_path / "runs.csv", lambda _: None)
    assert "runs.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"all": math.nan}, r"all must be in \[0, 1\]"),
        ({"new": -0.1}, r"new must be in \[0, 1\]"),
        ({"arm": "two\nlines"}, "arm must be a name on one line"),
        ({"dataset": ""}, "dataset must be a name"),
        ({"seconds_per_step": 0.0}, "seconds_per_step must be positive"),
        ({"seconds_per_step": math.nan}, "seconds_per_step must be positive"),
    ],
)
def test_wrong_runs_are_not_written(tmp_path, wrong, message):
    path = write(tmp_path / "runs.csv", RUNS[:1])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        finished.append_run(path, run()._replace(**wrong))
    assert path.read_bytes() == before


floats = st.floats(0, 1)


@given(
    st.lists(st.tuples(floats, floats), min_size=2, max_size=9), st.floats(0.5, 0.99)
)
def test_interval_is_scipys(pairs, level):
    values, control = np.array(pairs).T
    if np.ptp(values - control) < 1e-6:  # scipy warns where all differences agree
        return
    found = intervals.paired_interval(values, control, level=level)
    oracle = stats.ttest_rel(values, control).confidence_interval(level)
    # Differences of numbers below 1: rounding is absolute.
    np.testing.assert_allclose(found[1:3], oracle, rtol=1e-9, atol=1e-14)
    assert found.pairs == len(pairs)
    assert found.mean == pytest.approx((found.low + found.high) / 2, abs=1e-14)
    swapped = intervals.paired_interval(control, values, level=level)
    np.testing.assert_allclose((-swapped.high, -swapped.low), found[1:3], atol=1e-14)


def test_interval_closed_forms():
    # Two pairs: t is Cauchy's quantile tan(0.475 pi), std / sqrt(2) half the distance.
    found = intervals.paired_interval([0.3, 0.5], [0.2, 0.2])
    half = math.tan(0.475 * math.pi) * 0.1
    np.testing.assert_allclose(found[:3], (0.2, 0.2 - half, 0.2 + half), rtol=1e-12)
    assert not found.excludes_zero
    # Equal differences: no width.
    found = intervals.paired_interval([0.5, 0.75, 1.0], [0.25, 0.5, 0.75])
    assert found == (0.25, 0.25, 0.25, 3)
    assert found.excludes_zero
    assert intervals.paired_interval([0.0, 0.0], [0.5, 0.5]).excludes_zero
    one = intervals.paired_interval([0.5, math.nan], [0.25, 0.5])
    assert (one.mean, one.pairs, one.excludes_zero) == (0.25, 1, False)
    assert math.isnan(one.low)
    none = intervals.paired_interval([], [])
    assert (math.isnan(none.mean), none.pairs) == (True, 0)
    with pytest.raises(ValueError, match="same shape"):
        intervals.paired_interval([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="level must be in"):
        intervals.paired_interval([1.0], [1.0], level=95)


@pytest.fixture
def study():
    """Control with seeds 0-4; an arm that shifts New by 0.1, one with other seeds."""
    noise = np.random.default_rng(0).normal(0, 0.05, 5)
    control = [run("warm", s, new=0.5 + noise[s], all=0.6) for s in range(5)]
    better = [
        run("better", s, new=0.6 + noise[s] + 0.001 * (s - 2), all=0.6 + 0.01 * s)
        for s in (3, 1, 0, 2, 4)
    ]
    odd = [run("odd", s, gdc=math.nan if s == 3 else 0.25) for s in (3, 4, 5)]
    alone = [run("better", 0, "omniglot", gdc=math.nan, soc=math.nan)]
    return [*better, *control, *odd, *alone]


def test_summary_pairs_by_seed(study):
    found = {(s.dataset, s.arm): s for s in intervals.summarize(study, "warm")}
    assert list(found) == [
        ("digits", "better"),
        ("digits", "warm"),
        ("digits", "odd"),
        ("omniglot", "better"),
    ]
    better = found["digits", "better"]
    values = sorted(r.new for r in study if r.dataset == "digits" and r.arm == "better")
    assert better.mean["new"] == pytest.approx(np.mean(values), rel=1e-12)
    assert better.deviation["new"] == pytest.approx(stats.tstd(values), rel=1e-12)
    # Noise that both share cancels: what is left are the differences 0.098 to 0.102.
    interval = better.difference["new"]
    half = stats.t(4).ppf(0.975) * 0.001 * math.sqrt(2.5 / 5)
    np.testing.assert_allclose(interval[:3], (0.1, 0.1 - half, 0.1 + half), rtol=1e-9)
    assert found["digits", "warm"].difference == {}
    odd = found["digits", "odd"]
    assert (odd.seeds, odd.difference["new"].pairs) == (3, 2)
    assert (odd.difference["gdc"].pairs, odd.mean["gdc"]) == (1, 0.25)
    alone = found["omniglot", "better"]
    assert alone.difference["new"].pairs == 0
    assert math.isnan(alone.mean["gdc"])
    assert math.isnan(alone.deviation["new"])
    with pytest.raises(ValueError, match="at most once"):
        intervals.summarize([*study, study[0]], "warm")


def test_tables_say_what_was_found(study):
    summaries = intervals.summarize(study, "warm")
    markdown = tables.to_markdown(summaries, "warm").splitlines()
    assert markdown[0] == "**digits**"
    assert markdown[2] == (
        "| arm | seeds | All | Old | New | All - warm | Old - warm | New - warm | GDC | "
        "SOC | ms/step |"
    )
    better, warm, odd = (line.split(" | ") for line in markdown[4:7])
    assert better[0:3] == ["| better", "5", "0.620 ± 0.016"]
    assert better[5:8] == [
        "**+0.020 [+0.000, +0.040]**",
        "+0.000 [+0.000, +0.000]",
        "**+0.100 [+0.098, +0.102]**",
    ]
    assert better[8:] == ["0.100 ± 0.000", "0.200 ± 0.000", "10.0 |"]
    assert warm[5:8] == ["", "", ""]
    assert odd[5].endswith("(2 pairs)**")
    assert markdown[8] == "**omniglot**"
    assert markdown[12].split(" | ") == [
        "| better",
        "1",
        "0.800",
        "0.900",
        "0.700",
        "-",
        "-",
        "-",
        "-",
        "-",
        "10.0 |",
    ]
    text = tables.to_text(summaries, "warm").splitlines()
    assert "New - warm" in text[1]
    assert "Old - warm" not in text[1]
    assert "+0.100 [+0.098, +0.102] *" in text[2]
    # Right ends of a column agree.
    assert text[1].index("ms/step") + 7 == len(text[2])
    odd_names = [run("a|b", s) for s in (0, 1)]
    assert "| a\\|b |" in tables.to_markdown(
        intervals.summarize(odd_names, "warm"), "warm"
    )


def test_a_table_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "runs.csv"
    path.write_text("x" * 200)
    monkeypatch.setattr("eagc_jax.gcd.runs.comparison.finished._MOST", 100)
    with pytest.raises(
        ValueError, match="at most 100 bytes, found 200: it is not read"
    ):
        finished.read_runs(path)
