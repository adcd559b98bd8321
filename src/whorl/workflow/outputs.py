"""Checks of output paths of single commands, before the work begins."""

from __future__ import annotations

from pathlib import Path

from whorl.errors import InputError
from whorl.files import check_folder

_SUFFIX = ".safetensors"


def check_output(
    output: Path, *inputs: Path | None, second: str | None = None, suffix: str = _SUFFIX
) -> None:
    """Check that a result can have this name, and does not overwrite its inputs.

    Args:
        output: File to write.
        inputs: Input files.
        second: Suffix of a second file that is written next to it.
        suffix: That of the name.

    Raises:
        InputError: Another suffix, a folder, within a file, or one of the inputs.
    """
    if output.suffix != suffix:
        raise InputError(
            f"{output}: got a name that ends in '{output.suffix}', expected {suffix}. "
            f"Write for example {output.name.removesuffix(output.suffix) or 'made'}{suffix}."
        )
    check_folder(output.parent)
    if output.is_dir():
        raise InputError(f"{output}: is a folder, expected the name of a file to write.")
    written = [output, *([output.with_suffix(second)] if second else [])]
    for path in written:
        for given in inputs:
            if given is not None and path.exists() and given.exists() and path.samefile(given):
                raise InputError(
                    f"{path}: would be written over what is read from it. Choose another output name."
                )
