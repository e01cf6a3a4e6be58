"""Generalized category discovery on Flax NNX (needs the extra ``gcd``)."""
