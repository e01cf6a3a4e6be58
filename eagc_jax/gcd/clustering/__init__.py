"""Semi-supervised k-means: labeled rows stay with their class.

Vanilla GCD predicts with it, and it gives the first answer before any training. Rows are
scaled to length 1, so that squared distances and cosines order them alike. The iterations
are Lloyd's; every pass over the rows is made of matrix products over blocks of rows. A
small matrix is put on the device as a whole, and is compiled for once per shape; a large
one stays where it is and is read in chunks.
"""

from eagc_jax.gcd.clustering._lloyd import Clustering
from eagc_jax.gcd.clustering.composition import labeled_share
from eagc_jax.gcd.clustering.nearest import Assigned, assign, fit_temperature
from eagc_jax.gcd.clustering.num_classes import NumClasses, estimate_num_classes
from eagc_jax.gcd.clustering.semi_supervised import kmeans, semi_supervised_kmeans

__all__ = [
    "Assigned",
    "Clustering",
    "NumClasses",
    "assign",
    "estimate_num_classes",
    "fit_temperature",
    "kmeans",
    "labeled_share",
    "semi_supervised_kmeans",
]
