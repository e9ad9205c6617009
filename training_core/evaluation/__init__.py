"""How good predictions are, how far their confidence can be believed, and both again when modalities are missing."""
