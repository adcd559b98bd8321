from .monitor import Monitor
from .recipe import Recipe, parse_recipe, read_recipe, save_recipe
from .stages import STAGES, run_recipe
from .stages.report import report_again

__all__ = [
    "STAGES",
    "Monitor",
    "Recipe",
    "parse_recipe",
    "read_recipe",
    "report_again",
    "run_recipe",
    "save_recipe",
]
