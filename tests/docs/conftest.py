"""The sandbox that the documentation's examples talk to, without knowing it."""

from krea_async.sandbox.pytest_plugin import krea_sandbox, krea_sandbox_env, krea_sandbox_factory

__all__ = ["krea_sandbox", "krea_sandbox_env", "krea_sandbox_factory"]
