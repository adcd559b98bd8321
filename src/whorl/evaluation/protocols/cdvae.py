"""CDVAE: validity, coverage and property distributions (Xie et al., ICLR 2022)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from whorl.chunked import Part
from whorl.evaluation.crystals.amd import amd_distances
from whorl.evaluation.estimates import Estimate, share
from whorl.evaluation.protocols.base import EvaluationProtocol, ProtocolResult, densities, lacking
from whorl.evaluation.protocols.settings import ProtocolSettings
from whorl.evaluation.structure_set import StructureSet
from whorl.settings import Count, Positive
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import sound_crystals
from whorl.tensor_files import tensors_hash

_AT_ONCE = 2000  # crystals of the reference
_HEAVIEST = 118


class CDVAE(EvaluationProtocol):
    """Valid structures and compositions, coverage of the reference, and distances of distributions.

    Distributions are those of 1,000 valid crystals, evenly drawn where there are more, and of the whole
    reference; their distance is Wasserstein's (earth mover's).
    """

    kind = "cdvae"
    source = "Xie et al., ICLR 2022, arXiv:2110.06197; github.com/txie-93/cdvae, scripts/compute_metrics.py"
    departures = (
        "Coverage is by average minimum distances of the structures and earth mover's distances of the "
        "compositions along Pettifor's scale, not by the CrystalNN and Magpie fingerprints of matminer: "
        "its numbers are not those of the publication.",
        "Of fewer than 1,000 valid crystals all are taken; CDVAE's code takes none.",
        "The distribution of a predicted property is left out: CDVAE's own network is not used.",
    )
    uses = frozenset({"reference"})

    class Settings(ProtocolSettings):
        """Settings of CDVAE's evaluation."""

        samples: Count = 1000
        """Valid crystals whose distributions are compared."""
        structure_cutoff: Positive = 0.2
        """Largest average minimum distance of a covered crystal, in Å."""
        composition_cutoff: Positive = 4.0
        """Largest distance of its composition on Pettifor's scale."""
        neighbors: Count = 100
        """Neighbours of each atom that count for the average minimum distance."""

    settings: Settings

    def evaluate(self, structures: StructureSet) -> ProtocolResult:
        """Return validity, coverage and distances of distributions."""
        settings, submitted = self.settings, structures.submitted
        checked = structures.checked()
        valid_structure = checked.valid & structures.sound
        metrics: dict[str, Estimate] = {
            "valid_structure": share(
                valid_structure, of=submitted, text="No atoms within 0.5 Å and at least 0.1 Å³, of all."
            )
        }
        columns = {"valid_structure": valid_structure.tolist()}
        valid = valid_structure
        if checked.neutral is None:
            text = "Oxidation states add up to zero. Not computed: smact is not installed."
            metrics["valid_composition"] = metrics["valid"] = Estimate(value=None, text=text)
        else:
            valid = valid & checked.neutral
            columns |= {"valid_composition": checked.neutral.tolist(), "valid": valid.tolist()}
            metrics["valid_composition"] = share(
                checked.neutral, of=submitted, text="Oxidation states add up to zero (smact), of all."
            )
            metrics["valid"] = share(valid, of=submitted, text="Both, of all.")
        texts = {
            "density_distance": "Distance of the distributions of the density.",
            "elements_distance": "Distance of the distributions of the number of elements.",
        }
        reference = structures.reference
        if reference is not None:
            reference = reference[sound_crystals(reference)]
        if reference is None or not len(reference):
            metrics |= {name: lacking(text, "reference") for name, text in texts.items()}
            metrics["coverage_recall"] = lacking("Reference crystals that are covered.", "reference")
            metrics["coverage_precision"] = lacking("Crystals that cover one of the reference.", "reference")
            return ProtocolResult(metrics=metrics, columns=columns)
        rows = _evenly(torch.nonzero(valid & structures.structures.pbc.all(1)).flatten(), settings.samples)
        chosen = structures.structures[rows]
        for name, values, unit in (
            ("density_distance", densities, "g/cm³"),
            ("elements_distance", _element_counts, "elements"),
        ):
            metrics[name] = _distance(values(chosen), values(reference), unit=unit, text=texts[name])
        crystals = structures.sound & structures.structures.pbc.all(1)
        recall, precision = self._coverage(structures, structures.structures[crystals], reference)
        metrics["coverage_recall"] = share(recall, text="Reference crystals near one of the set.")
        metrics["coverage_precision"] = share(
            precision, of=submitted, text="Crystals near one of the reference, of all."
        )
        covers = torch.zeros(len(structures), dtype=torch.bool)
        covers[torch.nonzero(crystals).flatten()[precision]] = True
        columns["covers"] = covers.tolist()
        return ProtocolResult(metrics=metrics, columns=columns)

    def _coverage(
        self, structures: StructureSet, made: StructureBatch, real: StructureBatch
    ) -> tuple[Tensor, Tensor]:
        """Return which real crystals are near a generated one, and which generated ones near a real one.

        As in CDVAE's code, the nearest structure and the nearest composition may be of different crystals.
        """
        settings = self.settings
        function = partial(_nearest, settings.neighbors, made.replace(info=()))
        key = [settings.neighbors, tensors_hash(made.tensors)]
        parts = structures.map("coverage", function, list(real.chunks(_AT_ONCE)), key=key)

        def near(names: tuple[str, str], join: Callable[[list[Tensor]], Tensor]) -> Tensor:
            apart, unlike = (join([part.tensors[name] for part in parts]) for name in names)
            return (apart <= settings.structure_cutoff) & (unlike <= settings.composition_cutoff)

        recall = near(("real_apart", "real_unlike"), torch.cat)
        return recall, near(("apart", "unlike"), lambda each: torch.stack(each).amin(0))


def _nearest(neighbors: int, made: StructureBatch, real: StructureBatch) -> Part:
    """Return distances of structures and compositions to the nearest one of the other set."""
    infinite = torch.tensor(torch.inf, dtype=torch.float64)
    if not len(made):
        none, far = torch.zeros(0, dtype=torch.float64), infinite.expand(len(real))
        return Part({"apart": none, "unlike": none, "real_apart": far, "real_unlike": far})
    apart = torch.nan_to_num(amd_distances(made, real, k=neighbors), nan=torch.inf)
    unlike = composition_distances(made, real)
    return Part(
        {
            "apart": apart.amin(1),
            "unlike": unlike.amin(1),
            "real_apart": apart.amin(0),
            "real_unlike": unlike.amin(0),
        }
    )


def composition_distances(structures: StructureBatch, others: StructureBatch) -> Tensor:
    r"""Return earth mover's distances of compositions, with elements in the order of Pettifor's numbers.

    Along one line it is :math:`\sum_i |F(i) - G(i)|` of the cumulative fractions of elements.
    """
    first, second = (_cumulative(each) for each in (structures, others))
    return torch.cdist(first, second, p=1)


def _cumulative(structures: StructureBatch) -> Tensor:
    place = torch.from_numpy(_mendeleev())[structures.atomic_numbers.clamp(0, _HEAVIEST)]
    fractions = torch.zeros(len(structures), _places(), dtype=torch.float64)
    weights = (1.0 / structures.n_atoms.double())[structures.structure_index]
    fractions.index_put_((structures.structure_index, place), weights, accumulate=True)
    return fractions.cumsum(1)


@lru_cache(maxsize=1)
def _mendeleev() -> np.ndarray:
    """Return Pettifor's number of each element by atomic number; the last place for those without one."""
    from pymatgen.core import Element

    numbers = [np.nan]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without a number
        for number in range(1, _HEAVIEST + 1):
            value = Element.from_Z(number).mendeleev_no
            numbers.append(np.nan if value is None else float(value))
    order = np.array(numbers)
    return np.where(np.isfinite(order), order, np.nanmax(order) + 1).astype(np.int64)


def _places() -> int:
    return int(_mendeleev().max()) + 1


def _element_counts(structures: StructureBatch) -> Tensor:
    """Return the number of different elements of each structure."""
    there = torch.zeros(len(structures), _HEAVIEST + 1, dtype=torch.bool)
    there[structures.structure_index, structures.atomic_numbers.clamp(0, _HEAVIEST)] = True
    return there.sum(1).double()


def _evenly(rows: Tensor, count: int) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()]


def _distance(made: Tensor, real: Tensor, *, unit: str, text: str) -> Estimate:
    from scipy.stats import wasserstein_distance

    made, real = made[made.isfinite()], real[real.isfinite()]
    if not len(made) or not len(real):
        return Estimate(value=None, count=len(made), of=len(made), unit=unit, text=text)
    value = float(wasserstein_distance(made.numpy(), real.numpy()))
    return Estimate(value=value, count=len(made), of=len(made), unit=unit, text=text)
