from .amd import amd_distances
from .disorder import possibly_disordered
from .match_rate import MatchRate, match_rate, metre
from .prototypes import new_prototypes
from .rmsd import PairRmsd, rmsd_of_pairs
from .settings import MatcherSettings

__all__ = [
    "MatchRate",
    "MatcherSettings",
    "PairRmsd",
    "amd_distances",
    "match_rate",
    "metre",
    "new_prototypes",
    "possibly_disordered",
    "rmsd_of_pairs",
]
