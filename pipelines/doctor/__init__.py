"""A look, before a long run, at each thing that would fail late in it.

- `checks`: what a check finds, and running all of them, each within its time.
- `machine`: versions, accelerator, precision and model.
- `files`: inputs, output and free disk.
- `labelstudio`: server, token, project, labelling config, and images in a browser.
- `command`: the command `doctor`.
"""
