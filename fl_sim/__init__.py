"""Simulated federated rounds with an adversarial server, from one command."""

__version__ = "0.1.0"
