"""Categories of new items: the model that a discovery leaves, and its files."""

from eagc_jax.gcd.prediction.calibration import Calibration
from eagc_jax.gcd.prediction.files import load_predictor
from eagc_jax.gcd.prediction.fitting import fit_predictor
from eagc_jax.gcd.prediction.predictor import BackboneOf, Prediction, Predictor

__all__ = [
    "BackboneOf",
    "Calibration",
    "Prediction",
    "Predictor",
    "fit_predictor",
    "load_predictor",
]
