"""Short programs, one for each way people train: each prints and checks its claim.

python -m examples.recipes.flax_nnx
"""
