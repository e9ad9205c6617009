"""Deployments as data: environments, flows with their schedules, automations; `apply` is the only side effect."""
