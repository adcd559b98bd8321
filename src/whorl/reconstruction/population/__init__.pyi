from .reconstructor import PopulationSearch
from .search import solve
from .target_search import PopulationSettings

__all__ = ["PopulationSearch", "PopulationSettings", "solve"]
