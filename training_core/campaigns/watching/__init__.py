"""A model in production: what it meets is compared with what it was made for; it is trained again when that moved."""
