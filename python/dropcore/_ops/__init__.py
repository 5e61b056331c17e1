"""Forward and backward passes of the layers, as operations on arrays of either backend."""
