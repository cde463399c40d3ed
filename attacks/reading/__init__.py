"""What every attack reads off a module and its gradient, before it is an attack of any kind."""
