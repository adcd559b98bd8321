"""Run folders: paths of the results of a run."""

from __future__ import annotations

from pathlib import Path

from whorl.surrogates.settings import SurrogateSettings
from whorl.workflow.settings import Recipe


class RunFolder:
    """The folder of one run, with its recipe.

    Results that there are for each training size are asked for by its label, such as ``n300`` or ``all``.

    Args:
        path: The folder.
        recipe: What is done in it.

    >>> run = RunFolder(Path("runs/x"), Recipe.model_construct(seed=1))
    >>> run.generated("all").as_posix()
    'runs/x/generate/all/generated.safetensors'
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe

    def __repr__(self) -> str:
        """Return the folder."""
        return f"RunFolder({self.path})"

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each training size."""
        return tuple(self.recipe.sizes)

    @property
    def dataset(self) -> Path:
        """Labelled structures."""
        return self.path / "data" / "dataset.safetensors"

    @property
    def structures_of_features(self) -> Path | None:
        """The data set that the features were made of; None where features came finished."""
        return None if self.recipe.data.features else self.dataset

    @property
    def features(self) -> Path:
        """Features of the labelled structures."""
        return self.path / "encode" / "features.safetensors"

    def prepared(self, evaluator: str) -> Path:
        """What an evaluator worked out from the real data alone."""
        return self.path / "reference" / f"{evaluator.replace(':', '.')}.json"

    @property
    def surrogate(self) -> Path:
        """The surrogate."""
        return self.path / "train" / "surrogate" / "surrogate.safetensors"

    def rows(self, label: str) -> Path:
        """Rows that a generator is trained on."""
        return self.path / "sampling" / label / "rows.json"

    def generator(self, label: str) -> Path:
        """The generator; further members are in the same folder."""
        return self.path / "train" / label / "generator.safetensors"

    def ensemble(self, label: str) -> Path:
        """The surrogate that selects samples from a pool."""
        return self.path / "train" / f"{label}-ensemble" / "ensemble.safetensors"

    def generated(self, label: str) -> Path:
        """Generated features."""
        return self.path / "generate" / label / "generated.safetensors"

    def proposals(self, label: str) -> Path:
        """Structures of the formulas that were proposed, one for each sample."""
        return self.path / "generate" / label / "proposals.safetensors"

    def structures(self, label: str) -> Path:
        """Structures reconstructed from generated features."""
        return self.path / "reconstruct" / label / "structures.safetensors"

    @property
    def surrogate_of_atoms(self) -> SurrogateSettings | None:
        """Settings of the surrogate of structures by which refiners move them; None where none does."""
        of = (settings.surrogate_settings for settings in self.recipe.refine)
        return next((settings for settings in of if settings is not None), None)

    @property
    def choice(self) -> Path | None:
        """What of the energy method is the property; None where no energies are evaluated."""
        return self.prepared("energy") if any(of.kind == "energy" for of in self.recipe.evaluators) else None

    def atoms_surrogate(self, label: str) -> Path:
        """The surrogate of structures, fitted to the training rows alone."""
        return self.path / "train" / f"{label}-atoms" / "surrogate.safetensors"

    def active_rounds(self, label: str) -> tuple[Path, ...]:
        """Surrogates of structures after each active round; the labels of a round are in the same folder."""
        rounds = self.recipe.active.rounds if self.recipe.active is not None else 0
        return tuple(
            self.path / "active" / label / f"round-{k}" / "surrogate.safetensors"
            for k in range(1, rounds + 1)
        )

    def active_labels(self, label: str) -> tuple[Path, ...]:
        """Structures that were labelled in each active round."""
        return tuple(path.with_name("labels.safetensors") for path in self.active_rounds(label))

    def last_surrogate(self, label: str) -> Path:
        """The surrogate of structures by which refiners move them: that of the last active round, if any."""
        return (self.atoms_surrogate(label), *self.active_rounds(label))[-1]

    def baseline(self, label: str) -> Path:
        """Random training structures after the refiner that draws from spare samples, for comparison."""
        return self.path / "refine" / label / "baseline" / "structures.safetensors"

    def arms(self, label: str) -> dict[str, Path]:
        """Structures to compare, by what was done: as reconstructed, after each refiner, the baseline."""
        arms = {"plain": self.structures(label)}
        for method, path in zip(self.recipe.refine, self.refinements(label), strict=True):
            arms[method.kind if method.kind not in arms else path.parent.name] = path
        if self.surrogate_of_atoms is not None:
            arms["baseline"] = self.baseline(label)
        return arms

    def refinements(self, label: str) -> tuple[Path, ...]:
        """Structures after each of the refiners."""
        folders = [f"{k}-{method.folder_name}" for k, method in enumerate(self.recipe.refine, start=1)]
        return tuple(self.path / "refine" / label / name / "structures.safetensors" for name in folders)

    def refined(self, label: str) -> Path:
        """Structures after the last refiner; without refiners, as they were reconstructed."""
        return (self.structures(label), *self.refinements(label))[-1]

    def step_of(self, result: Path) -> str:
        """Name of the step that makes a file."""
        return result.parent.relative_to(self.path).as_posix()

    def metrics(self, label: str, evaluator: str) -> Path:
        """Metrics of one evaluator."""
        return self.path / "evaluate" / label / f"{evaluator.replace(':', '.')}.json"

    @property
    def results(self) -> Path:
        """Results of all evaluators."""
        return self.path / "evaluate" / "results.json"

    @property
    def candidates(self) -> Path:
        """Table of the candidates; their files are in the same folder."""
        return self.path / "candidates" / "candidates.csv"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report" / "report.html"
