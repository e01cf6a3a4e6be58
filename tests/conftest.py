"""Settings every test shares: eight simulated devices, fixed hypothesis examples."""

import hypothesis
import jax

# Before the first array: later changes would be refused.
jax.config.update("jax_num_cpu_devices", 8)

hypothesis.settings.register_profile(
    "deterministic",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=30,
    print_blob=True,
)
hypothesis.settings.load_profile("deterministic")
