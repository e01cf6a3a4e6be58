"""benchmarks/gcd_step.py runs, and writes the keys that its text promises."""

import json

import pytest

from benchmarks import gcd_step


@pytest.mark.slow
def test_it_writes_what_it_measured(tmp_path, capsys):
    target = tmp_path / "step.json"
    arguments = ["--small", "--batch", "8", "--rounds", "1", "--json", str(target)]
    assert gcd_step.main(arguments) == 0
    found = json.loads(target.read_text())
    assert found["batch"] == 8
    assert found["step_time_ratio"] > 0
    assert found["images_per_second"] > 0
    rows = {row["step"]: row for row in found["steps"]}
    # What is compiled, not how fast it is: the reference model shares the frozen
    # blocks, so it costs less than a forward pass of its own.
    assert 1 < found["flops_ratio"] < rows["two forward passes"]["flops_ratio"]
    assert "two forward passes" in capsys.readouterr().out
