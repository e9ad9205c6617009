"""Every error Polychoir raises on purpose, in one tree.

    PolychoirError
    ├── UserError            what the user can mend; the command line exits with 2 and one line
    │   ├── ConfigError      a setting is unknown, malformed or contradicts another
    │   ├── DataError        a source or a dataset is not what its description promises
    │   └── StorageError     a file cannot be written or read back (disk full, checksum, permission)
    ├── DivergenceError      training left the finite numbers; running it again would do the same
    ├── GateError            a quality gate or a quorum was not met
    ├── DeadlineError        the time a run may take is over; not retried, for it will not come back
    ├── StoppedError         the run it belongs to was interrupted or has failed; not retried
    └── TransientError       the outside world failed (a child was killed, a lock timed out); worth a retry

Only `TransientError` is ever retried. A message says what was got, what was expected, and what to do.
"""


class PolychoirError(Exception):
    """Root of the tree: catch it to catch everything Polychoir raises on purpose."""


class UserError(PolychoirError):
    """Something the user can mend: an input, a setting, the disk."""


class ConfigError(UserError):
    """A setting is unknown, malformed, or contradicts another."""


class DataError(UserError):
    """A source, a dataset or an input is not what its description promises."""


class StorageError(UserError):
    """A file cannot be written, or does not read back as it was written."""


class DivergenceError(PolychoirError):
    """Training produced a non-finite loss or gradient. Never retried: the same seed diverges again."""


class GateError(PolychoirError):
    """A quality gate or a quorum was not met; the message names the gate and the value seen."""


class DeadlineError(PolychoirError):
    """The time a run may take is over, or too short for what was to be done. Never retried."""


class StoppedError(PolychoirError):
    """What was under way was ended on purpose: the run it belongs to was interrupted or has failed. Never retried."""


class TransientError(PolychoirError):
    """The outside world failed; the same call may well succeed when it is made again."""
