"""The examples, run the way a reader runs them: as programs, from any folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
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


def quickstart_losses(output):
    rows = re.findall(
        r"^(\w+(?: sum)?) +small loss +(\S+) +large loss +(\S+)", output, re.M
    )
    return {name: np.array([float(small), float(large)]) for name, small, large in rows}


@pytest.mark.parametrize("form", ["file", "module"])
def test_quickstart_says_what_both_ways_of_adding_up_reach(form, tmp_path):
    if form == "file":
        output = run(ROOT / "examples" / "quickstart.py", cwd=tmp_path)
    else:
        output = run("-m", "examples.quickstart", cwd=ROOT)
    losses = quickstart_losses(output)
    assert list(losses) == ["before", "plain sum", "EAGC"]
    assert losses["before"][1] > 50 * losses["before"][0]
    for name in ("plain sum", "EAGC"):
        assert (losses[name] < 0.5 * losses["before"]).all()
    # On this problem: less of the small loss, and not much more of the large one.
    assert losses["EAGC"][0] < losses["plain sum"][0]
    assert losses["EAGC"][1] < 1.2 * losses["plain sum"][1]
    assert re.search(r"^hidden( +[\d.e-]+){4} +\d+$", output, re.M)


def test_toy_writes_its_picture_and_its_table(tmp_path):
    target = tmp_path / "new" / "toy.png"
    script = ROOT / "examples" / "multi_task_toy.py"
    output = run(script, "--fast", "--output", target, cwd=tmp_path)
    assert target.read_bytes().startswith(b"\x89PNG")
    for name in multi_task_toy.methods():
        assert len(re.findall(rf"^{re.escape(name)} .* of 5 ", output, re.M)) == 1


def test_toy_pareto_set_has_opposed_gradients():
    points = multi_task_toy.pareto_set(21)[1:-1]
    first, second = jnp.moveaxis(
        jax.vmap(jax.jacobian(multi_task_toy.losses_fn))(points), 1, 0
    )
    cosine = jnp.sum(first * second, axis=1) / (
        jnp.linalg.norm(first, axis=1) * jnp.linalg.norm(second, axis=1)
    )
    np.testing.assert_allclose(cosine, -1.0, atol=1e-4)


def test_toy_distance_counts_in_units_of_the_front():
    front = jnp.array([[0.0, 10.0], [2.0, 0.0]])
    distance = multi_task_toy.distance_to_front(
        jnp.array([[0.0, 10.0], [4.0, 0.0]]), front
    )
    np.testing.assert_allclose(distance, [0.0, 1.0], atol=1e-6)


def test_toy_pcgrad_is_the_sum_without_conflict_and_orthogonal_parts_with():
    agreeing = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(multi_task_toy.pcgrad(agreeing), [2.0, 1.0], atol=1e-6)
    a, b = np.array([1.0, 0.0]), np.array([-1.0, 1.0])
    expected = (a - a @ b / (b @ b) * b) + (b - a @ b / (a @ a) * a)
    update = multi_task_toy.pcgrad(jnp.stack([jnp.array(a), jnp.array(b)]))
    np.testing.assert_allclose(update, expected, atol=1e-6)


def test_toy_with_one_block_eagc_is_the_plain_sum():
    # What the program's text says of granularity "channel" on one vector.
    front = jax.vmap(multi_task_toy.losses_fn)(multi_task_toy.pareto_set(21))
    gated = multi_task_toy.follow(eagc(2), 150, front)
    plain = multi_task_toy.follow(sum_objectives(), 150, front)
    np.testing.assert_allclose(gated.path, plain.path, atol=1e-4)
