"""PyTorch's side of benchmarks/embedding.py: run by an interpreter that has it.

    python embedding_torch.py NAME WEIGHTS WORK.npz FEATURES.npy

Answers each line on its standard input with the seconds of one pass over the work.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch


def efficientnet(weights: str):
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()

    def features(batch: list[np.ndarray]) -> torch.Tensor:
        images = (torch.from_numpy(np.stack(batch)).float() - 127) / 128
        found = model.extract_features(images.permute(0, 3, 1, 2).contiguous())
        return found.mean((2, 3))

    return features


def minilm(weights: str):
    from transformers import BertModel

    model = BertModel.from_pretrained(weights).eval()

    def features(batch: list[np.ndarray]) -> torch.Tensor:
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(batch):
            ids[row, : len(one)] = torch.from_numpy(one)
            mask[row, : len(one)] = 1
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)

    return features


def main() -> None:
    name, weights, work, answer = sys.argv[1:]
    with np.load(work) as file:
        ends = np.cumsum(file["sizes"])[:-1]
        items, size = np.split(file["items"], ends), int(file["batch"])
    features = (
        efficientnet(weights) if name == "efficientnet-lite0" else minilm(weights)
    )
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    with torch.inference_mode():
        for batch in batches:  # not counted, as ours compiles before
            features(batch)
        for _ in sys.stdin:
            start = time.perf_counter()
            found = torch.cat([features(batch) for batch in batches]).numpy()
            seconds = time.perf_counter() - start
            np.save(Path(answer), found)
            print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
