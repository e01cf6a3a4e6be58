"""A predictor's files: bitwise back, and nothing of a stranger's is trusted."""

import json
import pickle

import numpy as np
import pytest
import safetensors.numpy

from eagc_jax.gcd import prediction
from eagc_jax.gcd.prediction import files
from tests.gcd import clouds
from tests.gcd.prediction import made


@pytest.mark.parametrize("run", made.RUNS)
def test_what_is_read_predicts_bitwise_the_same(run, tmp_path):
    model = made.predictor(run)
    assert [path.name for path in model.save(tmp_path)] == [files.TENSORS, files.PLAIN]
    again = prediction.load_predictor(tmp_path)
    assert made.same(again.predict(clouds.features()), model.predict(clouds.features()))
    assert (again.names, again.example_ids) == (model.names, model.example_ids)
    assert (again.backbone, again.agreement) == (model.backbone, model.agreement)
    first = [(tmp_path / name).read_bytes() for name in (files.TENSORS, files.PLAIN)]
    again.save(tmp_path)
    assert first == [
        (tmp_path / name).read_bytes() for name in (files.TENSORS, files.PLAIN)
    ]


@pytest.fixture
def folder(tmp_path):
    made.predictor("adapter").save(tmp_path)
    return tmp_path


def plain(folder, **changes):
    """Changes entries of model.json; a name with dots is of an entry's entry."""
    path = folder / files.PLAIN
    values = json.loads(path.read_text())
    for name, value in changes.items():
        place = values
        *outer, last = name.split("__")
        for part in outer:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(values))


def tensors(folder, drop=(), **changes):
    path = folder / files.TENSORS
    found = safetensors.numpy.load_file(path)
    found |= {name.replace("__", "."): value for name, value in changes.items()}
    for name in drop:
        del found[name]
    safetensors.numpy.save_file(found, path)


F = np.float32
PLAINLY = [
    ({"version": 2}, "model.json should be of version 1, found 2"),
    ({"names": []}, r"names must be in \[1, "),
    ({"names": ["a", "b", "c"]}, r"tensor centres should have shape \(3, 8\)"),
    ({"surprise": 1}, "extra fields found"),
    ({"calibration__temperature": 0}, "temperature must be positive"),
    ({"calibration__slope": float("nan")}, "slope must be finite"),
    ({"backbone__width": 10**12}, r"backbone.width must be in \[1, 65536\]"),
    ({"backbone__kind": "sound"}, "kind"),
    ({"rule__task__width": 10**12}, r"task.width must be in \[1, 65536\]"),
    ({"rule__task__num_classes": -1}, "num_classes must be in"),
    ({"rule__hidden": 10**9}, "hidden must be in"),
    ({"rule__hidden": 60000}, r"adapter\.inner.*should have shape"),
    ({"rule__method": {"name": "os.system"}}, "method must be one of"),
    ({"rule__method__head_hidden": 10**15}, "head.projector.*should have shape"),
    ({"rule__leaves": 10**9}, "leaves must be in"),
    ({"rule__leaves": 1}, r"there should be a tensor state\.0"),
    ({"examples": ["one"]}, r"tensor examples should have shape \(1, 8\)"),
    ({"rule": None}, "there should be no tensor"),
]
NUMERICALLY = [
    ({"centres": np.zeros((4, 9), F)}, r"centres should have shape \(4, 8\).*\(4, 9\)"),
    ({"centres": np.zeros((4, 8))}, "of float32, found .* of float64"),
    ({"centres": np.full((4, 8), np.inf, F)}, "tensor centres should be finite"),
    ({"columns": np.full(4, 9, np.int32)}, r"columns should be in \[0, 4\)"),
    ({"head__other": np.zeros(2, F)}, "there should be no tensor head.other"),
    ({"evil": np.zeros(2, F)}, "there should be no tensor evil"),
    ({"drop": ["seen"]}, "there should be a tensor seen"),
    ({"drop": ["adapter.norm.scale"]}, "there should be a tensor adapter.norm.scale"),
]


@pytest.mark.parametrize(("changes", "message"), PLAINLY)
def test_plain_values_that_do_not_fit(folder, changes, message):
    plain(folder, **changes)
    with pytest.raises(
        ValueError, match=rf"model\.(json|safetensors).*{message}|{message}"
    ):
        prediction.load_predictor(folder)


@pytest.mark.parametrize(("changes", "message"), NUMERICALLY)
def test_tensors_that_do_not_fit(folder, changes, message):
    tensors(folder, **changes)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}"):
        prediction.load_predictor(folder)


HUGE = b'{"centres":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        b"",
        b"\xff" * 100,
        (2**62).to_bytes(8, "little") + b"{}",
        (90).to_bytes(8, "little") + HUGE.ljust(90) + bytes(4),
    ],
)
def test_files_that_are_no_tensors(folder, content):
    (folder / files.TENSORS).write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable"):
        prediction.load_predictor(folder)


def test_files_that_are_too_large(folder, monkeypatch):
    monkeypatch.setattr(files, "_LARGEST", 100)
    with pytest.raises(ValueError, match=r"should be at most 100 bytes"):
        prediction.load_predictor(folder)


def test_a_plain_file_that_is_none(folder):
    (folder / files.PLAIN).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"model\.json can't be read as JSON"):
        prediction.load_predictor(folder)


def test_a_run_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.json was not found"):
        prediction.load_predictor(tmp_path)
    made.predictor().save(tmp_path)
    (tmp_path / files.TENSORS).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors was not found"):
        prediction.load_predictor(tmp_path)


def test_only_what_was_discovered_is_saved(tmp_path):
    with pytest.raises(ValueError, match="can't be saved"):
        made.predictor().with_names({0: None}).save(tmp_path)
