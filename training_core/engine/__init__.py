"""Training: one loop that any learner goes through, and what it leaves behind."""
