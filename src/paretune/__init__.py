"""paretune: search how to shrink a trained network, look at the Pareto front, ship the best point."""

__version__ = "0.1.0"
