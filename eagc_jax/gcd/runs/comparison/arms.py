"""Arms of a comparison: what each one changes of a run, and nothing else.

Every arm trains the same method from the same pretrained backbone, with the same heads,
batches and views, for the same number of steps.
"""

import dataclasses

from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.settings import FeatureCoordination

CONTROL = "warm start"  # what differences are taken to

# The article's strengths, as its code applies them.
AGA, EEP = 0.7, 0.5
NEVER = FeatureCoordination(aga_weight=0.0, eep_weight=0.0)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the table."""

    what: str  # in a few words
    warm: bool = True  # starts from the reference model, else from the backbone
    coordination: FeatureCoordination | None = None
    aggregator: Aggregation | None = None  # None: the weighted sum
    decay: bool = False  # the coordination's strength falls to 0 over the run
    extra_head: bool = False  # Linear and ReLU in front of both heads
    head_rate: float = 1.0


def _feature(**changes: object) -> FeatureCoordination:
    return dataclasses.replace(NEVER, **changes)


# A conceptor that sees directions in which the labeled features differ, at an aperture
# that suits rows of length 1.
CENTRED: dict[str, object] = {
    "mode": "unsupervised_only",
    "center": True,
    "normalize": True,
    "aperture": 10.0,
}

ARMS: dict[str, Arm] = {
    "plain": Arm("SimGCD as it is", warm=False),
    CONTROL: Arm("SimGCD from the reference model"),
    "extra head": Arm(
        "warm start, a layer in front of the heads, head rate x 10",
        extra_head=True,
        head_rate=10.0,
    ),
    "AGA": Arm("warm start and alignment", coordination=_feature(aga_weight=AGA)),
    "EEP": Arm("warm start and projection", coordination=_feature(eep_weight=EEP)),
    "AGA + EEP": Arm(
        "both, released strengths",
        coordination=_feature(aga_weight=AGA, eep_weight=EEP),
    ),
    "AGA + EEP, paper": Arm(
        "both, alignment without the factor 1 / (N_l D)",
        coordination=_feature(aga_weight=AGA, eep_weight=EEP, mode="paper"),
    ),
    "EEP 3": Arm(
        "projection at 3, without a cap",
        coordination=_feature(eep_weight=3.0, max_projection=None),
    ),
    "as released": Arm(
        "both, the extra head and its rate",
        coordination=_feature(aga_weight=AGA, eep_weight=EEP),
        extra_head=True,
        head_rate=10.0,
    ),
    "EEP, unsupervised": Arm(
        "projection of the unsupervised gradient alone",
        coordination=_feature(eep_weight=EEP, mode="unsupervised_only"),
    ),
    "eagc magnitude": Arm(
        "gates on gradients of parameters",
        aggregator=Aggregation("eagc", {"preset": "article", "energy": "magnitude"}),
    ),
    "eagc progress": Arm(
        "the same",
        aggregator=Aggregation("eagc", {"preset": "article", "energy": "progress"}),
    ),
    "eagc exploratory": Arm(
        "the same",
        aggregator=Aggregation(
            "eagc", {"preset": "article", "energy": "exploratory", "temperature": 0.5}
        ),
    ),
    "pcgrad": Arm("PCGrad", aggregator=Aggregation("pcgrad")),
    # UPGrad with two objectives is half of PCGrad: the same arm at equal length.
    "nash_mtl": Arm("Nash-MTL", aggregator=Aggregation("nash_mtl")),
    # Our own variants, to find out what the published parts lack.
    "AGA, cold": Arm(
        "alignment to the pretrained backbone, no warm start",
        warm=False,
        coordination=_feature(aga_weight=AGA),
    ),
    "AGA, decayed": Arm(
        "alignment that falls to 0 over the run",
        coordination=_feature(aga_weight=AGA),
        decay=True,
    ),
    "EEP, centred": Arm(
        "projection at 1, conceptor of centred features of length 1",
        coordination=_feature(eep_weight=1.0, **CENTRED),
    ),
    "EEP, refreshed": Arm(
        "the same, of the student's features, anew after every tenth of the run",
        coordination=_feature(eep_weight=1.0, refresh_epochs=1, **CENTRED),
    ),
    "elastic": Arm(
        "elastic projection of the parameters' gradients",
        aggregator=Aggregation("elastic_projection", {"eep_weight": 1.0}),
    ),
}
