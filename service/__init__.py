"""Serves image classifiers: bytes → image → tensor → batch → probabilities → response."""
