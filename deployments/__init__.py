"""Deployments as data: schedules, work pools and automations. Nothing is deployed yet; flows run in-process."""
