"""How a network learns: any ``nn.Module`` that is stepped as ``output, state = model(x_t, state)``."""
