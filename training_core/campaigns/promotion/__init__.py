"""Which version of a model answers in production: contests, promotions, and the ledger that remembers them."""
