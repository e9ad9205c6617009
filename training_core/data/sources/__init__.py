"""Tables and arrays wherever they are: files and folders of many formats, URLs, memory; read a few rows at a time.

Nothing here runs what a file contains: pickled objects are refused, and so are links that lead out of a file.
"""

from training_core.data.sources.opening import open_array, open_array_file, open_table
from training_core.data.sources.protocols import ArrayFile, ArraySource, TableSource

__all__ = ["ArrayFile", "ArraySource", "TableSource", "open_array", "open_array_file", "open_table"]
