"""K-means that knows some of the answers: labeled rows stay with their class.

Vanilla GCD predicts with it, and it gives the first answer before any training. Rows are
l2-normalised, so that squared distances say what cosines say. The iterations are Lloyd's,
every pass over the rows is made of matrix products over blocks of rows. Few rows are put
on the device whole, and one compilation serves all keys of one shape; many are read where
they are, a chunk at a time.
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
