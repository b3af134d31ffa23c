"""Builds, trains, calibrates and exports image classifiers; writes models/, never serves."""
