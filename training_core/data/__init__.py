"""From the data a user has to the batches a learner is fed.

source.py, sources/   what a SOURCE.yaml says; readers for every form of file; cells.py: what a cell means
ingestion/            align, check, split, write
quality/              the profile, the checks and the report a version is published with
storage/              parts, versions, `Dataset`
splitting/            splits, folds, bags
views.py              rows × modalities × columns, nothing copied
preprocessing.py      what is learned from training rows: scales, categories, tokens
streams/              batches: resident, memory-mapped, chunk-shuffled, from any iterable
frames.py             the flat table of prediction requests
synthetic/            worlds with a known answer
"""
