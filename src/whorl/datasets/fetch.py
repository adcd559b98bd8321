"""Download of public benchmark sets of crystals, and of a table of formation energies.

Perov-5, Carbon-24 and MP-20 as Xie et al. (ICLR 2022, arXiv:2110.06197) split them; MPTS-52 as Jiao et al.
(NeurIPS 2023, arXiv:2309.04475) did; the formation energies of the Materials Project of April 2019 (matbench
v0.1, Dunn et al., npj Comput. Mater. 6, 138, 2020), for convex hulls. Every address names one commit, so that
a file cannot change under it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.errors import InputError, WhorlError, unknown_option
from whorl.files import read_json, stable_hash, write_json

CHECKSUMS = "checksums.json"  # in the same folder: URL of each file, and its SHA-256 at the first download
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A public data set.

    Attributes:
        address: Folder of the files, with the commit in it.
        sha256: File names and their checksums; None where none is known before the first download.
        licence: Of the repository it comes from.
        column: That each table has.
    """

    address: str
    sha256: Mapping[str, str | None]
    licence: str
    column: str = "cif"


_CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"
_CRABNET = "https://raw.githubusercontent.com/anthony-wang/CrabNet/b09c762ff1355f700c55ced5cb2be5455f2f8981"
_DIFFCSP = "https://raw.githubusercontent.com/jiaor17/DiffCSP/7121d159826efa2ba9500bf299250d96da37f146/data"

# The checksums are those that a public copy of the CDVAE files (gabeguo/cdvae_xrd, Git LFS) states. Both
# val.csv of Perov-5 and Carbon-24 have been hashed here too and agree; the other seven have not.
BENCHMARKS: dict[str, Benchmark] = {
    "perov_5": Benchmark(
        address=f"{_CDVAE}/perov_5",
        sha256={
            "train.csv": "99cc012c21f5670a3d70d53781e1c4f20a9748a2f54945012db7bec5b563af4c",
            "val.csv": "326f401219901270374b71e2faff63df3a29a99fd26f469993b9f476b693daf2",
            "test.csv": "a85878c685037f0a578257f6d4fcdde00e968dbab73c5f1e90ecef65218513f6",
        },
        licence="MIT",
    ),
    "carbon_24": Benchmark(
        address=f"{_CDVAE}/carbon_24",
        sha256={
            "train.csv": "de142c40617954a8b56c66a98bffb1a541abba69c79020067083c74dc445fa5f",
            "val.csv": "36c00689cd63073c954a58bc6ed6e2adb7aeed5a630c994970959a1babffd50e",
            "test.csv": "386b17c08816f434818d51e46687bf72ff3f92348f3ba24823e4758f1fe8a969",
        },
        licence="MIT",
    ),
    "mp_20": Benchmark(
        address=f"{_CDVAE}/mp_20",
        sha256={
            "train.csv": "133bab58dba02d316f9f91174839f17802dce648be4e8659d1a42b32b97fa01d",
            "val.csv": "7b5f4085464b3eac9fd2123acee97ec372214004ce7e983b535b33395abc3e29",
            "test.csv": "dd605c7543cf95a13e150aed630d0915e74edc8dea17e85301ee6fbfeb7f500a",
        },
        licence="MIT; structures of the Materials Project, CC BY 4.0",
    ),
    "mpts_52": Benchmark(
        address=f"{_DIFFCSP}/mpts_52",
        sha256={"train.csv": None, "val.csv": None, "test.csv": None},
        licence="MIT; structures of the Materials Project, CC BY 4.0",
    ),
    "hull_mp2019": Benchmark(
        address=f"{_CRABNET}/data/matbench",
        sha256={"mp_e_form.csv": "90e895635c96447c5be4e9070d26f26e1b4d17925102a6597ae3c4d79c32555b"},
        licence="MIT; energies of the Materials Project, CC BY 4.0",
        column="formula",
    ),
}


def fetch_benchmark(
    name: str,
    directory: Path | str,
    *,
    progress: Callable[[int, int], None] | None = None,
    attempts: int = 4,
    timeout: float = 30.0,
) -> list[Path]:
    """Download a benchmark set into ``directory/name`` and return its files.

    Files that are there already are verified and not fetched again. A checksum that is known beforehand
    is verified; if there is none, that of the first download is written to ``checksums.json`` in the folder
    and must be met from then on, which guards against damage and change, not against a first download that
    was wrong.

    Args:
        name: ``"perov_5"``, ``"carbon_24"``, ``"mp_20"``, ``"mpts_52"`` or ``"hull_mp2019"``.
        directory: Parent of the folder of the set.
        progress: Called with bytes received and bytes in all of the file at hand (0 where unknown).
        attempts: Times a broken connection is taken up again.
        timeout: Seconds without a byte after which a connection counts as broken.

    Raises:
        InputError: Unknown name, or a file that does not have its checksum.
        WhorlError: The address cannot be reached. What has been received is kept.
    """
    if name not in BENCHMARKS:
        raise unknown_option("benchmark", name, BENCHMARKS)
    benchmark, folder = BENCHMARKS[name], Path(directory) / name
    recorded = _recorded(folder / CHECKSUMS)
    paths = []
    for file, known in benchmark.sha256.items():
        path, url = folder / file, f"{benchmark.address}/{file}"
        expected = known or recorded.get(file, {}).get("sha256")
        if path.exists():
            _verify(path, expected, remedy=f"Move it elsewhere, and the command fetches it again from {url}")
        else:
            download(url, path, sha256=expected, progress=progress, attempts=attempts, timeout=timeout)
        if file not in recorded:
            _check_table(path, url, benchmark.column)
            recorded[file] = {
                "sha256": _sha256(path),
                "bytes": path.stat().st_size,
                "address": url,
                "licence": benchmark.licence,
            }
            write_json(folder / CHECKSUMS, recorded)
        paths.append(path)
    return paths


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    attempts: int = 4,
    timeout: float = 30.0,
) -> None:
    """Download one file; ``path`` appears when it is whole and has its checksum, and not before.

    Received data is kept in a hidden file next to it, and the next call requests only the rest.

    Args:
        url: http or https.
        path: Where it goes.
        sha256: Expected checksum.
        progress: Called with bytes received and bytes in all (0 where unknown).
        attempts: Number of retries after broken connections that transferred nothing.
        timeout: Seconds without a byte after which a connection counts as broken.

    Raises:
        InputError: The checksum differs; the received data is deleted.
        WhorlError: The address does not exist or cannot be reached.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{stable_hash(url)}.part")
    failures, reason = 0, ""
    while failures < attempts:
        before = _size(part)
        try:
            whole = _receive(url, part, progress, timeout)
            reason = f"the connection ended after {_size(part)} bytes, before the file did"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise WhorlError(
                    f"{url}: got '{error.code} {error.reason}', expected a file. Remedy: a newer whorl may "
                    f"know where it is now; or put a copy at {path} yourself."
                ) from None
            whole, reason = False, f"the server answered '{error.code} {error.reason}'"
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            if isinstance(error, PermissionError) or getattr(error, "errno", None) == 28:
                raise
            whole, reason = False, str(getattr(error, "reason", error)) or type(error).__name__
        if whole:
            break
        failures = 0 if _size(part) > before else failures + 1
        if 0 < failures < attempts:
            time.sleep(min(0.1 * 2**failures, 5.0))
    else:
        kept = f" The {_size(part)} bytes received are kept." if _size(part) else ""
        raise WhorlError(
            f"{url}: cannot be downloaded ({reason}). Expected a network connection to that address.{kept} "
            f"Remedy: run the same command again when there is one, or put a copy of the file at {path}."
        )
    try:
        _verify(
            part, sha256, remedy="The received data has been deleted; run the same command again", url=url
        )
    except InputError:
        part.unlink()
        raise
    with part.open("rb") as received:
        os.fsync(received.fileno())
    part.replace(path)


def _receive(url: str, part: Path, progress: Callable[[int, int], None] | None, timeout: float) -> bool:
    """Append the missing data to ``part``, and return whether it is complete."""
    offset = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "whorl", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not offset:
            raise
        # There is no more data: it is complete, or not of this file.
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(offset):
            return True
        part.unlink()
        return _receive(url, part, progress, timeout)
    with answer:
        length = int(answer.headers.get("Content-Length") or 0)
        if answer.status != 206:
            offset = 0  # the server sends all of it
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.unlink()
            raise http.client.HTTPException("the server sent another part than the one asked for")
        total = offset + length if length else 0
        with part.open("ab" if offset else "wb") as file:
            received = offset
            while block := answer.read(_BLOCK):
                file.write(block)
                received += len(block)
                if progress is not None:
                    progress(received, total)
    return not length or received == total


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, expected: str | None, *, remedy: str, url: str | None = None) -> None:
    if expected is None:
        return
    got = _sha256(path)
    if got != expected:
        raise InputError(
            f"{url or path}: got a file with SHA-256 {got}, expected {expected}: damaged on the way, or not "
            f"the file that is meant. {remedy}."
        )


def _recorded(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.exists() else {}


def _check_table(path: Path, url: str, column: str) -> None:
    """Reject files that are no such table, such as the login page of a network."""
    with path.open("rb") as file:
        first = file.readline(4096).decode("utf-8", errors="replace").strip()
    if column not in first.split(","):
        path.unlink()
        raise InputError(
            f"{url}: got something that begins with '{first[:60]}', expected a CSV with a column "
            f"'{column}'. It has been deleted. Remedy: see in a browser what your network answers there, and "
            "run the same command again."
        )
