"""What all tests share."""

from hypothesis import HealthCheck, settings

# A machine that is busy makes examples slow, which is no failure.
settings.register_profile("gtcp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gtcp")

pytest_plugins = ["pytester"]
