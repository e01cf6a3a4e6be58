"""Category discovery's part of the page."""

import math
import shlex

import pytest

from benchmarks import discovery
from benchmarks.evidence import discovered
from eagc_jax.gcd.runs.comparison.finished import FinishedRun, append_run


def run(arm, seed, gain=0.0):
    accuracy = (0.7 + 0.01 * seed + gain, 0.8, 0.6 + 2 * gain)
    return FinishedRun("letters", arm, seed, *accuracy, math.nan, 0.5, 0.01)


def section(tmp_path, runs):
    table = tmp_path / "evidence.csv"
    for one in runs:
        append_run(discovered.beside(table), one)
    return "\n".join(discovered.section(table, tmp_path / "evidence"))


def test_paired_differences_a_figure_and_the_command(tmp_path, monkeypatch):
    both = [run(arm, s, g) for s in range(3) for arm, g in (("eagc", 0.02), ("EEP", 0))]
    text = section(tmp_path, [*both, *(run(discovery.CONTROL, s) for s in range(3))])
    assert "**letters**" in text
    assert "+0.020" in text
    # In the order of the program's arms, whatever the file's is.
    assert text.index("| warm start") < text.index("| eagc") < text.index("| EEP")
    assert "<svg" in (tmp_path / "evidence" / discovered.FIGURE).read_text()
    (line,) = (line for line in text.splitlines() if "letters:FOLDER" in line)
    monkeypatch.setattr("sys.argv", shlex.split(line)[2:])
    options = discovery.parse(None)
    assert options.arms == ["warm start", "eagc", "EEP"]
    assert (options.seeds, options.first_seed) == (3, 0)
    assert options.output == discovered.beside(tmp_path / "evidence.csv")


@pytest.mark.parametrize("runs", [[], [run(discovery.CONTROL, 0)]])
def test_without_runs_to_compare_there_is_no_figure(tmp_path, runs):
    text = section(tmp_path, runs)
    assert bool(text) == bool(runs)
    assert not (tmp_path / "evidence").exists()
