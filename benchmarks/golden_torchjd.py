"""Makes tests/golden/torchjd.npz, TorchJD's results, for tests without torch.

    pip install torch "torchjd[quadprog_projector,fairgrad]"  # made with 0.18.0
    python -m benchmarks.golden_torchjd

For K = 2, 3, 6: ``matrices_K`` (B, K, 8) and, by our names, ``NAME_K`` (B, 8), float64.
Only methods that TorchJD solves exactly: not NashMTL, whose programs often stop at a
wrong direction, nor CAGrad. Settings that let it be exact: no ridge worth the name in
UPGrad and DualProj, Frank-Wolfe steps to the end in MGDA. PCGrad and GradVac meet the
others in order, not at random; GradVac keeps its state from one matrix to the next.
"""

from pathlib import Path

import numpy as np
import torch
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

NUMBERS, BATCH, SIZE = (2, 3, 6), 6, 8
FRANK_WOLFE_STEPS = 20_000


def matrices(rng: np.random.Generator, number: int) -> np.ndarray:
    """Rows that share a direction with alternating signs; norms from 1/30 to 1."""
    signs = (-1.0) ** np.arange(number)[:, None]
    rows = rng.normal(size=(BATCH, number, SIZE))
    rows = rows + signs * rng.normal(size=(BATCH, 1, SIZE))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return rows * 30.0 ** -rng.uniform(size=(BATCH, number, 1))


def aggregators() -> dict[str, aggregation.Aggregator]:
    projector = QuadprogProjector(norm_eps=1e-15, reg_eps=1e-14)
    return {
        "pcgrad": aggregation.PCGrad(),
        "gradvac": aggregation.GradVac(beta=0.5, eps=0.0),
        "imtl_g": aggregation.IMTLG(),
        "aligned_mtl": aggregation.AlignedMTL(),
        "upgrad": aggregation.UPGrad(projector=projector),
        "dualproj": aggregation.DualProj(projector=projector),
        "conflict_free": aggregation.ConFIG(),
        "mgda": aggregation.MGDA(epsilon=1e-12, max_iters=FRANK_WOLFE_STEPS),
        "fairgrad_1": aggregation.FairGrad(alpha=1.0),
        "fairgrad_2": aggregation.FairGrad(alpha=2.0),
    }


def main() -> None:
    torch.randperm = torch.arange
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    arrays = {}
    for number in NUMBERS:
        arrays[f"matrices_{number}"] = matrices(rng, number)
        for name, aggregator in aggregators().items():
            rows = torch.tensor(arrays[f"matrices_{number}"])
            found = torch.stack([aggregator(row) for row in rows])
            arrays[f"{name}_{number}"] = found.numpy()
    np.savez_compressed(
        Path(__file__).parents[1] / "tests/golden/torchjd.npz", **arrays
    )


if __name__ == "__main__":
    main()
