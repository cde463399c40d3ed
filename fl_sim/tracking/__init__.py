"""Trackers take a run's rows and pictures as they come: one file per tracking system."""
