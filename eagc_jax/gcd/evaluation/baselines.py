"""What a clustering of the untrained features achieves."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans


def kmeans_predictions(features: ArrayLike, num_clusters: int, seed: int) -> np.ndarray:
    """K-means on l2-normalised features, the best of ten starts.

    Args:
      features: (N, D) floats, e.g. of the unlabeled training images.
      num_clusters: known plus novel classes.
      seed: of the starts.

    Returns:
      (N,) int cluster numbers in [0, num_clusters).

    Raises:
      ValueError: `features` is not (N, D) with N >= num_clusters.

    Examples:
      >>> kmeans_predictions([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]], 2, seed=0).shape
      (3,)
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < num_clusters:
        raise ValueError(
            f"features must have shape (N, D) with N >= {num_clusters} clusters, got "
            f"{features.shape}"
        )
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    # The stubs know n_init="auto" alone.
    model = KMeans(num_clusters, n_init=10, random_state=seed)  # type: ignore[arg-type]
    return model.fit_predict(unit)
