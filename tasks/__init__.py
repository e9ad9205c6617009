"""Prefect tasks: one verb of the core each, plus policy (retry, cache, tags, artefacts)."""
