"""Flower strategies: adversaries that wrap any strategy, and the plumbing they stand on."""

from strategies.active import ActiveServer
from strategies.adversary import COHORT, HonestButCurious, Observation
from strategies.cohort import SeededCohort, partition_of, sample_cohort
from strategies.fedsgd import FedSGD
from strategies.guard import DropInvalidUpdates
from strategies.remembering import Remembering
from strategies.secagg_plus import SecAggPlus
from strategies.secure_aggregation import SecureAggregation
from strategies.update import InvalidUpdate, UpdateRule
from strategies.view import ServerView
from strategies.wrapper import StrategyWrapper

__all__ = [
    "COHORT",
    "ActiveServer",
    "DropInvalidUpdates",
    "FedSGD",
    "HonestButCurious",
    "InvalidUpdate",
    "Observation",
    "Remembering",
    "SecAggPlus",
    "SecureAggregation",
    "SeededCohort",
    "ServerView",
    "StrategyWrapper",
    "UpdateRule",
    "partition_of",
    "sample_cohort",
]
