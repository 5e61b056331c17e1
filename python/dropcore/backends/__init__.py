"""The array backends: ``numpy`` is the slow, obvious reference that the tests trust."""
