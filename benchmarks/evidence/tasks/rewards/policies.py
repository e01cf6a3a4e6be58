"""A policy that writes symbols, and three rewards that pull at it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from benchmarks.evidence.task import Draw, Given, Task, decayed_adam, task
from benchmarks.evidence.tasks import networks
from eagc_jax.rewards import group_advantages

PROMPTS, LENGTH, SYMBOLS, GROUP, HIDDEN = 8, 6, 5, 32, 32
BLANK = 0
LEAST = 1e-3  # of a reward's largest value: below it nothing is told apart


def build(name: str, units: tuple[float, ...], network: bool, given: Given) -> Task:
    """Six symbols an answer: the prompt's own, blanks, and a blank at the end.

    Right symbols and blanks trade off one for one, so that every weighted sum of the
    expected rewards is best at an end of the front: what weights reach in between is
    where the training leaves them.

    Rewards are the share of symbols that are the prompt's own, the share of blanks,
    which never are, and whether the last symbol is a blank, in units that differ. Each
    objective is the policy gradient's loss for one reward, from groups of 32 answers;
    the error is one over the geometric mean of the rewards that are expected of the
    trained policy, each over its largest. The best is 1.587: half of the symbols right,
    the others blank, the last among them.
    """

    def own_symbols(key):
        return jax.random.randint(key, (PROMPTS, LENGTH), 1, SYMBOLS)

    def init(key, data):
        if network:
            sizes = (PROMPTS + LENGTH, HIDDEN, HIDDEN, SYMBOLS)
            return networks.dense(key, sizes)
        return 0.01 * jax.random.normal(key, (PROMPTS, LENGTH, SYMBOLS))

    def log_policy(params):
        logits = networks.apply(params, _places()) if network else params
        return jax.nn.log_softmax(logits)

    def losses(params, draw: Draw):
        table = log_policy(params)
        shape = (GROUP, PROMPTS, LENGTH)
        drawn = jax.random.categorical(
            draw.key, jax.lax.stop_gradient(table), shape=shape
        )
        chosen = jnp.take_along_axis(table[None], drawn[..., None], axis=-1)[..., 0]
        likelihood = jnp.sum(chosen, axis=-1)  # (group, prompts)
        rewards = _rewards(drawn, draw.data["own"])
        found = []
        for reward, unit in zip(rewards, units, strict=True):
            advantage = group_advantages(reward.T, normalize=False).T
            found.append(-jnp.mean(unit * advantage * likelihood))
        return tuple(found)

    def evaluate(params, data):
        policy = jnp.exp(log_policy(params))
        own = jnp.take_along_axis(policy, data["own"][..., None], axis=-1)
        expected = {
            "right": jnp.mean(own),
            "short": jnp.mean(policy[..., BLANK]),
            "ended": jnp.mean(policy[:, -1, BLANK]),
        }
        logs = [jnp.log(jnp.maximum(one, LEAST)) for one in expected.values()]
        return {"error": jnp.exp(-sum(logs) / len(logs)), **expected}

    return Task(
        "rewards",
        name,
        ("right", "short", "ended"),
        init,
        losses,
        evaluate,
        20 if given.small else 1000,
        {"own": own_symbols(jax.random.key(7))},
        functools.partial(decayed_adam, learning_rate=5e-3 if network else 0.03),
    )


def _places() -> jax.Array:
    """What the network sees: which prompt and which place, ``(prompts, length, ...)``."""
    prompt = jnp.broadcast_to(jnp.eye(PROMPTS)[:, None], (PROMPTS, LENGTH, PROMPTS))
    place = jnp.broadcast_to(jnp.eye(LENGTH)[None], (PROMPTS, LENGTH, LENGTH))
    return jnp.concatenate([prompt, place], axis=-1)


def _rewards(answers: jax.Array, own: jax.Array) -> tuple[jax.Array, ...]:
    """Of ``(group, prompts, length)``: three of ``(group, prompts)``, from 0 to 1."""
    blank = answers == BLANK
    right = jnp.mean(answers == own[None], axis=-1)
    return right, jnp.mean(blank, axis=-1), blank[..., -1].astype(jnp.float32)


for _name, _units, _network in (
    ("table-units", (10.0, 1.0, 1.0), False),
    ("table-alike", (1.0, 1.0, 1.0), False),
    ("network-units", (10.0, 1.0, 1.0), True),
    ("network-alike", (1.0, 1.0, 1.0), True),
):
    task("rewards", _name)(functools.partial(build, _name, _units, _network))
