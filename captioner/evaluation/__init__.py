"""Evaluation: how good captions are."""
