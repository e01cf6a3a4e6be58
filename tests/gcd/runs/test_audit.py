"""steps.jsonl and the settings that a run is replayed from, without any training."""

import json

import numpy as np
import pytest

from eagc_jax.gcd.methods import METHODS
from eagc_jax.gcd.runs import results
from eagc_jax.gcd.settings import running as settings
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.settings import (
    AdapterConfig,
    FeatureCoordination,
    ReferenceConfig,
    TrainConfig,
    WarmStart,
)
from tests.gcd.report.test_report import PARAMETERS, make_run


def test_a_line_per_step_gives_every_bit_back(tmp_path):
    run = make_run("EAGC", epochs=2)
    run.traces = [
        type(trace)(*(np.asarray(part, np.float32) for part in trace))
        for trace in run.traces
    ]
    run.traces[1].losses[0, 0] = np.nan
    runs = {"EAGC": run, "plain": make_run("plain", epochs=1, gated=False)}
    results.write_results(tmp_path, {}, runs, {})
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(r["run"], r["epoch"], r["step"]) for r in rows] == [
        *(("EAGC", 1 + step // 4, 1 + step) for step in range(8)),
        *(("plain", 1, 1 + step) for step in range(4)),
    ]
    assert rows[4]["loss"]["supervised"] is None
    for row in rows[:8]:
        trace, at = run.traces[row["epoch"] - 1], (row["step"] - 1) % 4
        assert ("cosines" in row) == ("gradient_norms" in row) == (at % 2 == 0)
        assert (row["gdc"] is None) == (at % 2 == 1)
        assert np.float32(row["loss"]["unsupervised"]) == trace.losses[at, 1]
        quantiles = np.array(row["coordinator"]["projection_quantiles"], np.float32)
        np.testing.assert_array_equal(quantiles, trace.projection_quantiles[at])
        if at % 2 == 0:
            norms = row["gradient_norms"][PARAMETERS[2]]
            assert np.float32(norms["supervised"]) == trace.gradient_norms[at, 0, 2]
            assert np.float32(row["cosines"][PARAMETERS[3]]) == trace.cosines[at, 3]
    assert not any("coordinator" in row or "gates" in row for row in rows[8:])
    assert len(repr(rows[0]["loss"]["unsupervised"])) <= 11  # float32, not float64


def test_settings_come_back_as_they_were_written():
    config = TrainConfig(
        epochs=5,
        head_rate=0.1,
        seed=4,
        trains="adapter",
        adapter=AdapterConfig(neighbours=10),
        warm_start=WarmStart(epochs=2),
    )
    runs = {
        "plain": settings.RunSettings(METHODS["simgcd"]()),
        "all": settings.RunSettings(
            METHODS["rankstats"](),
            config,
            Aggregation(
                "eagc",
                {"preset": "article", "energy": "exploratory", "temperature": 0.5},
            ),
            FeatureCoordination(mode="paper", max_projection=None),
            ReferenceConfig(epochs=3, seed=7),
        ),
    }
    written = json.dumps(results.describe_settings(runs, data="digits"))
    assert settings.read_runs(json.loads(written)) == runs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": {"name": "magic"}}, "method must be one of rankstats.*'magic'"),
        ({"method": {"name": "simgcd", "warmth": 1}}, "extra fields found .warmth."),
        ({"training": {"epochs": 0}}, "epochs must be at least 1, got 0"),
        ({"training": {"trains": "all"}}, "trains"),
        ({"optimizer": "adam"}, "extra fields found .optimizer."),
    ],
)
def test_settings_of_another_kind_say_what_is_wrong(change, message):
    entry = settings.RunSettings().describe() | change
    with pytest.raises(ValueError, match=message):
        settings.read_runs({"runs": {"one": entry}})
