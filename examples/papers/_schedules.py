"""The schedule that the experiments share."""

from dropcore.schedules import Cosine


def falling(settings, samples, *, first=0):
    """A learning rate that falls to 0 over all updates of a run but the first ones."""
    updates = settings.epochs * -(-samples // settings.batch)
    return Cosine(settings.learning_rate, steps=updates - first)
