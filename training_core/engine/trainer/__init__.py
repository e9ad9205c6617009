"""One net of one's own, trained out of one configuration."""
