"""benchmarks/tpu_aot on CPU: it counts, judges, goes on where it was, and says so."""

import json

import jax
import pytest

from benchmarks.tpu_aot import __main__ as program
from benchmarks.tpu_aot import bounds, cases, collectives, compiling, where, worker

# As compilers write it: layouts with parentheses, comments, asynchronous pairs.
HLO = """
HloModule jit_step, is_scheduled=true
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.1 = f32[2,2]{1,0:T(2,128)S(1)} all-reduce(%a), channel_id=1, to_apply=%add
  ROOT %tuple = (s32[], f32[4]{0}) tuple(%b, %all-reduce.1)
}
%all-reduce.2 = (f32[2]{0:T(128)}, f32[2,12]{0,1:T(8,128)S(1)}, /*index=2*/bf16[8]{0}) \
all-reduce(%a, %b, %c), channel_id=2, to_apply=%add
%gte = f32[2]{0:T(128)} get-tuple-element(%all-reduce.2), index=0
%all-reduce-start.3 = (f32[16]{0}, pred[3]{0}) all-reduce-start(%a, %b), channel_id=3
%all-reduce-done.3 = (f32[16]{0}, pred[3]{0}) all-reduce-done(%all-reduce-start.3)
%all-gather-start.1 = (f32[4]{0}, f32[16]{0}) all-gather-start(%a), dimensions={0}
%all-gather-done.1 = f32[16]{0} all-gather-done(%all-gather-start.1)
%ags = ((f32[4]{0}, s8[2]{0}), (f32[16]{0}, s8[8]{0})) all-gather-start(%a, %b)
%collective-permute-start = (f32[6]{0}, f32[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%a), channel_id=5
%collective-permute-done = f32[6]{0} collective-permute-done(%collective-permute-start)
ROOT %all-to-all.4 = f8e4m3fn[4,8]{1,0} all-to-all(%x), channel_id=6
%reduce-scatter.1 = f32[8]{0} reduce-scatter(%y), dimensions={0}
""".replace("\\\n", "")

NAMES = ["sum/last/K2/float32", "eagc_tensor/last/K2/float32"]
NONE = {kind: {"count": 0, "bytes": 0} for kind in collectives.KINDS}
PLAIN = {"row": NAMES[0], "compile_seconds": 4.0, "collectives": NONE}


def test_collectives_of_a_text():
    found = collectives.count(HLO)
    assert found == {
        "all-reduce": {"count": 3, "bytes": 16 + (8 + 96 + 16) + (64 + 3)},
        "all-gather": {"count": 2, "bytes": 64 + 64 + 8},
        "all-to-all": {"count": 1, "bytes": 32},
        "collective-permute": {"count": 1, "bytes": 24},
        "reduce-scatter": {"count": 1, "bytes": 32},
    }


def test_a_collective_in_the_bodies_of_several_programs_counts_once():
    step = (
        "%all-gather.{} = f32[8,2]{{1,0}} all-gather(%a), channel_id={}, "
        'dimensions={{0}}, frontend_attributes={{chain_id="{}"}}'
    )
    lines = [step.format(i, 10, 0) for i in range(3)]
    assert collectives.count("\n".join(lines))["all-gather"]["count"] == 1
    others = [step.format(3, 11, 1), step.format(4, 11, 1), step.format(5, 12, 2)]
    found = collectives.count("\n".join(lines + others))
    assert found["all-gather"] == {"count": 3, "bytes": 3 * 64}


@pytest.mark.parametrize(
    ("seconds", "counts", "words"),
    [
        (19.0, {"all-reduce": (2, 8192)}, []),
        (19.1, {}, ["compiles 15.1 s longer (15)"]),
        (5.0, {"all-reduce": (3, 12)}, ["3 more all-reduces (2)"]),
        (5.0, {"all-reduce": (1, 8193)}, ["8193 more bytes in all-reduces (8192)"]),
        (5.0, {"all-gather": (1, 8)}, ["1 all-gather"]),
        (5.0, {"all-to-all": (2, 8)}, ["2 all-to-all"]),
        (5.0, {"collective-permute": (1, 8)}, ["1 collective-permute"]),
    ],
)
def test_bounds(seconds, counts, words):
    found = NONE | {k: dict(count=n, bytes=b) for k, (n, b) in counts.items()}
    row = {"row": NAMES[1], "compile_seconds": seconds, "collectives": found}
    assert bounds.missed(row, PLAIN, bounds.BOUNDS["whole"]) == words


def test_a_slower_machine_has_more_time():
    plain = PLAIN | {"compile_seconds": 2 * bounds.SUM_SECONDS}
    row = {"row": NAMES[1], "compile_seconds": 38.7, "collectives": NONE}
    assert bounds.missed(row, plain, bounds.BOUNDS["whole"]) == []
    row["compile_seconds"] = 38.9
    assert bounds.missed(row, plain, bounds.BOUNDS["whole"]) == [
        "compiles 30.1 s longer (30)"
    ]


def test_a_row_of_a_busy_hour_is_judged_at_the_pace_of_its_sum():
    plain = PLAIN | {"pace_seconds": 1.0}
    row = {"row": NAMES[1], "compile_seconds": 37.0, "collectives": NONE}
    bound = bounds.BOUNDS["whole"]
    assert bounds.missed(row, plain, bound) == ["compiles 33.0 s longer (15)"]
    assert bounds.missed(row | {"pace_seconds": 2.0}, plain, bound) == []
    row = row | {"pace_seconds": 1.5}
    assert bounds.missed(row, plain, bound) == ["compiles 20.7 s longer (15)"]
    assert bounds.missed(row, PLAIN, bound) == ["compiles 33.0 s longer (15)"]


def test_an_update_is_compared_with_the_sum_beside_it():
    plain = PLAIN | {"pace_seconds": 1.0}  # of another machine, or of another hour
    row = {"row": NAMES[1], "compile_seconds": 17.1, "collectives": NONE}
    bound = bounds.BOUNDS["whole"]
    assert bounds.missed(row | {"sum_seconds": 2.2}, plain, bound) == []
    assert bounds.missed(row | {"sum_seconds": 2.0}, plain, bound) == [
        "compiles 15.1 s longer (15)"
    ]
    slow = row | {"compile_seconds": 38.7, "sum_seconds": 2 * bounds.SUM_SECONDS}
    assert bounds.missed(slow, plain, bound) == []


def test_bounds_of_other_kinds():
    many = NONE | {"all-reduce": {"count": 9, "bytes": 10**6}}
    row = {"row": "x", "compile_seconds": 34.0, "collectives": many}
    assert bounds.missed(row, PLAIN, bounds.BOUNDS["gradients"]) == []
    assert len(bounds.missed(row, PLAIN, bounds.BOUNDS["by block"])) == 1
    failed = {"row": "x", "error": "ValueError: no"}
    assert bounds.missed(failed, PLAIN, bounds.BOUNDS["steps"]) == [
        "failed: ValueError: no"
    ]


def test_every_method_has_its_rows():
    rows = {case.name: case for case in cases.all_cases()}
    assert len(rows) == len(cases.all_cases())
    for name in ("upgrad", "eagc_element", "gcond", "features", "elastic_projection"):
        for number in (2, 4):
            for dtype in ("float32", "bfloat16"):
                for placement in cases.PLACEMENTS:
                    assert f"{name}/{placement}/K{number}/{dtype}" in rows
    assert all(case.baseline.name in rows for case in rows.values())
    assert {cases.bounds_of(case) for case in rows.values()} == set(bounds.BOUNDS)
    quick = cases.quick_cases()
    assert quick
    assert set(quick) < set(rows.values())


def test_a_row_is_compiled_and_a_bad_one_says_why(monkeypatch):
    def fails(number):
        raise ValueError("not today")

    method = cases.methods()["eagc_tensor"]
    broken = {"eagc_tensor": method, "upgrad": method._replace(make=fails)}
    monkeypatch.setattr(cases, "methods", lambda: broken)
    wanted = [NAMES[1], "upgrad/first/K2/float32"]
    monkeypatch.setattr(cases, "all_cases", lambda: [_case(name) for name in wanted])
    good, bad = worker.rows(wanted, jax.devices(), small=True)
    assert good["row"] == NAMES[1]
    assert good["collectives"]["all-reduce"]["count"] > 0
    assert all(good["collectives"][kind]["count"] == 0 for kind in bounds.MOVES)
    seconds = [good[f"{part}_seconds"] for part in ("compile", "trace", "sum")]
    assert min(*seconds, good["flops"]) > 0
    assert bad == {"row": wanted[1], "error": "ValueError: not today"}


def test_a_pace_is_measured_again_each_time():
    mesh = cases.mesh_of(jax.devices())
    pace = compiling.Pace(cases.small_program(mesh, small=True))
    first, second = pace.of_passed(), pace.of_passed()
    assert second > 0.1 * first > 0  # what is remembered takes no time


def test_beside_what_is_no_update_a_small_program_is_compiled(monkeypatch):
    plain = _case(NAMES[0])
    monkeypatch.setattr(cases, "all_cases", lambda: [plain])
    (row,) = worker.rows([plain.name], jax.devices(), small=True)
    assert row["pace_seconds"] > 0
    assert "sum_seconds" not in row


def _case(name):
    method, placement, number, dtype = name.split("/")
    return cases.Case("update", method, placement, int(number[1:]), dtype)


def measured(name, seconds=5.0):
    return {
        "row": name,
        "trace_seconds": 1.0,
        "compile_seconds": seconds,
        "compile_wall_seconds": seconds,
        "compile_processor_seconds": seconds,
        "collectives": NONE,
        "temporary_bytes": 0,
        "argument_bytes": 0,
        "flops": 0.0,
        "bytes_accessed": 0.0,
    }


def asked(tmp_path, *more):
    return ["--json", str(tmp_path / "rows.json"), "--only", NAMES[1], *more]


@pytest.fixture
def worker_of(monkeypatch):
    """Replaces the process: measures rows in so many seconds, or ends before one."""
    calls = []

    def install(seconds=5.0, ends_before=None):
        def run(names, small, blocks):
            calls.append(list(names))
            for name in names:
                if name == ends_before:
                    return
                yield measured(name, seconds if name == NAMES[1] else 4.0)

        monkeypatch.setattr(program, "_run_worker", run)
        return calls

    return install


def test_it_prints_writes_and_exits_with_0(tmp_path, worker_of, capsys):
    worker_of()
    assert program.main(asked(tmp_path)) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["row"] for row in rows] == NAMES  # the plain sum came along
    assert rows[1]["compile_seconds_over_sum"] == 1.25
    assert "2 rows, 0 with a bound missed" in capsys.readouterr().out


def test_a_missed_bound_and_a_lost_process_exit_with_1(tmp_path, worker_of, capsys):
    worker_of(seconds=19.5)
    assert program.main(asked(tmp_path)) == 1
    assert "compiles 15.5 s longer" in capsys.readouterr().out
    worker_of(ends_before=NAMES[1])
    assert program.main(asked(tmp_path)) == 1
    assert "the process that compiled it ended" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(tmp_path, worker_of, monkeypatch):
    calls = worker_of()

    def interrupted(names, small, blocks):
        yield measured(names[0], 4.0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(program, "_run_worker", interrupted)
        with pytest.raises(KeyboardInterrupt):
            program.main(asked(tmp_path))
    assert program.main(asked(tmp_path, "--resume")) == 0
    assert calls == [[NAMES[1]]]
    # A finished run isn't gone on with, but some of its rows may be measured again.
    assert program.main(asked(tmp_path, "--resume", "--again", "eagc*")) == 0
    assert program.main(asked(tmp_path, "--resume")) == 0
    assert calls[1:] == [[NAMES[1]], NAMES]


def test_in_a_process_of_its_own(tmp_path):
    target = tmp_path / "rows.json"
    given = ["--small", "--only", NAMES[0], "--json", str(target)]
    assert program.main(given) == 0
    (row,) = json.loads(target.read_text())
    assert row["row"] == NAMES[0]
    assert row["missed"] == []


def test_where_the_time_goes():
    """By programs, of which those of one operation are one row."""
    files = [
        where.Written("17-TLP-hlo.txt", 12.0),
        where.Written("18-TLP-03-original.txt", 13.0),
        where.Written("19-multiply_fusion.2-00-fingerprints.txt", 13.5),
        where.Written("19-multiply_fusion.2-07-final_bundles.txt", 15.0),
        where.Written("20-multiply_fusion.11-00-fingerprints.txt", 17.0),
        where.Written("21-copy-00-fingerprints.txt", 20.0),
    ]
    found = where.seconds_by_program(files[::-1], 10.0)
    assert found == {
        "passes over the whole": 2.0,
        "the program that calls the others": 1.0,
        "multiply_fusion.2": 2.0,
        "multiply_fusion.11": 2.0,
        "copy": 3.0,
    }
    text = "".join(
        f'%multiply_fusion.{n} = f32[8] fusion(), metadata={{op_name="jit(step)/mul"}}\n'
        for n in (2, 11)
    )
    rows = where.by_kind(found, text)
    assert rows[0] == {"programs": 2, "kind": "multiply_fusion (mul)", "share": 0.4}
    assert [row["kind"] for row in rows[1:]] == [
        "copy",
        "passes over the whole",
        "the program that calls the others",
    ]
