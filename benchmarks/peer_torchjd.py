"""TorchJD behind our names, for a side by side; needs torch and torchjd[full]."""

import os
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

AGGREGATORS = {
    "mean": "Mean",
    "pcgrad": "PCGrad",
    "gradvac": "GradVac",
    "cagrad": "CAGrad",
    "mgda": "MGDA",
    "imtl_g": "IMTLG",
    "nash_mtl": "NashMTL",
    "fairgrad": "FairGrad",
    "aligned_mtl": "AlignedMTL",
    "upgrad": "UPGrad",
    "dualproj": "DualProj",
    "conflict_free": "ConFIG",
    "random_weighting": "Random",
    "pcd": "PCD",
    "graddrop": "GradDrop",
    "trimmed_mean": "TrimmedMean",
    "krum": "Krum",
}


def available_threads() -> int:
    """The cores that this process may use: XLA's CPU backend takes as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class TorchJD:
    """Makes TorchJD's aggregators and weightings; on the device that JAX uses."""

    def __init__(self):
        try:
            import torch
            import torchjd.aggregation
        except ImportError as error:
            raise SystemExit(
                '--torchjd needs torch and TorchJD: pip install torch "torchjd[full]" '
                f"({error})."
            ) from error
        # Of its solvers, about accuracy: what comes of it shows in the figures.
        for category in (UserWarning, RuntimeWarning):
            warnings.filterwarnings("ignore", category=category, module="torchjd|cvxpy")
        torch.set_num_threads(available_threads())
        self._torch, self._module = torch, torchjd.aggregation
        gpu = jax.default_backend() != "cpu" and torch.cuda.is_available()
        self._device = torch.device("cuda" if gpu else "cpu")

    def versions(self) -> str:
        """One line: versions, device, threads."""
        torch = self._torch
        return (
            f"torchjd {version('torchjd')}, torch {torch.__version__} on "
            f"{self._device}, {torch.get_num_threads()} threads"
        )

    def matrix(self, leaves: Sequence[Any], dtype: str = "float32") -> Any:
        """Leaves ``(K, *shape)`` as one ``(K, n)`` tensor."""
        rows = [
            np.asarray(leaf, np.float64 if dtype == "float64" else np.float32)
            for leaf in leaves
        ]
        flat = np.concatenate([row.reshape(row.shape[0], -1) for row in rows], axis=1)
        return self._torch.tensor(
            flat, dtype=getattr(self._torch, dtype), device=self._device
        )

    def aggregator(self, name: str, number: int) -> Callable[[Any], Any] | None:
        """TorchJD's method of our ``name`` with its defaults, or None."""
        if name not in AGGREGATORS:
            return None
        made = self._make(AGGREGATORS[name], number)
        return None if made is None else self._waited_for(made)

    def seed(self) -> None:
        """The next draws of its random methods are the same after every call."""
        self._torch.manual_seed(0)

    def works(self, program: Callable, matrix: Any) -> bool:
        """Whether it takes this matrix at all."""
        return self.result(program, matrix) is not None

    def result(self, program: Callable, matrix: Any) -> Any:
        """What it returns, or None with a line that says what it raised."""
        try:
            return program(matrix)
        except Exception as error:  # whatever it raises, there is nothing to measure
            print(f"TorchJD: {type(error).__name__}: {error}"[:200])
            return None

    def weighting(
        self, name: str, number: int, matrices: Sequence[np.ndarray]
    ) -> list[Callable[[], Any]] | None:
        """Calls from the Gram matrix of each to weights, or None.

        TorchJD's Nash weighting works on the gradients: it gets the matrix itself.
        """
        if name not in AGGREGATORS or name == "conflict_free":
            return None
        if name == "nash_mtl":
            made = self._make("NashMTL", number)
            inputs = [self.matrix([m]) for m in matrices]
        else:
            made = self._make(f"{AGGREGATORS[name]}Weighting", number)
            inputs = [self.matrix([m @ m.T]) for m in matrices]
        if made is None:
            return None
        program = self._waited_for(made)
        inputs = [x for x in inputs if self.works(program, x)]
        return [lambda x=x: program(x) for x in inputs] or None

    def is_quick(self, name: str, number: int) -> bool:
        """Whether a solve takes at most some seconds."""
        return not (name == "nash_mtl" and number > 32)

    def _make(self, name: str, number: int) -> Callable[[Any], Any] | None:
        arguments: dict[str, Any] = {
            "CAGrad": {"c": 0.4},
            "CAGradWeighting": {"c": 0.4},
            "FairGrad": {"alpha": 1.0},
            "FairGradWeighting": {"alpha": 1.0},
            "NashMTL": {"n_tasks": number},
            "Krum": {"n_byzantine": max((number - 3) // 2, 0)},
            "TrimmedMean": {"trim_number": (number - 1) // 2},
        }.get(name, {})
        factory = getattr(self._module, name, None)
        if factory is None:
            return None
        try:
            return factory(**arguments)
        except Exception as error:
            print(f"TorchJD: {name}: {type(error).__name__}: {error}"[:200])
            return None

    def _waited_for(self, function: Callable) -> Callable[[Any], Any]:
        torch, gpu = self._torch, self._device.type == "cuda"

        def call(matrix):
            with torch.no_grad():
                out = function(matrix)
            if gpu:
                torch.cuda.synchronize()
            return out

        return call
