"""Settings of a step that are stated: younger keys that are left out do not count."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from whorl.settings import Section


def stated(section: Section, younger: Collection[str]) -> dict[str, Any]:
    """Return the settings of a section; runs begun before there were ``younger`` keys go on without them."""
    settings = section.model_dump(mode="json")
    return {
        key: value
        for key, value in settings.items()
        if key not in younger or not (value is None or value is False or value == [])
    }
