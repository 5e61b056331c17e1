"""What every other module may use: checks, devices, generators, gradients and masks as data."""
