"""Where along the network two objectives differ and conflict, before coordination."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from eagc_jax.gcd.report.figures import message_figure
from eagc_jax.gcd.report.layers import (
    Block,
    Panel,
    draw_blocks,
    log2_ratios,
    objective_name,
)
from eagc_jax.gcd.runs.history import RunHistory

# In the order in which a transformer block applies them; the rest comes after.
_STAGES = ("norm1", "attn/qkv", "attn/proj", "norm2", "mlp/fc1", "mlp/fc2")
_NOTHING = "No run measured the gradients of its objectives."


def gradient_norms_figure(runs: Mapping[str, RunHistory]) -> Figure:
    """The raw gradients' lengths, the first objective's over the others', per layer.

    Loss weights included: it is the ratio in which the plain sum mixes them.
    """
    blocks = _blocks(runs, _norm_panels)
    if not blocks:
        return message_figure(_NOTHING)
    return draw_blocks(blocks, 0.0, "ratio", " (log scale)", as_power=True)


def cosines_figure(runs: Mapping[str, RunHistory]) -> Figure:
    """The cosine between the first two objectives' raw gradients, per layer."""
    blocks = _blocks(runs, _cosine_panels)
    if not blocks:
        return message_figure(_NOTHING)
    return draw_blocks(blocks, 0.0, "cosine", "", as_power=False)


def mean_cosines(run: RunHistory) -> np.ndarray:
    """(L, epochs): the mean over each epoch's measured steps; NaN without one."""
    return _over_epochs([np.asarray(trace.cosines) for trace in run.traces])


def mean_log_norms(run: RunHistory) -> np.ndarray:
    """(K, L, epochs): mean log of norm times loss weight over measured steps."""
    with np.errstate(divide="ignore"):
        logs = [np.log(np.asarray(t.gradient_norms, float)) for t in run.traces]
        weights = np.log(np.asarray(run.objective_weights or 1.0, float))
    found = _over_epochs(logs)
    return found + np.broadcast_to(weights, len(found))[:, None, None]


def forward_order(names: Sequence[str]) -> list[int]:
    """Positions of parameter names such that the network applies them in this order."""

    def key(index: int) -> tuple[bool, list[int], int, str]:
        parts = names[index].split("/")
        numbers = [int(part) for part in parts if part.isdigit()]
        stages = [i for i, stage in enumerate(_STAGES) if stage in names[index]]
        head = parts[0] == "head"
        stage = stages[0] if stages and not head else len(_STAGES)
        return head, [] if head else numbers[:1], stage, names[index]

    return sorted(range(len(names)), key=key)


def _over_epochs(values: list[np.ndarray]) -> np.ndarray:
    """Per epoch (steps, ...) to (..., epochs): the mean of what is finite, else NaN."""
    means = [
        np.ma.masked_invalid(np.asarray(v, float)).mean(axis=0).filled(np.nan)
        for v in values
    ]
    return np.stack(means, axis=-1)


def _blocks(
    runs: Mapping[str, RunHistory], panels: Callable[[RunHistory], list[Panel]]
) -> list[Block]:
    return [
        Block(name, _ordered(run)[1], run.epochs, panels(run))
        for name, run in runs.items()
        if measured(run)
    ]


def measured(run: RunHistory) -> bool:
    """Whether any step measured the gradients of two objectives or more."""
    return any(
        trace.gradient_norms.size
        and trace.gradient_norms.shape[1] > 1
        and np.isfinite(trace.gradient_norms).any()
        for trace in run.traces
    )


def _ordered(run: RunHistory) -> tuple[list[int], list[str]]:
    """Rows of the traces in forward order, and their names."""
    number = run.traces[0].cosines.shape[1]
    if len(run.parameters) != number:
        return list(range(number)), []
    order = forward_order(run.parameters)
    return order, [run.parameters[i].removeprefix("backbone/") for i in order]


def _norm_panels(run: RunHistory) -> list[Panel]:
    logs = mean_log_norms(run)[:, _ordered(run)[0]]
    # log2_ratios takes (epochs, K, L) of what is not negative.
    ratios = log2_ratios(np.exp(logs).transpose(2, 0, 1))
    first = objective_name(run, 0)
    return [
        Panel(f"{first} / {objective_name(run, k + 1)}", ratios[:, k].T)
        for k in range(ratios.shape[1])
    ]


def _cosine_panels(run: RunHistory) -> list[Panel]:
    title = f"{objective_name(run, 0)}, {objective_name(run, 1)}"
    return [Panel(title, mean_cosines(run)[_ordered(run)[0]])]
