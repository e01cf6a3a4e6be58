"""Names of the `transformers` library's ViT and DINOv2 models to the official ones."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_PREFIX = re.compile(r"^(vit|dinov2|dinov2_with_registers)\.")
_PLACES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
_IN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
}
_BLOCK = re.compile(r"^encoder\.layer\.(\d+)\.(.+)$")
_PART = re.compile(r"\.(weight|bias)$")


def official_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors by their official names; queries, keys and values in one.

    Others stay as they are, and so does a file that has official names already.

    Examples:
      >>> list(official_names({"vit.embeddings.cls_token": np.zeros((1, 1, 4))}))
      ['cls_token']
    """
    plain = {_PREFIX.sub("", name): value for name, value in tensors.items()}
    if not any(name.startswith("embeddings.") for name in plain):
        return dict(tensors)
    kept = {name: value for name, value in plain.items() if name[:7] != "pooler."}
    return _joined({_renamed(name): value for name, value in kept.items()})


def _renamed(name: str) -> str:
    part = _PART.search(name)
    place, ending = (name[: part.start()], part.group()) if part else (name, "")
    if found := _BLOCK.match(place):
        if found[2] not in _IN_BLOCK:
            return name
        return f"blocks.{found[1]}.{_IN_BLOCK[found[2]]}{ending}"
    return f"{_PLACES[place]}{ending}" if place in _PLACES else name


def _joined(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One tensor for queries, keys and values, in this order, where there are all."""
    joined = dict(tensors)
    for name in tensors:
        three = [name.replace("attn.q.", f"attn.{part}.") for part in "qkv"]
        if "attn.q." in name and all(one in tensors for one in three):
            joined[name.replace("attn.q.", "attn.qkv.")] = np.concatenate(
                [joined.pop(one) for one in three]
            )
    return joined
