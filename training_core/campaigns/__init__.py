"""Campaigns: pure functions of (config, reports so far) that ask for jobs and conclude from what came of them."""
