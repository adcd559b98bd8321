"""Summary of a run in a few lines, from its resolved recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whorl.conditions import describe_requests
from whorl.evaluation.results import Results
from whorl.proposals.formulas import in_words
from whorl.proposals.settings import ProposalSettings
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.refinement.base import RefinerSettings
from whorl.representations.settings import RepresentationSettings

_KINDS = {
    "cvae": "cVAE",
    "gan": "GAN",
    "wgan_gp": "Wasserstein GAN with gradient penalty",
    "diffusion": "diffusion model",
}
_SAMPLERS = {"dpm": "DPM-Solver++", "ddim": "DDIM", "ddpm": "DDPM"}


def describe(recipe: Mapping[str, Any], results: Results) -> list[tuple[str, str]]:
    """Return headings and sentences; what the recipe does not say is left out.

    Args:
        recipe: Resolved, as plain data.
        results: Of the run.
    """
    targets = sorted({target.target for size in results.sizes.values() for target in size.targets})
    lines = [
        ("Requested", f"{results.property} of {_listed([f'{t:g}' for t in targets])} {results.unit}".strip()),
        ("Conditions", _requested(recipe)),
        ("Formulas", _formulas(recipe.get("generate") or {})),
        ("Data", _data(recipe, results)),
        ("Representation", _representation(recipe.get("representation") or {})),
        ("Training rows", _sampling(recipe.get("sampling") or {}, results)),
        ("Generator", _network(recipe.get("generator") or {})),
        ("Surrogate", _surrogate(recipe.get("surrogate") or {})),
        ("Samples", _samples(recipe)),
        ("Reconstruction", _reconstruction(recipe.get("reconstruct"))),
        ("Active rounds", _active(recipe.get("active"))),
        ("Refinement", _refinement(recipe.get("refine"))),
        ("Evaluated by", _evaluated_by(recipe, results)),
    ]
    return [(heading, text) for heading, text in lines if text]


def _formulas(generate: Mapping[str, Any]) -> str:
    if given := generate.get("proposals"):
        return f"those of the structures of {given}, which the reconstruction begins with"
    if (settings := generate.get("formulas")) is None:
        return ""
    request = ProposalSettings.model_validate(settings)
    return f"{in_words(request)}, proposed by {request.proposer.kind} from the training structures"


def calculator_name(recipe: Mapping[str, Any]) -> str:
    """Return the name of the energy method of the evaluation; empty where there is none."""
    given = (recipe.get("evaluate") or {}).get("calculator")
    clusters = (recipe.get("data") or {}).get("clusters") or {}
    return _calculator(given or clusters.get("calculator"))


def _calculator(settings: Any) -> str:
    return method_name(settings.get("name", "") if isinstance(settings, Mapping) else str(settings or ""))


def method_name(name: str) -> str:
    """Return how people write the name of an energy method.

    >>> method_name("emt"), method_name("mace.calculators:MACECalculator")
    ('EMT', 'mace.calculators:MACECalculator')
    """
    return {
        "emt": "EMT",
        "chgnet": "CHGNet",
        "sevennet": "SevenNet",
        "gfn1-xtb": "GFN1-xTB",
        "gfn2-xtb": "GFN2-xTB",
    }.get(name, name)


def _data(recipe: Mapping[str, Any], results: Results) -> str:
    data = recipe.get("data") or {}
    low, high = results.data_range
    rows = f"{results.data_rows:,} labelled structures, {low:.2f} to {high:.2f} {results.unit}".strip()
    if clusters := data.get("clusters"):
        name = _clusters(clusters)
        by = _calculator(clusters.get("calculator"))
        return f"{name} clusters, relaxed from random geometries and labelled by {by}: {rows}"
    if crystals := data.get("crystals"):
        by = _calculator(crystals.get("calculator")) or "CGCNN"
        relaxed = "relaxed and " if crystals.get("relax") else ""
        return f"AFLOW prototypes with other elements, {relaxed}labelled by {by}: {rows}"
    if files := data.get("files"):
        return f"{files.get('path')}, property {files.get('property')}: {rows}"
    if features := data.get("features"):
        of = f" of {features['composition']}" if features.get("composition") else ""
        return f"finished features{of} from {features.get('path')}: {rows}"
    return rows


def _clusters(settings: Mapping[str, Any]) -> str:
    atoms, elements = settings.get("atoms"), settings.get("elements") or [settings.get("element") or ""]
    if settings.get("formula"):
        return str(settings["formula"])
    if isinstance(atoms, list | tuple) or len(elements) > 1:
        sizes = "–".join(map(str, atoms)) if isinstance(atoms, list | tuple) else atoms
        return f"{'–'.join(elements)} ({sizes} atoms)"
    return f"{elements[0]}{atoms or ''}"


def _representation(settings: Mapping[str, Any]) -> str:
    return RepresentationSettings.model_validate(settings).summary() if settings else ""


def _sampling(settings: Mapping[str, Any], results: Results) -> str:
    sizes = _listed([f"{size.training_rows:,}" for size in results.sizes.values()])
    how = "all rows" if settings.get("sizes") == "all" else "drawn by farthest point sampling"
    share = settings.get("split")
    return f"{sizes} ({how})" + (f", {100 * share:.0f} % of them train, the rest validates" if share else "")


def _network(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    kind = _KINDS.get(settings.get("kind", ""), settings.get("kind", "network"))
    if settings.get("cascade"):
        kind += " of two U-Nets in cascade"
    conditions = [str(name).replace("_", " ") for name in settings.get("conditions") or ()]
    diffuses = settings.get("kind") == "diffusion"
    parts = [
        f"{kind}, {settings['layers']} layers of {settings['hidden']}"
        if {"layers", "hidden"} <= settings.keys()
        else kind,
        f"{settings['channels']} channels" if settings.get("channels") else "",
        f"latent {settings['latent']}" if "latent" in settings else "",
        f"β = {settings['beta']:g}" if "beta" in settings else "",
        f"λ = {settings['penalty']:g}" if "penalty" in settings else "",
        f"{settings['critic_steps']} steps of the critic" if "critic_steps" in settings else "",
        f"{settings['steps']} steps of {_SAMPLERS.get(settings.get('sampler', ''), 'sampling')}"
        if diffuses and "steps" in settings
        else "",
        f"guidance {settings['guidance']:g}" if diffuses and "guidance" in settings else "",
        f"conditioned on {_listed(conditions)}" if conditions else "",
        f"{settings['members']} trained alike" if settings.get("members", 1) > 1 else "",
        _training(settings),
    ]
    return ", ".join(part for part in parts if part)


def _surrogate(settings: Mapping[str, Any]) -> str:
    if settings.get("judge"):
        return f"given, {settings['judge']}"
    if not settings:
        return ""
    return f"{_network({**settings, 'kind': 'network'})}, trained on all labelled structures"


def _training(settings: Mapping[str, Any]) -> str:
    if not {"epochs", "batch_size", "learning_rate"} <= settings.keys():
        return ""
    return (
        f"{settings['epochs']} epochs, batch {settings['batch_size']}, "
        f"learning rate {settings['learning_rate']:g}"
    )


def _samples(recipe: Mapping[str, Any]) -> str:
    generated = (recipe.get("generate") or {}).get("samples")
    section = recipe.get("reconstruct")
    inverted = ReconstructorSettings.model_validate(dict(section)).wanted if section else None
    text = f"{generated:,} samples for each target" if generated else ""
    return text + (f", {min(inverted, generated or inverted):,} of them reconstructed" if inverted else "")


def _requested(recipe: Mapping[str, Any]) -> str:
    text = describe_requests(recipe.get("generate") or {})
    return f"each structure {text}" if text else ""


def _reconstruction(section: Any) -> str:
    return ReconstructorSettings.model_validate(dict(section)).summary() if section else ""


def _active(section: Mapping[str, Any] | None) -> str:
    if not section:
        return ""
    return f"{section['rounds']} with {section['labels']} further labels each, for the surrogate of the atoms"


def _refinement(sections: Any) -> str:
    return ", then ".join(RefinerSettings.model_validate(dict(of)).summary() for of in sections or ())


def _evaluated_by(recipe: Mapping[str, Any], results: Results) -> str:
    name = calculator_name(recipe)
    closed = (recipe.get("reconstruct") or {}).get("kind") == "closed_form"
    if closed and not name:
        seven = (recipe.get("evaluate") or {}).get("cgcnn") is not False
        return "the surrogate (features)" + (" and CGCNN (structures)" if seven else "")
    compared = any(t.potential is not None for size in results.sizes.values() for t in size.targets)
    if not name or not compared:
        return "the surrogate alone"
    how = "as refined" if recipe.get("refine") else "without relaxation or screening"
    return f"the surrogate (features) and {name} (structures, {how})"


def _listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else ""]))
