"""How a batch changes a net: gradients, what bounds and averages them, optimisers, schedules."""
