"""A battery for attacks, public: hold your own to it.

    from attacks.testing import check_attack
    check_attack(MyAttack())

builds some eighty models and gradients as people write, train and hand them over, runs the attack
on each, and raises `FalseWord` if it certified what is not true, refused with a sentence that is
not true, crashed, or left a trace. A case of your own is a `Case` with a function that builds an
`Instance`.
"""

from attacks.testing.battery import FalseWord, Outcome, cases, check_attack, check_case
from attacks.testing.instance import Case, Instance

__all__ = ["Case", "FalseWord", "Instance", "Outcome", "cases", "check_attack", "check_case"]
