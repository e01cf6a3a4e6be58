"""K-means that knows some of the answers: labeled rows stay with their class.

Vanilla GCD predicts with it. Rows are l2-normalised, so that squared distances say what
cosines say. The iterations are Lloyd's, every pass over the rows is made of matrix
products over blocks of rows, and one compilation serves all keys of one shape.
"""

from eagc_jax.gcd.clustering._lloyd import Clustering
from eagc_jax.gcd.clustering.semi_supervised import kmeans, semi_supervised_kmeans

__all__ = ["Clustering", "kmeans", "semi_supervised_kmeans"]
