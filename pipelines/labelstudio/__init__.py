"""The review queue in Label Studio: the project, and pushing captions to it."""
