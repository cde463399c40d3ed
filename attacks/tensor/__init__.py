"""The exact tensor attack: samples from one gradient of Linear - activation - Linear - anything."""
