"""Surefoot puts trained models onto fleets of edge devices, keeps them answering, and never bricks one."""

__version__ = "0.1.0"
