r"""A network that learns which formulas there are: p(F | y), element by element.

A formula is a set of pairs of an element and its number of atoms. Of the pairs in random order some are
shown, and the network tells the next one, or that none is left to come:

.. math::
   p(F \mid y) = \sum_\pi \prod_m p(e_m \mid S_{m-1}, y)\; p(n_m \mid e_m, S_{m-1}, y)

over the orders π, where :math:`S_m` are the first m pairs. The network is a function of a sum over the pairs
(a deep set), and an element is known to it by its descriptors (:mod:`whorl.representations.elements`) and by
what is learned of it. Elements that are requested come first; what the request forbids is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from whorl.errors import InputError
from whorl.proposals.known_formulas import Counts, KnownFormulas, counts_of, in_words
from whorl.proposals.settings import FormulaRequest
from whorl.representations.elements import scaled_descriptors

_MOST_ATOMS = 20  # of an element
_MOST_ELEMENTS = 6
_EMBEDDING, _WIDTH = 64, 192
_BATCH = 512
_RATE = 2e-3
_UNLABELLED = 0.2  # of the formulas are shown without their property
_TEMPERATURE = 0.7  # below 1, the likelier formulas
_ROUNDS = 10


class FormulaNetwork:
    """Formulas drawn by a network that has learned those of a data set; for thousands of them.

    Formulas of more than six elements, or more than 20 atoms of one element, are left out.

    Args:
        formulas: Elements and numbers of atoms of each structure.
        values: Their property, NaN where it is unknown; None to leave it out.
        steps: Of the training, each with 512 formulas.
        seed: Of the training.
        progress: Called while it is trained.

    Raises:
        InputError: No formulas.
    """

    def __init__(
        self,
        formulas: Sequence[Mapping[str, int]],
        values: Float[Tensor, "N"] | None = None,
        *,
        steps: int = 2000,
        seed: int = 0,
        progress: Callable[..., None] | None = None,
    ) -> None:
        self.known = KnownFormulas(formulas)
        self.elements = self.known.elements
        usable = [
            k
            for k, row in enumerate(self.known.rows)
            if len(row) <= _MOST_ELEMENTS and max(n for _, n in row) <= _MOST_ATOMS
        ]
        if not usable:
            raise InputError(
                f"formulas: got {len(formulas)}, of which none has at most {_MOST_ELEMENTS} elements of at "
                f"most {_MOST_ATOMS} atoms each."
            )
        kept = [formulas[k] for k in usable]
        self._index = {symbol: k for k, symbol in enumerate(self.elements)}
        elements = torch.zeros(len(kept), _MOST_ELEMENTS, dtype=torch.long)
        numbers = torch.zeros_like(elements)
        for row, one in enumerate(kept):
            for j, (symbol, n) in enumerate(one.items()):
                elements[row, j], numbers[row, j] = self._index[symbol], n
        y = torch.full((len(kept),), math.nan) if values is None else values[usable].float()
        labels = y[y.isfinite()]
        self._labelled = len(labels) > 1
        self._mean = float(labels.mean()) if self._labelled else 0.0
        self._scale = max(float(labels.std()), 1e-9) if self._labelled else 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = _Network(self.elements)
            _fit(self._network, elements, numbers, (y - self._mean) / self._scale, steps, progress)

    def sample(
        self,
        count: int,
        *,
        target: float | None = None,
        request: FormulaRequest | None = None,
        seed: int = 0,
    ) -> list[dict[str, int]]:
        """Return different formulas that are what is requested, in the order in which they were drawn.

        Args:
            count: How many; fewer are returned where no more are found.
            target: Of the property; None to disregard it.
            request: What each of them must be.
            seed: Of all randomness.

        Raises:
            InputError: Elements that the data do not have, a target without a property, or nothing found.
            MissingExtraError: A balanced formula without smact: pip install 'whorl[crystens]'.
        """
        request = request or FormulaRequest()
        self.known.require_seen(request)
        if target is not None and not self._labelled:
            raise InputError("formulas: a target needs the property of the data.")
        generator = torch.Generator().manual_seed(seed)
        found: dict[Counts, dict[str, int]] = {}
        for _ in range(_ROUNDS):
            for one in self._drawn(max(2 * count, 200), target, request, generator):
                key = counts_of(one)
                if key in found or not self.known.meets(key, request):
                    continue
                found[key] = one
                if len(found) == count:
                    return list(found.values())
        if not found:
            raise InputError(
                f"formulas: nothing drawn is what is requested ({in_words(request)}). Ask for less."
            )
        return list(found.values())

    @torch.no_grad()
    def _drawn(
        self, count: int, target: float | None, request: FormulaRequest, generator: torch.Generator
    ) -> list[dict[str, int]]:
        """Return formulas, with repetitions, less those that could not be completed as requested."""
        network, none = self._network, len(self.elements)
        required = [self._index[symbol] for symbol in dict.fromkeys(request.elements)]
        low, high = request.n_elements or (1, _MOST_ELEMENTS)
        low, high = max(low, len(required)), min(high, _MOST_ELEMENTS)
        least, most = request.n_atoms or (1, _MOST_ATOMS * _MOST_ELEMENTS)
        banned = torch.zeros(count, none + 1, dtype=torch.bool)
        banned[:, [self._index[symbol] for symbol in request.exclude if symbol in self._index]] = True
        elements = torch.zeros(count, _MOST_ELEMENTS, dtype=torch.long)
        numbers = torch.zeros_like(elements)
        y = torch.full((count,), math.nan if target is None else (target - self._mean) / self._scale)
        possible = torch.arange(1, _MOST_ATOMS + 1)
        failed = torch.zeros(count, dtype=torch.bool)
        for m in range(high):
            atoms = numbers.sum(1)
            state = network.state(elements, numbers, numbers > 0, y)
            if m < len(required):
                drawn = torch.full((count,), required[m])
            else:
                forbidden = banned.clone()
                forbidden[:, none] |= (m < low) | (atoms < least)
                forbidden[:, :none] |= (atoms >= most)[:, None]
                failed |= forbidden.all(1)
                drawn = _draw(network.element_logits(state), forbidden, generator)
            # Each element that is still to come needs an atom.
            room = most - atoms - max(low - m - 1, 0)
            short = least - atoms if m == high - 1 else torch.zeros_like(atoms)
            forbidden = (possible > room[:, None]) | (possible < short[:, None])
            n = 1 + _draw(network.number_logits(state, drawn), forbidden, generator)
            going = drawn != none
            failed |= going & forbidden.all(1)
            elements[going, m], numbers[going, m] = drawn[going], n[going]
            banned[going, drawn[going]] = True
            banned[~going, :none] = True  # complete
        fine = ~failed & ((numbers > 0).sum(1) >= low)
        return [
            {self.elements[e]: n for e, n in zip(*pairs, strict=True) if n}
            for pairs in zip(elements[fine].tolist(), numbers[fine].tolist(), strict=True)
        ]


def _draw(
    logits: Float[Tensor, "b k"], forbidden: Bool[Tensor, "b k"], generator: torch.Generator
) -> Int[Tensor, "b"]:
    """Return draws; of rows where all is forbidden any, which are left out later."""
    masked = (logits / _TEMPERATURE).masked_fill(forbidden & ~forbidden.all(1, keepdim=True), -math.inf)
    return torch.multinomial(masked.softmax(1), 1, generator=generator)[:, 0]


class _Network(nn.Module):
    descriptors: Tensor

    def __init__(self, elements: Sequence[str]) -> None:
        super().__init__()
        table = torch.from_numpy(scaled_descriptors(elements))
        table = torch.cat([table - table.mean(0), torch.zeros_like(table[:1])])  # the last: no element
        self.register_buffer("descriptors", table.float())
        self.own = nn.Parameter(0.1 * torch.randn(len(table), _EMBEDDING))
        self.common = nn.Linear(table.shape[1], _EMBEDDING)
        self.number = nn.Embedding(_MOST_ATOMS + 1, _EMBEDDING)
        self.pair = nn.Sequential(nn.Linear(2 * _EMBEDDING, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))
        self.body = nn.Sequential(
            nn.Linear(_WIDTH + 3, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Dropout(0.1)
        )
        self.to_element = nn.Linear(_WIDTH, _EMBEDDING)
        self.bias = nn.Parameter(torch.zeros(len(table)))
        self.to_number = nn.Sequential(
            nn.Linear(_WIDTH + _EMBEDDING, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _MOST_ATOMS)
        )

    def _embedded(self) -> Float[Tensor, "e w"]:
        return self.own + self.common(self.descriptors)

    def state(
        self, e: Int[Tensor, "b k"], n: Int[Tensor, "b k"], shown: Bool[Tensor, "b k"], y: Float[Tensor, "b"]
    ) -> Tensor:
        pairs = self.pair(torch.cat([self._embedded()[e], self.number(n)], -1))
        known = y.isfinite().float()
        extra = torch.stack([shown.sum(1).float(), y.nan_to_num(0.0) * known, known], 1)
        state: Tensor = self.body(torch.cat([(pairs * shown[..., None]).sum(1), extra], 1))
        return state

    def element_logits(self, state: Tensor) -> Tensor:
        """Return logits of the next element, and last of none."""
        logits: Tensor = self.to_element(state) @ self._embedded().T / _EMBEDDING**0.5 + self.bias
        return logits

    def number_logits(self, state: Tensor, e: Tensor) -> Tensor:
        """Return logits of 1, 2, … atoms of the element e."""
        logits: Tensor = self.to_number(torch.cat([state, self._embedded()[e]], -1))
        return logits


def _fit(
    network: _Network, e: Tensor, n: Tensor, y: Tensor, steps: int, progress: Callable[..., None] | None
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    for step in range(steps):
        some = torch.randint(len(e), (_BATCH,))
        unlabelled = torch.rand(_BATCH) < _UNLABELLED
        loss = _loss(network, e[some], n[some], y[some].masked_fill(unlabelled, math.nan))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    network.eval()


def _loss(network: _Network, e: Tensor, n: Tensor, y: Tensor) -> Float[Tensor, ""]:
    """Return the mean of -ln p of the pairs that are not shown, any of which may be the next, or of none."""
    order = torch.rand(e.shape).masked_fill(n == 0, 2.0).argsort(1)
    e, n = e.gather(1, order), n.gather(1, order)
    there = n > 0
    m = (torch.rand(len(e)) * (there.sum(1) + 1)).long()
    shown = torch.arange(e.shape[1]) < m[:, None]
    left = there & ~shown
    remaining = left.sum(1)
    state = network.state(e, n, shown, y)
    logits = network.element_logits(state)
    inside = torch.zeros_like(logits).scatter_add(1, e, shown.float()) > 0
    logarithm = logits.masked_fill(inside, -math.inf).log_softmax(1)
    of_elements = logarithm.gather(1, e).masked_fill(~left, 0.0).sum(1) / remaining.clamp(min=1)
    of_elements = torch.where(remaining > 0, of_elements, logarithm[:, -1])
    row, place = left.nonzero(as_tuple=True)
    of_numbers = functional.cross_entropy(
        network.number_logits(state[row], e[row, place]), n[row, place] - 1, reduction="none"
    )
    return ((of_numbers / remaining[row]).sum() - of_elements.sum()) / len(e)
