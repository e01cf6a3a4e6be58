"""Embeds rows into a cache: a program that tests start, kill, and run twice at once.

    python -m tests.gcd.backbones.embedding_program CACHE stop
    python -m tests.gcd.backbones.embedding_program CACHE together FLAG

`stop`: prints a line and stands still while half of the third shard is written.
`together`: prints a line, waits for the file FLAG, and writes a shard for each batch.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from eagc_jax.gcd.backbones import embed
from eagc_jax.gcd.backbones.cache import store
from tests.gcd.backbones import fakes

COUNT, BATCH = 40, 4


def stop_at_the_third():
    shards = iter(range(3))

    def fsync(descriptor):
        if next(shards) == 2:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            print("half of it is written", flush=True)
            time.sleep(600)

    os.fsync = fsync


def main(cache, mode, flag=None):
    store._SHARD_BYTES = 1
    if mode == "stop":
        stop_at_the_third()
    else:
        print("ready", flush=True)
        while not Path(flag).exists():
            time.sleep(0.001)
    array = fakes.rows(COUNT)
    found = embed(fakes.records(array), fakes.Linear(), cache=cache, batch_size=BATCH)
    np.testing.assert_array_equal(found.features, array @ fakes.MATRIX)


if __name__ == "__main__":
    main(*sys.argv[1:])
