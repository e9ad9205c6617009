"""How a file is known to be what it was: by its SHA-256, or its CRC-32 when it is large and short-lived."""

import hashlib
from pathlib import Path

CRC32 = "crc32:"
"""What a CRC-32 begins with where checksums are listed."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32_text(crc: int) -> str:
    """A CRC-32 as `checksums.json` lists it."""
    return f"{CRC32}{crc:08x}"
