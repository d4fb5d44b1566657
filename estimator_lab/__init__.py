"""Measure bias, variance and cosine similarity of gradient estimators."""
