"""From files, or values in memory, to a published version: aligned by id, checked, split, written block by block."""
