"""Batch image annotation on Apache Beam. Start reading at ``pipelines.annotate``."""

__version__ = "0.1.0"
