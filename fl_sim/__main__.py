"""`python -m fl_sim` is `fl-sim`."""

from fl_sim.cli import main

main()
