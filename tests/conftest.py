"""Settings of the whole suite."""

from hypothesis import settings

# A busy machine may take any time for an example; how fast things are is for benchmarks/ to say.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
