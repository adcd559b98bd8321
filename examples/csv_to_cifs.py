"""From a table of crystals to CIF files of new formulas with the value of a property.

    python examples/csv_to_cifs.py crystals.csv --property band_gap --target 1.5 --element O

The table has a column ``cif`` and one with the property. All steps are those of a recipe, which is kept in
the output folder: edit it there and go on with ``whorl run``.
"""

import argparse
import csv
from pathlib import Path

from whorl.workflow import Monitor, Recipe, run_recipe


class Steps(Monitor):
    """Prints the steps as they are done, and what they remark."""

    def step(self, name, *, state, seconds=0.0):
        """Print a step that is done."""
        if state == "done":
            print(f"{name}: {seconds:.0f} s", flush=True)

    def note(self, message):
        """Print a remark."""
        print(f"  {message}", flush=True)


def main(
    table,
    property,
    target,
    *,
    tolerance=0.1,
    elements=(),
    count=20,
    output="cifs",
    epochs=100,
    evaluations=20,
):
    """Make ``count`` crystals, each of a formula that the table does not have, with ``elements`` in all."""
    wanted = {"elements": list(elements), "balanced": True, "new": True}
    recipe = Recipe.model_validate(
        {
            "name": Path(table).stem,
            "data": {"files": {"path": str(table), "property": property}},
            # Crystals become fingerprints: symmetry functions, of as many elements as there are.
            "representation": {"preset": "crystal", "embedding": 4},
            # p(fingerprint | property, composition, volume), and a surrogate that checks the fingerprints.
            "sampling": {"split": 0.9},
            "generator": {"kind": "cvae", "conditions": ["composition", "volume"], "epochs": epochs},
            "surrogate": {"epochs": epochs},
            # A new formula for each sample, by substitution, and a fingerprint for it and the target.
            "generate": {"targets": [target], "samples": 2 * count, "formulas": wanted},
            # Atoms and cell that have the fingerprint …
            "reconstruct": {
                "samples": count,
                "free_cell": True,
                "budget_evaluations": evaluations,
                "reference": 0,
            },
            # … and then the value; those that cannot have it are replaced by spare samples.
            "refine": {"kind": "project", "free_cell": True, "spare": count},
            "evaluate": {"tolerance": tolerance, "cgcnn": False},
        }
    )
    run_recipe(recipe, output, monitor=Steps())
    candidates = Path(output) / "candidates" / "candidates.csv"
    with candidates.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["rank"]]
    for row in rows:
        print(f"{candidates.with_name(row['file'])}  {row['space_group']}  {row['status']}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--property", required=True)
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--element", action="append", default=[], help="in each formula; may be repeated")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("cifs"))
    given = parser.parse_args()
    main(
        given.table,
        given.property,
        given.target,
        tolerance=given.tolerance,
        elements=given.element,
        count=given.count,
        output=given.output,
    )
