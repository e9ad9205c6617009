"""Which learners are trained, how much each one counts, and the ensemble that comes of it."""
