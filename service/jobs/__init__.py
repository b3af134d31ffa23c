"""Batch scoring: sources → inputs → chunks → rows of results, in input order, each exactly once."""
