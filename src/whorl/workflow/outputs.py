"""Where single commands write: asked before the work begins, so that none of it is lost."""

from __future__ import annotations

from pathlib import Path

from whorl.errors import InputError
from whorl.files import check_folder

_SUFFIX = ".safetensors"


def check_output(output: Path, *inputs: Path | None, beside: str | None = None) -> None:
    """Make sure that a result can have this name, and takes the place of nothing that it is made of.

    Args:
        output: Where the result is to go.
        inputs: What it is made of.
        beside: Suffix of a further file that is written beside it.

    Raises:
        InputError: Another suffix than ``.safetensors``, a folder, within a file, or one of the inputs.
    """
    if output.suffix != _SUFFIX:
        raise InputError(
            f"{output}: got a name that ends in '{output.suffix}', expected {_SUFFIX}. "
            f"Write for example {output.name.removesuffix(output.suffix) or 'made'}{_SUFFIX}."
        )
    check_folder(output.parent)
    if output.is_dir():
        raise InputError(f"{output}: is a folder, expected the name of a file to write.")
    written = [output, *([output.with_suffix(beside)] if beside else [])]
    for path in written:
        for given in inputs:
            if given is not None and path.exists() and given.exists() and path.samefile(given):
                raise InputError(
                    f"{path}: would be written over what is read from it. Choose another output name."
                )
