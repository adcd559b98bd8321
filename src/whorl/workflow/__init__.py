"""One recipe runs the whole line, stage by stage; what is finished is not repeated."""

from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import Recipe, parse_recipe, read_recipe, save_recipe
from whorl.workflow.stages import STAGES, report_again, run_recipe

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
