"""Structures from measured G(r): ``python -m benchmarks.reconstruction.measured``.

Nickel, silicon and SrFe2As2 from their curves, formulas and cells; no positions. A structure is right if it
has the known space group, in which these formulas and cells have one structure, up to the height of As.
Without the files, and with ``--quick``, the curve of nickel is computed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from ase.build import bulk

from whorl.representations.pdf import PDF
from whorl.workflow.measured import EVALUATIONS, invert_measured
from whorl.workflow.monitor import Monitor

CASES = {
    "Ni": ("Ni4", (3.524, 3.524, 3.524, 90.0, 90.0, 90.0), 225),
    "Si": ("Si8", (5.431, 5.431, 5.431, 90.0, 90.0, 90.0), 227),
    "SrFe2As2_246K": ("Sr2Fe4As4", (3.93, 3.93, 12.3, 90.0, 90.0, 90.0), 139),
}


def computed(folder: Path) -> None:
    """Write the curve of nickel as if it had been measured."""
    pdf = PDF(r_min=0.1, r_max=16.0, q_damp=0.05, broadening=())
    with torch.no_grad():
        curve = pdf.curve([bulk("Ni", cubic=True)])[0].tolist()
    rows = "\n".join(f"{r:g} {g:g}" for r, g in zip(pdf.r, curve, strict=True))
    (folder / "Ni.gr").write_text(f"mode = xray\nqmax = 25.0\n#L r(A) G(r)\n{rows}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Structures from measured pair distribution functions.")
    parser.add_argument("--quick", action="store_true", help="a computed curve, hardly any search")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pdf"), help="folder of .gr files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data
        if options.quick or not data.is_dir():
            data = Path(temporary)
            computed(data)
        print("file             seed  R_w    space group  right  seconds")
        for name, (formula, cell, number) in CASES.items():
            if not (data / f"{name}.gr").exists():
                continue
            for seed in range(1 if options.quick else options.seeds):
                start = time.perf_counter()
                fit = invert_measured(
                    data / f"{name}.gr",
                    formula=formula,
                    cell=cell,
                    output=Path(temporary) / f"{name}-{seed}",
                    monitor=Monitor(),
                    budget_evaluations=100 if options.quick else options.evaluations,
                    seed=seed,
                )
                right = "yes" if fit.space_group == number else "no"
                taken = time.perf_counter() - start
                print(
                    f"{name:16} {seed:4}  {fit.r_w:.3f}  {fit.space_group:11}  {right:5}  {taken:7.1f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
