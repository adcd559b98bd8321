"""A recipe that goes through every stage in seconds, and a monitor that notes which steps ran."""

from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.settings import Recipe

TINY = """\
name: tiny
seed: 3
data:
  clusters: {element: Pt, atoms: 4, count: 30, calculator: emt, window: [0.0, 5.0], processes: 1}
representation:
  cutoff: 8.0
  g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]]
  g5: [[0.05, 1.0, 1.0], [0.05, 1.0, -1.0]]
sampling: {sizes: [15, 24]}
generator: {epochs: 20, layers: 1, hidden: 8, latent: 2}
surrogate: {epochs: 20, layers: 1, hidden: 8}
generate: {targets: [2.0, 3.0], samples: 5}
reconstruct: {samples: 2, budget_evaluations: 150, reference: 3, reference_evaluations: 300}
report: {gallery: 1}
"""


def tiny(*changes: str) -> Recipe:
    return parse_recipe(TINY, changes=changes)


class Steps(Monitor):
    """Notes which steps are done, and not those that are there already."""

    def __init__(self):
        super().__init__()
        self.done = []

    def step(self, name, *, state, seconds=0.0):
        if state == "done":
            self.done.append(name)
