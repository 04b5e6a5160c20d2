"""One module a runtime, behind one small protocol, found by entry point (group ``surefoot.runtimes``)."""

from surefoot.runtimes.protocol import Facts, ModelRefused, Options, Runtime, Signature, available, load_runtime

__all__ = ["Facts", "ModelRefused", "Options", "Runtime", "Signature", "available", "load_runtime"]
