"""A name for what can't be said more exactly."""

from typing import Any, TypeAlias

# A pytree: parameters, updates or a state. Optax's aliases allow only nested containers
# of arrays, without NamedTuples, None and jax.ShapeDtypeStruct.
Tree: TypeAlias = Any
