"""Pages a person reads: `report.html` of one run, `sweep.html` and `sweep.csv` of many."""
