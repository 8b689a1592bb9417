"""The one place that states the version; the build and the User-Agent read it."""

__version__ = "0.5.0"
