"""The warm kernel: a process that has a notebook's imports loaded, and forks a kernel or a command for each request.

It knows nothing of the rest of erpkit. `erpkit.kernels.link` is all that a client imports.
"""
