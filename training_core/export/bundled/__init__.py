"""The scripts that go into every bundle as they are; they know nothing of this library."""
