"""The examples, run the way a reader runs them: as programs, from any folder."""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from eagc_jax import eagc, sum_objectives
from examples import multi_task_toy

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd):
    environment = {**os.environ, "PYTHONWARNINGS": "error", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "form", ["file", pytest.param("module", marks=pytest.mark.slow)]
)
def test_quickstart_trains_and_says_what_the_gate_did(form, tmp_path):
    if form == "file":
        output = run(ROOT / "examples" / "quickstart.py", cwd=tmp_path)
    else:
        output = run("-m", "examples.quickstart", cwd=ROOT)
    first, *table = output.strip().splitlines()
    losses = ast.literal_eval(first)
    assert losses["large"] < 20  # from 97
    assert losses["small"] < 0.02  # from 0.24
    rows = {line.split()[0]: line.split()[1:] for line in table}
    assert list(rows) == ["layer", "global"]
    energies, gates = np.array(rows["global"][:4], float).reshape(2, 2)
    assert energies[0] > 10 * energies[1]
    assert gates[0] < 1 < gates[1]  # brought together
    np.testing.assert_allclose(gates @ energies, energies.sum(), rtol=2e-3)


def test_the_page_shows_the_quickstart():
    code = (ROOT / "examples" / "quickstart.py").read_text().split('"""', 2)[2].strip()
    assert code in (ROOT / "docs" / "quickstart.md").read_text()


@pytest.mark.slow
def test_toy_writes_its_picture_and_its_table(tmp_path):
    target = tmp_path / "new" / "toy.png"
    script = ROOT / "examples" / "multi_task_toy.py"
    output = run(script, "--fast", "--output", target, cwd=tmp_path)
    assert target.read_bytes().startswith(b"\x89PNG")
    for name in multi_task_toy.methods():
        assert len(re.findall(rf"^{re.escape(name)} .* of 5 ", output, re.M)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pareto_front", "three_rewards"])
def test_examples_assert_their_claims(name, tmp_path):
    options = ("--output", tmp_path / "front.png") if name == "pareto_front" else ()
    output = run(ROOT / "examples" / f"{name}.py", *options, cwd=tmp_path)
    assert len(output.splitlines()) >= 4


@functools.cache
def pareto_set():
    return np.asarray(jax.jit(lambda: multi_task_toy.pareto_set(21))())


def test_toy_pareto_set_has_opposed_gradients():
    points = pareto_set()[1:-1]
    jacobian = jax.jit(jax.vmap(jax.jacobian(multi_task_toy.losses_fn)))(points)
    first, second = np.moveaxis(np.asarray(jacobian), 1, 0)
    cosine = np.sum(first * second, axis=1) / (
        np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    )
    np.testing.assert_allclose(cosine, -1.0, atol=1e-4)


def test_toy_distance_counts_in_units_of_the_front():
    front = np.float32([[0, 10], [2, 0]])
    measure = jax.jit(multi_task_toy.distance_to_front)
    distance = measure(np.float32([[0, 10], [4, 0]]), front)
    np.testing.assert_allclose(distance, [0.0, 1.0], atol=1e-6)


def test_toy_pcgrad_is_the_sum_without_conflict_and_orthogonal_parts_with():
    agreeing, pcgrad = np.float32([[1, 0], [1, 1]]), jax.jit(multi_task_toy.pcgrad)
    np.testing.assert_allclose(pcgrad(agreeing), [2.0, 1.0], atol=1e-6)
    a, b = np.array([1.0, 0.0]), np.array([-1.0, 1.0])
    expected = (a - a @ b / (b @ b) * b) + (b - a @ b / (a @ a) * a)
    update = pcgrad(np.float32([a, b]))
    np.testing.assert_allclose(update, expected, atol=1e-6)


def test_toy_with_one_block_eagc_is_the_plain_sum():
    # What the program's text says of granularity "channel" on one vector.
    front = jax.jit(jax.vmap(multi_task_toy.losses_fn))(pareto_set())
    gated = multi_task_toy.follow(eagc(2, preset="article"), 150, front)
    plain = multi_task_toy.follow(sum_objectives(), 150, front)
    np.testing.assert_allclose(gated.path, plain.path, atol=1e-4)
