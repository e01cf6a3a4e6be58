"""The stages of a discovery, which `eagc_jax.gcd.pipeline` calls one after another."""
