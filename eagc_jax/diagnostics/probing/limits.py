"""Thresholds of a probe's rules; the docstring of ProbeReport says what each is for."""

ROUNDING = 1e-5  # cosines between -this and 0 are no increase
RARE = 0.1  # share of steps
LONGER = 10.0  # ratio of norms
OPPOSED = 0.05  # attainable cosine
CERTAIN = 2.0  # standard errors
MOSTLY = 0.5  # share of the losses that steps raised, or of the steps
AGAINST = -0.1  # mean over steps of the lowest cosine of a pair
PERSISTENT = 0.5  # a pair's mean cosine, negative, over its mean size
CONCENTRATED = 0.8, 1 / 3  # share of the conflict, in at most this share of the leaves
FEW_STEPS = 10
