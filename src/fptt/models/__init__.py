"""Networks that follow the one protocol: ``output, state = model(x_t, state)``."""
