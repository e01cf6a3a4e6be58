"""Float64 oracle of the coordinator: loops over blocks, the equations, nothing clever.

Written from the definition of the method, not from the package, and shares no code with
it. Trees are dicts from a leaf's name to an array; gradients are ``(K, *shape)``.

Per block b, with ``R_b`` the mean over its entries:

    E_k   = R_b(g_k^2);  k is active where E_k > 0 and w_k > 0
    ref_k = mean of g_k^2 over the entries of the leaves that two objectives reach
    l_k   = sum over the mixture of coefficient * log energy
    y_k   = (l_k - sum_j pi_j l_j) / tau,            pi = w / W over the active
    u     = beta u + (1 - beta) y, n += 1,  uh = u / (1 - beta^n)   where active
    h     = clip(h, uh - delta, uh + delta), moved by at most slew
    p     = softmax(log pi + h);  a = W (pi + (1 - gamma) (p - pi));  d = sum_k a_k g_k
    guard = d + (eta v - x) / (v - x) (P - d) where x < eta v,  x = <d, P>, v = <P, P>
"""

import dataclasses
import math

import jax
import numpy as np

from eagc_jax.blocks import ByLeaf

GLOBAL = "global"


@dataclasses.dataclass
class Step:
    """What one step gives; block arrays are ``(K, *block)``, ``(K,)`` if global."""

    updates: dict
    gates: dict
    energies: dict


class Oracle:
    """The coordinator with its state; ``step`` returns a ``Step``."""

    def __init__(
        self,
        shapes,
        num_objectives,
        *,
        energy="magnitude",
        granularity="channel",
        scale="objective",
        temperature=1.0,
        floor=0.2,
        smoothing=0.9,
        hysteresis=0.0,
        slew=None,
        warmup_steps=100,
        weights=None,
        descent_guard=None,
        alignment_floor=0.5,
        direction_decay=0.9,
        moment_decay=0.999,
        eps=1e-8,
        ridge=1e-6,
    ):
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.number = num_objectives
        self.mixture = {energy: 1.0} if isinstance(energy, str) else dict(energy)
        self.granularity = granularity
        self.scale = scale
        self.temperature = temperature
        self.floor = floor
        self.smoothing = smoothing
        self.hysteresis = hysteresis
        self.slew = math.inf if slew is None else slew
        self.warmup_steps = warmup_steps
        self.weights = np.ones(num_objectives) if weights is None else weights
        self.weights = np.asarray(self.weights, np.float64)
        self.descent_guard = descent_guard
        self.alignment_floor = alignment_floor
        self.direction_decay = direction_decay
        self.moment_decay = moment_decay
        self.eps = eps
        self.ridge = ridge
        # A block is (leaf, place in the block array) -> its entries, flat indices.
        self.blocks = {
            (name, place): entries
            for name, shape in self.shapes.items()
            for place, entries in _blocks_of(shape, granularity).items()
        }
        keys = [(GLOBAL, ())] if granularity == GLOBAL else list(self.blocks)
        self.average = {key: np.zeros(num_objectives) for key in keys}
        self.visits = {key: np.zeros(num_objectives, int) for key in keys}
        self.logits = {key: np.zeros(num_objectives) for key in keys}
        flat = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.direction = {name: np.zeros(size) for name, size in flat.items()}
        self.second_moment = {name: np.zeros(size) for name, size in flat.items()}
        self.count = 0

    # -- one step ----------------------------------------------------------------------

    def step(self, grads, params=None, absent=()):
        """One step; objectives in ``absent`` are left out as if they had weight 0."""
        g = {
            name: np.asarray(grads[name], np.float64).reshape(self.number, -1).copy()
            for name in self.shapes
        }
        for values in g.values():
            values[list(absent)] = 0.0
        part = [
            k for k in range(self.number) if self.weights[k] > 0 and k not in absent
        ]
        plain = {
            name: sum(self.weights[k] * values[k] for k in range(self.number))
            for name, values in g.items()
        }
        fields = self._fields(g, params, plain)
        shared = [
            name
            for name, values in g.items()
            if sum(bool(np.any(values[k] != 0)) for k in part) >= 2
        ]
        everywhere = {
            kind: [
                _mean(np.concatenate([values[n][k] for n in shared] or [[]]))
                for k in range(self.number)
            ]
            for kind, values in fields.items()
        }
        references = {
            kind: self._reference(values, part) for kind, values in everywhere.items()
        }
        # Energies and logits, per block.
        energies = {}
        for key in self.logits:
            if key[0] == GLOBAL:
                statistics = everywhere
                length = [self.direction[n] for n in shared]
                length = _mean(np.concatenate(length or [[]]) ** 2)
            else:
                entries = self.blocks[key]
                statistics = {
                    kind: [
                        _mean(values[key[0]][k][entries]) for k in range(self.number)
                    ]
                    for kind, values in fields.items()
                }
                length = _mean(self.direction[key[0]][entries] ** 2)
            active = [k for k in part if statistics["magnitude"][k] > 0]
            logs = {k: self._log(k, statistics, references, length) for k in active}
            energies[key] = np.zeros(self.number)
            for k in active:
                energies[key][k] = math.exp(logs[k])
            self._remember(key, logs)
        # Gates, per block; with one global block, per leaf among those that reach it.
        gates, updates = {}, {n: np.zeros(v.shape[1]) for n, v in g.items()}
        for key, entries in self.blocks.items():
            reached = [k for k in part if np.any(g[key[0]][k][entries] != 0)]
            source = (GLOBAL, ()) if self.granularity == GLOBAL else key
            gates[key] = self._gates(reached, self.logits[source])
            for k in range(self.number):
                updates[key[0]][entries] += gates[key][k] * g[key[0]][k][entries]
        if self.granularity == GLOBAL:
            reached = [k for k in part if everywhere["magnitude"][k] > 0]
            gates[(GLOBAL, ())] = self._gates(reached, self.logits[(GLOBAL, ())])
        if self.descent_guard is not None:
            self._guard(updates, gates, plain)
        # The direction is that of the steps before.
        decay = self.direction_decay
        for name, value in plain.items():
            self.direction[name] = decay * self.direction[name] + (1 - decay) * value
        self.count += 1
        return Step(
            {n: value.reshape(self.shapes[n]) for n, value in updates.items()},
            self.as_arrays(gates),
            self.as_arrays(energies),
        )

    def _fields(self, g, params, plain):
        """What is averaged over a block, entry by entry: kind -> leaf -> (K, n)."""
        fields = {"magnitude": {name: values**2 for name, values in g.items()}}
        if "sensitivity" in self.mixture:
            fields["sensitivity"] = {
                name: (values * np.asarray(params[name], np.float64).reshape(1, -1))
                ** 2
                for name, values in g.items()
            }
        if "fisher" in self.mixture:
            fields["fisher"] = {}
            for name, values in g.items():
                decay = self.moment_decay
                moment = decay * self.second_moment[name]
                moment = self.second_moment[name] = (
                    moment + (1 - decay) * plain[name] ** 2
                )
                moment = moment / (1 - decay ** (self.count + 1))
                level = _mean(moment)
                ridge = self.ridge * level if level > 0 else 1.0
                fields["fisher"][name] = values**2 / (moment + ridge)
        if "progress" in self.mixture or "exploratory" in self.mixture:
            fields["along"] = {
                name: values * self.direction[name] for name, values in g.items()
            }
        return fields

    def _reference(self, values, part):
        if self.scale == "objective":
            return list(values)
        return [sum(values[k] for k in part) / max(len(part), 1)] * self.number

    def _log(self, k, statistics, references, length):
        total = 0.0
        for kind, coefficient in self.mixture.items():
            if kind in ("progress", "exploratory"):
                size = math.sqrt(statistics["magnitude"][k] * length)
                c = statistics["along"][k] / size if size > 0 else 0.0
                aligned = (1 + c) / 2 if kind == "progress" else 1 - c**2
                f = self.alignment_floor
                total += coefficient * math.log(f + (1 - f) * aligned)
            else:
                reference = references[kind][k]
                relative = statistics[kind][k] / (reference if reference > 0 else 1.0)
                total += coefficient * math.log(relative + self.eps)
        return total

    def _remember(self, key, logs):
        tau = self.temperature
        tau = tau(self.count) if callable(tau) else tau
        total = sum(self.weights[k] for k in logs)
        mean = sum(self.weights[k] * value for k, value in logs.items())
        for k, value in logs.items():
            y = (value - mean / total) / tau
            beta = self.smoothing
            self.average[key][k] = beta * self.average[key][k] + (1 - beta) * y
            self.visits[key][k] += 1
            smooth = self.average[key][k] / (1 - beta ** self.visits[key][k])
            old = self.logits[key][k]
            new = min(max(old, smooth - self.hysteresis), smooth + self.hysteresis)
            move = min(max(new - old, -self.slew), self.slew)
            self.logits[key][k] = old + move

    def _gates(self, active, logits):
        gates = self.weights.copy()
        if not active:
            return gates
        ramp = min(1.0, self.count / self.warmup_steps) if self.warmup_steps else 1.0
        strength = (1 - self.floor) * ramp
        budget = sum(self.weights[k] for k in active)
        prior = {k: self.weights[k] / budget for k in active}
        top = max(logits[k] for k in active)
        odds = {k: prior[k] * math.exp(logits[k] - top) for k in active}
        for k in active:
            p = odds[k] / sum(odds.values())
            gates[k] = budget * (prior[k] + strength * (p - prior[k]))
        return gates

    def _guard(self, updates, gates, plain):
        eta = self.descent_guard
        groups = [[key] for key in self.blocks]
        if self.granularity == GLOBAL:
            groups = [list(self.blocks)]
        for group in groups:
            x = v = 0.0
            for key in group:
                P, d = (
                    plain[key[0]][self.blocks[key]],
                    updates[key[0]][self.blocks[key]],
                )
                x, v = x + float(d @ P), v + float(P @ P)
            if x >= eta * v:
                continue
            blend = (eta * v - x) / (v - x)
            extra = [(GLOBAL, ())] if self.granularity == GLOBAL else []
            for key in group:
                d, entries = updates[key[0]], self.blocks[key]
                d[entries] += blend * (plain[key[0]][entries] - d[entries])
            for key in group + extra:
                gates[key] = gates[key] + blend * (self.weights - gates[key])

    # -- block arrays ------------------------------------------------------------------

    def as_arrays(self, values):
        """Per-block values to ``{leaf: (K, *block)}``, or ``{"global": (K,)}``."""
        if self.granularity == GLOBAL:
            return {GLOBAL: np.asarray(values[(GLOBAL, ())])}
        arrays = {}
        for name, shape in self.shapes.items():
            size = block_shape(shape, self.granularity)
            arrays[name] = np.zeros((self.number, *size))
            for place in np.ndindex(*size):
                arrays[name][(slice(None), *place)] = values[(name, place)]
        return arrays

    def direction_arrays(self):
        """The running direction, leaf by leaf in its shape."""
        return {n: v.reshape(self.shapes[n]) for n, v in self.direction.items()}

    def second_moment_arrays(self):
        """The running second moment, leaf by leaf in its shape."""
        return {n: v.reshape(self.shapes[n]) for n, v in self.second_moment.items()}


def spanned_axes(shape, granularity):
    """The axes that one block spans; "channel" is optax.adaptive_grad_clip's unit."""
    rank = len(shape)
    if granularity == "element":
        return []
    if granularity in ("tensor", GLOBAL) or rank <= 1:
        return list(range(rank))
    return [0] if rank in (2, 3) else list(range(rank - 1))


def block_shape(shape, granularity):
    """The shape of a leaf's block array: spanned axes have length 1."""
    spanned = spanned_axes(shape, granularity)
    return tuple(1 if axis in spanned else size for axis, size in enumerate(shape))


def _blocks_of(shape, granularity):
    spanned = spanned_axes(shape, granularity)
    blocks = {}
    for flat, index in enumerate(np.ndindex(*shape)):
        place = tuple(0 if axis in spanned else i for axis, i in enumerate(index))
        blocks.setdefault(place, []).append(flat)
    return blocks


def _mean(values):
    values = np.asarray(values, np.float64)
    return float(values.sum() / values.size) if values.size else 0.0


# ---------------------------------------------------------------------------
# Gradients to try it on
# ---------------------------------------------------------------------------

SHAPES = {
    "conv": (2, 2, 2, 3),
    "head": (4, 2),
    "kernel": (3, 4),
    "scalar": (),
    "vector": (5,),
}


def gradient_stream(num_objectives, steps, seed=0):
    """Float32 gradients ``(steps, K, *shape)`` by leaf, with holes where they matter.

    Scales differ by leaf, objective and step; directions persist. Only the last
    objective reaches the head; the first one lacks one channel of the kernel; the last
    one lacks the vector in every other step.
    """
    rng = np.random.default_rng(seed)
    stream = {}
    for name, shape in SHAPES.items():
        lasting = rng.normal(size=(num_objectives, *shape))
        fresh = rng.normal(size=(steps, num_objectives, *shape))
        scale = np.exp(0.8 * rng.normal(size=(steps, num_objectives)))
        scale = scale * np.exp(rng.normal(size=num_objectives))
        scale = scale.reshape(scale.shape + (1,) * len(shape))
        stream[name] = (scale * (lasting + 0.7 * fresh)).astype(np.float32)
    stream["head"][:, :-1] = 0.0
    if num_objectives > 1:
        stream["kernel"][:, 0, :, 1] = 0.0
        stream["vector"][::2, -1] = 0.0
    return stream


def parameters(seed=0):
    """Float32 parameters of the shapes above."""
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


def remembered(gate, name, shapes=SHAPES):
    """What a ``SoftGateState`` remembers of one leaf's blocks, ``(..., K, *block)``."""
    if name in gate.memory and name != "global":
        return gate.memory[name]
    if name == "global":
        return jax.tree.map(lambda x: x[..., 0], gate.memory["global"])
    if any(leaf in gate.memory for leaf in gate.gates):  # "element": means are shown
        own = shapes[name]
        position = [n for n in gate.gates if shapes[n] == own].index(name)
        group = f"*{own[0]}of{own[0]}" if own else "*"
        index = (..., position, *[slice(None)] * len(own))
        return jax.tree.map(lambda x: x[index], gate.memory[group])
    shape = dict(gate.gates.spec)[name]
    group = "*" + "x".join(str(n) for n in shape if set(shape) != {1})
    if group != "*":
        group += "of" + "x".join(str(n) for n in shapes[name])
    mine = next(place.group for place in gate.gates.places if place.name == name)
    alike = [place for place in gate.gates.places if place.group == mine]

    def take(values):
        groups = [None] * mine + [values]
        return ByLeaf(groups, tuple(alike))[name]

    return jax.tree.map(take, gate.memory[group])
