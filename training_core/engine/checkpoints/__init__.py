"""Files from which an interrupted training goes on, bit for bit, and nothing in them that could run code."""
