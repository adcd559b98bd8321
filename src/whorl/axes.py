"""The axes of whorl: one registry for each kind of method that can be chosen by name.

To add a built-in method, write its file and name its class here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whorl.registry import Registry

if TYPE_CHECKING:
    from whorl.conditions.base import Condition
    from whorl.dft.base import DFTCode
    from whorl.evaluation.evaluators.base import Evaluator
    from whorl.evaluation.protocols.base import EvaluationProtocol
    from whorl.executors.base import Executor
    from whorl.generators.base import ConditionalGenerator
    from whorl.potentials.base import EnergyMethod
    from whorl.proposals.base import Proposer
    from whorl.reconstruction.base import Reconstructor
    from whorl.reconstruction.solvers.base import Solver
    from whorl.refinement.base import Refiner
    from whorl.report.sections.base import ReportSection
    from whorl.representations.base import Representation
    from whorl.surrogates.base import Surrogate

PROPOSERS: Registry[Proposer] = Registry(
    "proposer",
    group="whorl.proposers",
    base="whorl.proposals.base:Proposer",
    builtin={
        "substitution": "whorl.proposals.substitution:Substitution",
        "network": "whorl.proposals.network:NetworkProposer",
    },
)

REPRESENTATIONS: Registry[Representation] = Registry(
    "representation",
    group="whorl.representations",
    base="whorl.representations.base:Representation",
    builtin={
        "acsf": "whorl.representations.acsf:ACSF",
        "crystens": "whorl.representations.crystens:CrysTens",
        "rows": "whorl.representations.rows:Rows",
        "pdf": "whorl.representations.pdf:PDF",
        "soap": "whorl.representations.soap:SOAP",
        "ace": "whorl.representations.ace:ACE",
        "fchl19": "whorl.representations.fchl19:FCHL19",
        "mbtr": "whorl.representations.mbtr:MBTR",
    },
)

GENERATORS: Registry[ConditionalGenerator] = Registry(
    "generator",
    group="whorl.generators",
    base="whorl.generators.base:ConditionalGenerator",
    builtin={
        "cvae": "whorl.generators.cvae:CVAE",
        "gan": "whorl.generators.gan:GAN",
        "wgan_gp": "whorl.generators.wgan_gp:WGANGP",
        "diffusion": "whorl.generators.diffusion:Diffusion",
        "flow": "whorl.generators.flow:Flow",
        "energy_based": "whorl.generators.energy_based:EnergyBased",
        "flow_matching": "whorl.generators.flow_matching:FlowMatching",
    },
)

SURROGATES: Registry[Surrogate] = Registry(
    "surrogate",
    group="whorl.surrogates",
    base="whorl.surrogates.base:Surrogate",
    builtin={
        "network": "whorl.surrogates.network:NetworkSurrogate",
        "ensemble": "whorl.surrogates.ensemble:EnsembleSurrogate",
        "external": "whorl.surrogates.external:ExternalSurrogate",
        "additive": "whorl.surrogates.additive:AdditiveSurrogate",
    },
)

POTENTIALS: Registry[EnergyMethod] = Registry(
    "potential",
    group="whorl.potentials",
    base="whorl.potentials.base:EnergyMethod",
    builtin={
        "emt": "whorl.potentials.emt:EMT",
        "chgnet": "whorl.potentials.chgnet:CHGNet",
        "sevennet": "whorl.potentials.sevennet:SevenNet",
        "matgl": "whorl.potentials.matgl:MatGL",
        "gfn1-xtb": "whorl.potentials.xtb:GFN1",
        "gfn2-xtb": "whorl.potentials.xtb:GFN2",
    },
)

RECONSTRUCTORS: Registry[Reconstructor] = Registry(
    "reconstructor",
    group="whorl.reconstructors",
    base="whorl.reconstruction.base:Reconstructor",
    builtin={
        "auto": "whorl.reconstruction.auto:Auto",
        "population": "whorl.reconstruction.population:PopulationSearch",
        "algorithm1": "whorl.reconstruction.fung2022:Algorithm1",
        "closed_form": "whorl.reconstruction.closed_form:ClosedForm",
    },
)

REFINERS: Registry[Refiner] = Registry(
    "refiner",
    group="whorl.refiners",
    base="whorl.refinement.base:Refiner",
    builtin={
        "relax": "whorl.refinement.relax:Relax",
        "project": "whorl.refinement.project:Project",
        "oracle": "whorl.refinement.oracle:Oracle",
    },
)

EVALUATORS: Registry[Evaluator] = Registry(
    "evaluator",
    group="whorl.evaluators",
    base="whorl.evaluation.evaluators.base:Evaluator",
    builtin={
        "surrogate": "whorl.evaluation.evaluators.surrogate:SurrogateEvaluator",
        "reconstruction": "whorl.evaluation.evaluators.reconstruction:ReconstructionEvaluator",
        "energy": "whorl.evaluation.evaluators.energy:EnergyEvaluator",
        "diversity": "whorl.evaluation.evaluators.diversity:DiversityEvaluator",
        "consistency": "whorl.evaluation.evaluators.consistency:ConsistencyEvaluator",
        "validity": "whorl.evaluation.evaluators.validity:ValidityEvaluator",
        "uniqueness": "whorl.evaluation.evaluators.uniqueness:UniquenessEvaluator",
        "novelty": "whorl.evaluation.evaluators.novelty:NoveltyEvaluator",
        "symmetry": "whorl.evaluation.evaluators.symmetry:SymmetryEvaluator",
        "distributions": "whorl.evaluation.evaluators.distributions:DistributionsEvaluator",
        "cgcnn": "whorl.evaluation.evaluators.cgcnn:CGCNNEvaluator",
        "conditions": "whorl.evaluation.evaluators.conditions:ConditionsEvaluator",
    },
)

PROTOCOLS: Registry[EvaluationProtocol] = Registry(
    "protocol",
    group="whorl.protocols",
    base="whorl.evaluation.protocols.base:EvaluationProtocol",
    builtin={
        "mattergen": "whorl.evaluation.protocols.mattergen:MatterGen",
        "lemat": "whorl.evaluation.protocols.lemat:LeMat",
        "cdvae": "whorl.evaluation.protocols.cdvae:CDVAE",
        "fung2022": "whorl.evaluation.protocols.fung2022:Fung2022",
        "crystens2024": "whorl.evaluation.protocols.crystens2024:CrysTens2024",
    },
)

SOLVERS: Registry[Solver] = Registry(
    "solver",
    group="whorl.solvers",
    base="whorl.reconstruction.solvers.base:Solver",
    builtin={
        "levenberg_marquardt": "whorl.reconstruction.solvers.levenberg_marquardt:LevenbergMarquardt",
        "lbfgs": "whorl.reconstruction.solvers.lbfgs:LBFGS",
        "adam": "whorl.reconstruction.solvers.adam:Adam",
    },
)

EXECUTORS: Registry[Executor] = Registry(
    "executor",
    group="whorl.executors",
    base="whorl.executors.base:Executor",
    builtin={
        "serial": "whorl.executors.serial:Serial",
        "threads": "whorl.executors.threads:Threads",
        "processes": "whorl.executors.processes:Processes",
        "dask": "whorl.executors.dask:Dask",
    },
)

CONDITIONS: Registry[Condition] = Registry(
    "condition",
    group="whorl.conditions",
    base="whorl.conditions.base:Condition",
    builtin={
        "elements": "whorl.conditions.elements:Elements",
        "composition": "whorl.conditions.composition:Composition",
        "crystal_system": "whorl.conditions.crystal_system:CrystalSystem",
        "space_group": "whorl.conditions.space_group:SpaceGroup",
        "volume": "whorl.conditions.volume:Volume",
    },
)

DFT_CODES: Registry[DFTCode] = Registry(
    "electronic structure program",
    group="whorl.dft_codes",
    base="whorl.dft.base:DFTCode",
    builtin={
        "vasp": "whorl.dft.vasp:VASP",
        "espresso": "whorl.dft.espresso:Espresso",
        "gpaw": "whorl.dft.gpaw:GPAW",
    },
)

SECTIONS: Registry[ReportSection] = Registry(
    "report section",
    group="whorl.report_sections",
    base="whorl.report.sections.base:ReportSection",
    builtin={
        "candidates": "whorl.report.sections.candidates:Candidates",
        "headlines": "whorl.report.sections.headlines:Headlines",
        "warnings": "whorl.report.sections.warnings:Warnings",
        "request": "whorl.report.sections.request:Request",
        "surrogate": "whorl.report.sections.accuracy:SurrogateAccuracy",
        "energies": "whorl.report.sections.accuracy:EnergyAccuracy",
        "active": "whorl.report.sections.active:Active",
        "arms": "whorl.report.sections.arms:Arms",
        "diversity": "whorl.report.sections.diversity:DiversityTable",
        "map": "whorl.report.sections.map:FeatureMap",
        "property": "whorl.report.sections.property:PropertyHistograms",
        "reconstruction": "whorl.report.sections.reconstruction:ReconstructionLosses",
        "validity": "whorl.report.sections.validity:ValidityTable",
        "consistency": "whorl.report.sections.consistency:SelfConsistency",
        "distributions": "whorl.report.sections.distributions:Distributions",
        "properties": "whorl.report.sections.properties:PredictedProperties",
        "metrics": "whorl.report.sections.metrics:FurtherMetrics",
        "gallery": "whorl.report.sections.gallery:Gallery",
        "explore": "whorl.report.sections.explore:Explore",
        "training": "whorl.report.sections.training:Training",
        "provenance": "whorl.report.sections.provenance:Provenance",
    },
)
