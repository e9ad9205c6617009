"""Which code makes what is kept: part of its name, so that what other code made is never taken for it."""

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path


@cache
def core_fingerprint() -> str:
    """SHA-256 of this library's source and of the versions of the libraries that decide its numbers."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    for library in ("numpy", "scipy", "scikit-learn", "torch"):
        digest.update(f"{library}=={installed_version(library)}\0".encode())
    return digest.hexdigest()


def installed_version(distribution: str) -> str:
    """Which one is installed; empty when none is."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
