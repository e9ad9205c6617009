"""Hooks that watch a training: gradients, metrics, alerts, drift, speed, profiles, budgets."""
