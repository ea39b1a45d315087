"""What holds for every test."""

from hypothesis import settings

# No test judges by the clock: a busy machine is no failure.
settings.register_profile("extproc", deadline=None)
settings.load_profile("extproc")
