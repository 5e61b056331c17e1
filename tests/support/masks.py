"""How much the masks of the tests keep."""

# With one plane, two, three, eight, nine and ten of them, and with all.
KEEPS = (
    *(0.0, 2.0**-32, 1e-4, 0.1, 1 / 3, 0.5, 0.75, 0.8, 0.875, 230 / 256, 231 / 512, 341 / 1024),
    *(0.9, 1 - 2.0**-32, 1.0),
)
