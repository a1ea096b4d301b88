"""The serving side."""
