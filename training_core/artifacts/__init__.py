"""Files that are either wholly there or not there at all, named by what is in them."""

from training_core.artifacts.directories import (
    CHECKSUMS,
    ArtifactRef,
    exclusive,
    is_published,
    open_published,
    publish_directory,
    sweep_unfinished,
    verify_published,
    write_text_atomically,
)

__all__ = [
    "CHECKSUMS",
    "ArtifactRef",
    "exclusive",
    "is_published",
    "open_published",
    "publish_directory",
    "sweep_unfinished",
    "verify_published",
    "write_text_atomically",
]
