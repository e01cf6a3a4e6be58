"""Every method compiled by the real TPU compiler, ahead of time: no TPU is needed.

    make tpu-aot
    python -m benchmarks.tpu_aot [--json FILE] [--resume] [--only PATTERN] [--quick]
        [--blocks N]

Each row is one training step, compiled for the four chips of a ``v5e:2x2``:

- the update of a ViT-B/16's parameters (150 leaves, 86 million) from K gradients,
  followed by Adam: every aggregator, ``eagc`` in each granularity and with each energy,
  the coordinators at the feature and at the parameters; parameters replicated, or
  sharded along their first or last axis; K = 2 and 4; float32 and bfloat16;
- the ways to K gradients (``eagc_jax.gradients``) of a ViT-B/16, its batch split;
- SimGCD's whole step with a ViT-S/16 and a ViT-B/16, its batch split.

Columns: seconds to trace and to compile, and their ratio to the plain sum's (same K,
placement and dtype); collectives by kind with the bytes that each device holds after
them; temporary memory; FLOPs of one device. An update's plain sum is compiled again
before and after it, beside the other rows a small program: a machine's pace changes
within minutes. ``bounds.py`` says what a row may cost. A row that costs more makes the
program exit with 1.

Rooms: ``cases`` names the rows, ``trees``, ``ways`` and ``simgcd`` build their programs,
``compiling`` compiles one, ``collectives`` reads the compiled text, ``bounds`` judges,
``worker`` is the process that compiles, ``__main__`` starts it, collects and prints;
``where`` tells where the compiler's time goes in one row.
"""
