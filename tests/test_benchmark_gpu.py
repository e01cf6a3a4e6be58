"""benchmarks/gpu measures every part on CPU at tiny sizes, and says what it couldn't."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import (
    bandwidth,
    clock,
    compiling,
    context,
    coordinators,
    flops,
    precision,
    report,
    sizes,
    training,
    trees,
)
from eagc_jax import aggregators


def broken(number):
    raise RuntimeError("RESOURCE_EXHAUSTED: no room for\n  a leaf")


TWO = {"conflict_free": aggregators.conflict_free, "broken": broken}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run over one part of each kind, with two methods of which one fails."""
    path = tmp_path_factory.mktemp("gpu") / "new" / "gpu.json"

    def parts(sizes):
        return [
            bandwidth.part(),
            coordinators.update_part(2, "float32"),
            precision.part(sizes),
            training.part("tiny", "bfloat16"),
            coordinators.memory_part(2, "bfloat16"),
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinators, "COORDINATORS", TWO)
        patch.setattr(training, "COORDINATORS", {"broken": broken})  # beside the sum
        patch.setattr(program, "parts", parts)
        assert program.main(["--tiny", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def found(run):
    return json.loads(run.read_text())


def rows_of(found, kind):
    return [
        row
        for part in found["parts"]
        if report.kind(part["part"]) == kind
        for row in part["rows"]
    ]


@pytest.mark.slow
def test_the_file_is_a_whole_report(run, found):
    assert report.read(run) == found
    assert [path.name for path in run.parent.iterdir()] == ["gpu.json"]
    assert found["finished"]
    assert found["device"]["platform"] == "cpu"
    assert found["settings"] == {"minutes": 8.0, "tiny": True, "threads": 2}
    kinds = [report.kind(part["part"]) for part in found["parts"]]
    assert sorted(kinds) == sorted(report.COLUMNS)
    for part in found["parts"]:
        assert part["missing"] == []
        assert part["why"] is None
        for row in part["rows"]:
            if row["error"] is None:
                unknown = {name for name, value in row.items() if value is None}
                # No peak is known of this device; some rows have no goal.
                allowed = {"error", "flops_utilisation", "goal"}
                if row.get("step") == "plain":
                    allowed.add("over_two_passes")  # which are timed later
                assert unknown <= allowed


@pytest.mark.slow
def test_an_error_is_said_and_the_rest_goes_on(found):
    for kind, name in (
        ("coordinators", "method"),
        ("training", "step"),
        ("memory", "method"),
    ):
        rows = rows_of(found, kind)
        errors = {row[name]: row["error"] for row in rows}
        assert errors.pop("broken").startswith("out of memory: RESOURCE_EXHAUSTED: no")
        assert set(errors.values()) == {None}


@pytest.mark.slow
def test_the_figures_fit_each_other(found):
    copies = rows_of(found, "bandwidth")
    for row in copies:
        rate = row["bytes"] / row["seconds"] / 1e9
        np.testing.assert_allclose(row["gb_per_second"], rate, rtol=1e-12)
    best = max(row["gb_per_second"] for row in copies)
    (update, _) = rows_of(found, "coordinators")
    rate = update["bound_bytes"] / update["seconds"] / 1e9
    np.testing.assert_allclose(update["share"], rate / best, rtol=1e-12)
    assert 0 < update["share"] <= 1
    steps = {row["step"]: row for row in rows_of(found, "training")}
    assert list(steps) == ["plain", "two passes", "at the feature", "broken"]
    seconds = steps["at the feature"]["seconds"]
    for other in ("plain", "two passes"):
        ratio = steps["at the feature"][f"over_{other.replace(' ', '_')}"]
        np.testing.assert_allclose(ratio, seconds / steps[other]["seconds"], rtol=1e-12)
    (memory, _) = rows_of(found, "memory")
    assert 2 * 3 * 136 <= memory["donated_bytes"] < memory["undonated_bytes"]
    # On CPU float32 products are float32 products.
    assert max(row["largest_difference"] for row in rows_of(found, "precision")) < 1e-6


@pytest.mark.slow
def test_tables_are_printed_from_the_file(run, found, capsys):
    assert program.main(["--table", str(run)]) == 0
    printed = capsys.readouterr().out
    for part in found["parts"]:
        assert f"\n{part['part']}: {part['title']}" in printed
    assert "error: broken, float32: out of memory" in printed
    assert "tiny sizes: the figures say nothing about speed" in printed
    assert "not measured" not in printed


@pytest.mark.slow
def test_a_file_that_is_no_report_is_refused(run, found, tmp_path, capsys):
    path = tmp_path / "other.json"
    changed = {**found, "format": 2}
    surplus = json.loads(json.dumps(found))
    surplus["parts"][0]["rows"][0]["surplus"] = 1
    for text, message in (
        ("[", "isn't JSON"),
        ("{}", "a report has the keys"),
        (json.dumps(changed), "a report of format 1, got 2"),
        (json.dumps(surplus), "a row of bandwidth has the keys"),
    ):
        path.write_text(text)
        with pytest.raises(SystemExit):
            program.main(["--table", str(path)])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["--table", str(tmp_path / "absent.json")])
    assert "No such file" in capsys.readouterr().err


def test_without_time_every_part_is_named(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    assert program.main(["--tiny", "--minutes", "0.001", "--out", str(path)]) == 0
    found = report.read(path)
    printed = capsys.readouterr().out
    assert len(found["parts"]) == 8  # of all kinds; both dtypes of three of them
    for part in found["parts"]:
        assert part["rows"] == []
        assert part["why"] == "out of time"
        assert f"not measured: {part['part']}: all of it (out of time)" in printed


class Countdown(clock.Clock):
    """Its time is up after some looks at it."""

    def __init__(self, looks):
        super().__init__(1e6)
        self.looks = looks

    def left(self):
        self.looks -= 1
        return self.looks


def rows(context):
    for name in ("one", "two", "three"):
        yield {"copy": name}


FAKE = context.Part("bandwidth", "a part", ("one", "two", "three"), rows)


def make_report(clock, chosen, path=None):
    return report.Report(
        path, {"minutes": 1, "tiny": True, "threads": 1}, clock, chosen
    )


def test_time_that_ends_within_a_part_names_the_rest(capsys):
    countdown = Countdown(3)  # one look before the part, one after every row
    made = make_report(countdown, [FAKE])
    program.measure(made, None, countdown, [FAKE])
    (part,) = made.content["parts"]
    assert [row["copy"] for row in part["rows"]] == ["one", "two"]
    assert (part["missing"], part["why"]) == (["three"], "out of time")


def test_a_part_that_breaks_off_names_the_rest(capsys):
    def rows(context):
        yield {"copy": "one"}
        raise ValueError("nothing more")

    broken = FAKE._replace(rows=rows)
    made = make_report(clock.Clock(1e6), [broken])
    program.measure(made, None, clock.Clock(1e6), [broken])
    (part,) = made.content["parts"]
    assert part["missing"] == ["two", "three"]
    assert part["why"] == "ValueError: nothing more"


def test_the_watch_ends_the_program_in_the_middle(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    made = make_report(clock.Clock(1e6), [FAKE], path)
    made.begin("bandwidth")
    made.add({"copy": "one"})
    left = []
    program.stop(made, left.append)
    assert left == [0]
    found = report.read(path)
    assert found["finished"]
    assert found["parts"][0]["missing"] == ["two", "three"]
    printed = capsys.readouterr().out
    assert "|  one |" in printed  # what was measured of the part that was broken off
    assert "not measured: bandwidth: two, three (out of time)" in printed
    program.stop(made, left.append)  # one that comes when all is done
    assert left == [0]


def test_a_share_above_one_is_refused():
    assert context.check_share(0.7) == 0.7
    small = dataclasses.replace(sizes.tiny(), tree={"w": (4,)})
    # A copy so slow that any update beats it.
    slow = context.Context(small, "cpu", copy_bytes_per_second=1.0)
    leaf = {"w": jnp.ones((2, 4))}
    call = compiling.Program(lambda g, s: (g, s), 0.0, 0.0)
    row = context.attempt(
        {"method": "hoisted"},
        lambda: coordinators._measure_update(slow, call, leaf, jnp.zeros(3)),
    )
    assert row.keys() == {"method", "error"}  # no figure at all
    assert "of the copy bandwidth can't be" in row["error"]


def test_peak_memory_counts_what_is_written_in_place_once():
    peaks = []
    for donate in ((), (0,)):
        function = jax.jit(lambda x: x + 1, donate_argnums=donate)
        program = compiling.compile_all(
            {"add": lambda f=function: f.lower(jnp.zeros(1000))}, threads=1
        )["add"]
        peaks.append(program.peak_bytes())
    assert peaks == [8000, 4000]


def test_bytes_of_the_bound():
    params = {"w": jnp.zeros((3, 5))}
    gradients = {"w": jnp.zeros((4, 3, 5), jnp.bfloat16)}
    state = (jnp.zeros(7), jnp.zeros(2, jnp.int32))
    expected = 2 * 4 * 15 * 2 + 15 * 4 + 2 * (7 * 4 + 2 * 4)
    assert coordinators.bound_bytes(params, gradients, state) == expected


def test_calls_are_counted_and_the_quickest_round_kept():
    calls = []
    timing = clock.time_calls(lambda: calls.append(1) or jnp.zeros(1), 1e-9, rounds=3)
    assert len(calls) == 2 + 3 * 2  # to warm up, to estimate, then rounds of two
    assert 0 < timing.host_seconds <= timing.seconds


def test_full_sizes_are_those_of_the_docstring():
    full = sizes.full(cores=64)
    shapes = jax.tree.leaves(full.tree, is_leaf=trees.is_shape)
    assert len(shapes) == 150
    assert sum(math.prod(shape) for shape in shapes) == 85_798_656
    assert full.threads == 16
    names = [part.name for part in program.parts(full)]
    assert len(names) == len(set(names)) == 18
    assert names[:2] == ["bandwidth", "coordinators/float32/2"]
    for part in program.parts(full):
        assert report.kind(part.name) in report.COLUMNS
    for number in full.num_objectives:
        for factory in coordinators.COORDINATORS.values():
            factory(number)
    small = full.models["ViT-S/16"]
    shapes = jax.tree.leaves(sizes.parameter_shapes(small), is_leaf=trees.is_shape)
    assert sum(math.prod(shape) for shape in shapes) == 21_665_664  # as published


# ---------------------------------------------------------------------------
# FLOPs
# ---------------------------------------------------------------------------


def product_flops(jaxpr):
    """Of all matrix products in a jaxpr and in what it calls; none of them loops."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in summed)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            if hasattr(value, "jaxpr"):
                total += product_flops(value.jaxpr)
    return total


def test_flops_are_those_of_the_traced_step():
    """The count from shapes against every product that JAX's own trace holds."""
    tiny = dataclasses.replace(sizes.tiny(), batch=6)
    config = dataclasses.replace(tiny.models["tiny"], depth=3, mlp_ratio=3)
    problem = training.make_problem(tiny, config)
    one, optimizer = training.make_step(problem, training.PLAIN, None)
    arguments = (
        problem.params,
        jax.eval_shape(optimizer.init, problem.params),
        problem.state,
        problem.frozen,
        problem.params["backbone"],
        problem.views,
    )
    traced = product_flops(jax.make_jaxpr(one)(*arguments).jaxpr)
    batch, method = training.make_batch(tiny), tiny.method

    def losses(projections, logits):
        found = method.objectives_of_outputs(projections, logits, batch)
        return jnp.asarray(method.objective_weights) @ jnp.stack(found)

    outputs = jnp.ones((12, 4)), jnp.ones((12, 4))
    of_losses = jax.make_jaxpr(jax.grad(losses, argnums=(0, 1)))(*outputs)
    assert traced - product_flops(of_losses.jaxpr) == training.step_flops(problem)


def test_peak_is_looked_up_by_name():
    assert flops.peak("NVIDIA H200", "bfloat16") == 989.4e12
    assert flops.peak("NVIDIA H200", "float32") == 494.7e12
    assert flops.peak("cpu", "float32") is None


def test_a_machine_without_a_gpu_is_told(capsys):
    with pytest.raises(SystemExit):
        program.main([])
    assert "--tiny tries the program out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["--tiny", "--minutes", "0"])
    assert "--minutes must be positive" in capsys.readouterr().err


def test_default_precision_is_measured_against_the_highest(monkeypatch):
    """A way that rounds to TF32's eleven bits shows as such a difference."""

    def rounded(gradients):
        cut = jax.tree.map(lambda x: x.astype(jnp.float16), gradients)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), cut)
        return precision.gram_by_products(wide, precision.HIGHEST)

    small = dataclasses.replace(sizes.tiny(), tree={"w": (64,)})
    row = precision._compare(context.Context(small, "cpu"), 3, rounded)
    # 64 products, each with two relative errors of at most 2^-11.
    assert 1e-6 < row["largest_difference"] < 2 * 2**-11
