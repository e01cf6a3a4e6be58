"""Features of the reference implementations, which the tests compare ours to.

    python -m benchmarks.golden_backbones --efficientnet FILE.pth --minilm FOLDER

Needs torch, transformers, tokenizers and efficientnet_lite_pytorch, none of which the
package or its tests need, and nothing of JAX. Writes tests/golden/backbones.npz: features
only, as weights and inputs are either drawn again from a seed or installed packages'. And
checkpoint.pth and checkpoint_legacy.pth, what `torch.save` writes, in its two formats.
The Vision Transformer is written down once more in PyTorch, from the papers and with
PyTorch's own interpolation of positions.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


@dataclasses.dataclass(frozen=True)
class Case:
    """A small Vision Transformer with random weights, and the size of its pictures."""

    patch: int
    grid: int  # patches a side that its positions are for
    image_size: int
    registers: int = 0
    layer_scale: bool = False
    width: int = 128
    depth: int = 2
    images: int = 2


CASES = {
    "dino": Case(patch=8, grid=4, image_size=32),
    "dino_larger": Case(patch=8, grid=4, image_size=56),
    "dinov2_smaller": Case(patch=14, grid=5, image_size=42, layer_scale=True),
    "registers_smaller": Case(14, 5, 42, registers=4, layer_scale=True),
    "registers_larger": Case(14, 3, 70, registers=4, layer_scale=True),
}

SENTENCES = (
    "My card hasn't arrived yet.",
    "Where is my card?",
    "",
    "Ünïcödé and 数字 😀, <b>markup</b>\n\ttabs",
    "a sentence of the same words, " * 60,  # longer than what is read
)


def tensors(case: Case) -> dict[str, np.ndarray]:
    """Weights by their official names, drawn from a seed."""
    random = np.random.default_rng(0)
    width, hidden = case.width, 4 * case.width

    def draw(*shape: int, mean: float = 0.0, scale: float = 0.5) -> np.ndarray:
        return random.normal(mean, scale, shape).astype(np.float32)

    found = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, 1 + case.grid**2, width),
        "patch_embed.proj.weight": draw(width, 3, case.patch, case.patch, scale=0.05),
        "patch_embed.proj.bias": draw(width),
        "norm.weight": draw(width, mean=1),
        "norm.bias": draw(width),
    }
    if case.registers:
        found["register_tokens"] = draw(1, case.registers, width)
    if case.layer_scale:
        found["mask_token"] = draw(1, width)
    for index in range(case.depth):
        block = f"blocks.{index}"
        for name in ("norm1", "norm2"):
            found[f"{block}.{name}.weight"] = draw(width, mean=1)
            found[f"{block}.{name}.bias"] = draw(width)
        for name, outputs, inputs in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", hidden, width),
            ("mlp.fc2", width, hidden),
        ):
            layer = f"{block}.{name}"
            found[f"{layer}.weight"] = draw(outputs, inputs, scale=inputs**-0.5)
            found[f"{layer}.bias"] = draw(outputs)
        if case.layer_scale:
            found[f"{block}.ls1.gamma"] = draw(width, mean=1)
            found[f"{block}.ls2.gamma"] = draw(width, mean=1)
    return found


def pictures(count: int, size: int) -> np.ndarray:
    """(count, size, size, 3) bytes: waves with noise."""
    random = np.random.default_rng(1)
    place = np.linspace(0, 6, size)
    waves = np.sin(place[:, None, None] * random.normal(size=(count, 1, 1, 3)) * 2)
    waves = waves * np.cos(place[:, None] * random.normal(size=(count, 1, 1, 3)) * 2)
    noisy = 128 + 90 * waves + 20 * random.normal(size=(count, size, size, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def vit_features(case: Case) -> np.ndarray:
    """Class tokens after the final norm, by PyTorch."""
    import torch

    weights = {name: torch.from_numpy(value) for name, value in tensors(case).items()}
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    images = torch.from_numpy(pictures(case.images, case.image_size)).float() / 255
    images = ((images - mean) / std).permute(0, 3, 1, 2)
    tokens = _embedded(weights, images, case)
    for index in range(case.depth):
        tokens = _block(weights, f"blocks.{index}", tokens, case)
    return _norm(weights, "norm", tokens)[:, 0].numpy()


def _embedded(weights: dict, images: Any, case: Case) -> Any:
    import torch
    from torch.nn import functional

    patches = functional.conv2d(
        images,
        weights["patch_embed.proj.weight"],
        weights["patch_embed.proj.bias"],
        stride=case.patch,
    )
    patches = patches.flatten(2).transpose(1, 2)
    first = weights["cls_token"].expand(len(images), -1, -1)
    tokens = torch.cat([first, patches], 1) + _positions(weights["pos_embed"], case)
    if not case.registers:
        return tokens
    registers = weights["register_tokens"].expand(len(images), -1, -1)
    return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)


def _positions(pos_embed: Any, case: Case) -> Any:
    import torch
    from torch.nn import functional

    grid = case.image_size // case.patch
    if grid == case.grid:
        return pos_embed
    square = pos_embed[:, 1:].reshape(1, case.grid, case.grid, -1).permute(0, 3, 1, 2)
    how: dict[str, Any] = {"scale_factor": ((grid + 0.1) / case.grid,) * 2}
    if case.registers:
        how = {"size": (grid, grid), "antialias": True}
    square = functional.interpolate(square, mode="bicubic", **how)
    patches = square.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([pos_embed[:, :1], patches], 1)


def _block(weights: dict, block: str, tokens: Any, case: Case) -> Any:
    from torch.nn import functional

    def linear(name: str, x: Any) -> Any:
        layer = f"{block}.{name}"
        return functional.linear(
            x, weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        )

    count, length, width = tokens.shape
    qkv = linear("attn.qkv", _norm(weights, f"{block}.norm1", tokens))
    query, key, value = qkv.reshape(count, length, 3, -1, 64).permute(2, 0, 3, 1, 4)
    share = (query @ key.transpose(-2, -1) / 8).softmax(-1)
    mixed = (share @ value).transpose(1, 2).reshape(count, length, width)
    tokens = tokens + linear("attn.proj", mixed) * weights.get(f"{block}.ls1.gamma", 1)
    hidden = linear("mlp.fc1", _norm(weights, f"{block}.norm2", tokens))
    added = linear("mlp.fc2", functional.gelu(hidden))
    return tokens + added * weights.get(f"{block}.ls2.gamma", 1)


def _norm(weights: dict, name: str, x: Any) -> Any:
    from torch.nn import functional

    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)


def efficientnet_features(weights: Path) -> np.ndarray:
    """Of the package efficientnet_lite_pytorch, on pictures of 224 pixels."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(weights)
    )
    images = (torch.from_numpy(pictures(1, 224)).float() - 127) / 128
    found = model.eval().extract_features(images.permute(0, 3, 1, 2))
    return found.mean((2, 3)).numpy()


def minilm_features(folder: Path) -> np.ndarray:
    """Of transformers' BertModel, with sentence-transformers' mean and length."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(SENTENCES))
    ids = torch.tensor([one.ids for one in encoded])
    mask = torch.tensor([one.attention_mask for one in encoded])
    model = BertModel.from_pretrained(folder).eval()
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def checkpoint() -> dict[str, Any]:
    """A training's, with tensors of several kinds, and two that share their numbers."""
    import torch

    numbers = torch.arange(24.0).reshape(4, 6)
    return {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, name="run"),
        "optimizer": {"state": {0: {"step": torch.tensor(7)}}, "param_groups": [{}]},
        "teacher": {
            "module.whole": torch.nn.Parameter(numbers),
            "module.transposed": numbers.T,
            "module.part": numbers[1:3, ::2],
            "module.half": numbers.half(),
            "module.bfloat16": numbers.bfloat16(),
            "module.long": torch.tensor([1, -2]),
            "module.flags": torch.tensor([True, False]),
            "module.scalar": torch.tensor(2.5),
            "module.empty": torch.zeros(0, 3),
        },
    }


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--efficientnet", type=Path, required=True, metavar="FILE")
    parser.add_argument("--minilm", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    with torch.no_grad():
        features = {name: vit_features(case) for name, case in CASES.items()}
        features["efficientnet"] = efficientnet_features(options.efficientnet)
        features["minilm"] = minilm_features(options.minilm)
    with (GOLDEN / "backbones.npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **features)
    for name, is_zip in (("checkpoint", True), ("checkpoint_legacy", False)):
        path = GOLDEN / f"{name}.pth"
        torch.save(checkpoint(), path, _use_new_zipfile_serialization=is_zip)


if __name__ == "__main__":
    main()
