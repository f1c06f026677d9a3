"""The same work on the kernel's overlay, on fuse-overlayfs, and on pyunionfs: ``./dev bench``.

``filesystems`` says how each is mounted, ``workloads`` what is measured, ``report`` turns the
seconds into a table, a JSON file and a chart, and ``__main__`` goes round. Nothing here imports
pyunionfs: it is measured from outside, as the others are.
"""
