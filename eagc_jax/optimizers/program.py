"""What an optimizer's program shows: whether it is what probing it takes for granted.

Parts without a state look alike: weight decay, a clipping of the global norm, a sign. The
program that JAX makes of an update doesn't: it names every operation. Two things are
asked of it, while tracing, at no cost for the program that runs.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from eagc_jax.typing import PyTree, Updates

# Operations that bring entries of an array together, by the beginnings of their names.
_MIXING = (
    *(
        "reduce_",
        "cum",
        "arg",
        "dot_general",
        "conv_general",
        "sort",
        "top_k",
        "gather",
    ),
    *("scatter", "fft", "rev", "eigh", "svd", "qr", "cholesky", "lu", "triangular"),
)
# Linear in whatever they are given; ``mul``, ``div`` and ``select_n`` in some operands.
_LINEAR = (
    *("add", "add_any", "sub", "neg", "convert_element_type", "broadcast_in_dim"),
    *("reshape", "squeeze", "expand_dims", "transpose", "copy", "reduce_precision"),
    *("sharding_constraint", "optimization_barrier", "pvary", "pcast", "reshard"),
)
_Rule = Callable[[JaxprEqn, list[bool]], bool]


def check_program(
    update: Callable[..., PyTree],
    arguments: tuple[PyTree, ...],
    gradients: Updates,
    means: PyTree,
) -> None:
    """Raises ValueError where the update mixes entries, or isn't linear in its means.

    Args:
      update: of the optimizer.
      arguments: its arguments, arrays or their shapes.
      gradients: like the arguments, True for leaves whose entries must stay apart.
      means: like the arguments, True for leaves that the update must be linear in.
    """
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.result_type(x)),
        arguments,
    )
    program = jax.make_jaxpr(update)(*shapes)
    found = _first(program.jaxpr, jax.tree.leaves(gradients), _mixes)[1]
    if found:
        raise ValueError(
            f"the optimizer brings entries of the gradient together ('{found}' in its "
            "program), so that its step isn't a preconditioner times a gradient. Clip "
            "outside, optax.chain(optax.clip_by_global_norm(1.0), "
            "optimizer_aware(aggregator, optimizer)), and leave trust ratios and "
            "centering out."
        )
    found = _first(program.jaxpr, jax.tree.leaves(means), _bends)[1]
    if found:
        raise ValueError(
            f"the optimizer's step isn't linear in its momentum ('{found}' in its "
            "program): there is no preconditioner that acts on momentum and gradient "
            "alike. Momentum must come behind the second moment, as in adam, and "
            "nothing that bends it (a sign, a clipping) behind that."
        )


def _mixes(equation: JaxprEqn, marked: list[bool]) -> bool:
    name = equation.primitive.name
    if name.startswith("reduce_precision") or not name.startswith(_MIXING):
        return False
    operands = zip(equation.invars, marked, strict=True)
    return any(
        mark and isinstance(x.aval, ShapedArray) and x.aval.ndim > 0
        for x, mark in operands
    )


def _bends(equation: JaxprEqn, marked: list[bool]) -> bool:
    name = equation.primitive.name
    if name in _LINEAR or not any(marked):
        return False
    if name == "mul":
        return all(marked)
    if name in ("div", "select_n"):
        return marked[1 if name == "div" else 0]
    return True


def _first(
    program: Jaxpr, marked: list[bool], rule: _Rule
) -> tuple[list[bool], str | None]:
    """Whether each output depends on a marked input; the first operation that offends."""
    known = dict(zip(program.invars, marked, strict=True))

    def is_marked(x):
        return not isinstance(x, Literal) and known.get(x, False)

    for equation in program.eqns:
        inputs = [is_marked(x) for x in equation.invars]
        outputs = [any(inputs)] * len(equation.outvars)
        inner = _inner_programs(equation)
        if inner:
            found = [_of_inner(one, inputs, rule) for one in inner]
            offence = next((name for _, name in found if name), None)
            if len({len(marks) for marks, _ in found} | {len(outputs)}) == 1:
                outputs = [
                    any(m) for m in zip(*[marks for marks, _ in found], strict=True)
                ]
        else:
            offence = equation.primitive.name if rule(equation, inputs) else None
        if offence:
            return [], offence
        known.update(zip(equation.outvars, outputs, strict=True))
    return [is_marked(x) for x in program.outvars], None


def _of_inner(
    program: Jaxpr, marked: list[bool], rule: _Rule
) -> tuple[list[bool], str | None]:
    """Of a function, a branch or a loop's body; a branch's first operand is its index."""
    extra = len(marked) - len(program.invars)
    if extra < 0:
        return _first(program, [any(marked)] * len(program.invars), rule)
    return _first(program, marked[extra:], rule)


def _inner_programs(equation: JaxprEqn) -> list[Jaxpr]:
    found = []
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, Jaxpr):
                found.append(one)
    return found
