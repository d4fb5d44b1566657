"""Gradients of the expected loss of coins."""

from coin_gradients.pair import Pair

__all__ = ["Pair"]
