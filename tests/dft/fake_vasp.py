"""A program that behaves like VASP as far as files go: it relaxes POSCAR by effective medium theory.

The environment variable FAKE_VASP says what goes wrong: "killed:N", "error:N" or "time:N" in the stage whose
folder ends in N, "unconverged:N".
"""

import os
import sys
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS
from ase.units import GPa

HEAD = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <kpoints><generation/><varray name="kpointlist"><v>0 0 0</v></varray>
 <varray name="weights"><v>1</v></varray></kpoints>
 <parameters><separator name="ionic"><i type="int" name="NSW">{nsw}</i></separator></parameters>
 <atominfo><array name="atoms"><set>{atoms}</set></array></atominfo>
"""


def rows(values):
    return "".join(f"<v>{' '.join(f'{x:.8f}' for x in row)}</v>" for row in values)


def structure(atoms, name=""):
    return (
        f"<structure{name}><crystal><varray name='basis'>{rows(atoms.cell)}</varray></crystal>"
        f"<varray name='positions'>{rows(atoms.get_scaled_positions())}</varray></structure>\n"
    )


def energies(value):
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "<energy>" + "".join(f"<i name='{name}'>{value:.8f}</i>" for name in names) + "</energy>"


def main():
    here = Path.cwd()
    trouble, _, stage = os.environ.get("FAKE_VASP", "").partition(":")
    trouble = trouble if here.name.endswith(f"_{stage}") else ""
    incar = dict(line.replace(" ", "").split("=") for line in Path("INCAR").read_text().splitlines())
    symbols = Path("POTCAR").read_text().split()
    atoms = read("POSCAR", format="vasp")
    order = list(dict.fromkeys(atoms.get_chemical_symbols()))
    assert [symbol.split("_")[0] for symbol in symbols] == order, (symbols, order)
    assert Path("KPOINTS").read_text().split()[-3:] == ["3", "3", "3"]
    if trouble == "error":
        print("|     VERY BAD NEWS! internal error in subroutine SGRCON:     |")
        Path("OUTCAR").write_text(" vasp.6.4.2\n")
        sys.exit(0)  # as VASP often does
    nsw = int(incar["NSW"])
    atoms.calc = EMT()
    xml = [HEAD.format(nsw=nsw, atoms="".join(f"<rc><c>{s}</c><c>1</c></rc>" for s in atoms.symbols))]
    xml.append(structure(atoms, " name='initialpos'"))
    outcar = [f"   NSW    =     {nsw}    number of steps for IOM\n   IBRION =      2    ionic relax\n"]

    def step():
        energy, stress = atoms.get_potential_energy(), atoms.get_stress(voigt=False)
        xml.append(
            f"<calculation><scstep>{energies(energy)}</scstep>{structure(atoms)}"
            f"<varray name='forces'>{rows(atoms.get_forces())}</varray>"
            f"<varray name='stress'>{rows(-stress / GPa * 10)}</varray>{energies(energy)}</calculation>\n"
        )
        outcar.append(
            "------ aborting loop because EDIFF is reached ------\n"
            f"  external pressure = {-np.trace(stress) / 3 / GPa * 10:12.2f} kB  Pullay stress = 0.00 kB\n"
            f"  free  energy   TOTEN  = {energy:16.8f} eV\n"
        )

    relaxation = BFGS(FrechetCellFilter(atoms), logfile=None)
    relaxation.attach(step)
    converged = relaxation.run(fmax=0.05, steps=1 if trouble else min(nsw, 6))
    write("CONTCAR", atoms, format="vasp", direct=True)
    if trouble not in ("killed", "time"):
        xml.append("</modeling>\n")
        if converged and trouble != "unconverged":
            outcar.append(" reached required accuracy - stopping structural energy minimisation\n")
        outcar.append(" General timing and accounting informations for this job:\n")
    if trouble == "time":
        print("slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***")
    text = "".join(xml)
    Path("vasprun.xml").write_text(text[: int(len(text) * 0.8)] if trouble == "killed" else text)
    Path("OUTCAR").write_text("".join(outcar))


main()
