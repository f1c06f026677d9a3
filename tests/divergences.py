"""Where a filesystem of the posix suite is known to fail, and why: one table, read by the suite.

A test listed here must fail on the filesystems named (strict xfail), so that the table stays true. The
documentation of overlayfs lists most of the kernel's entries under "Non-standard behavior".
"""

KERNEL = ("kernel", "kernel-user")
KERNEL_LOWER = ("kernel-lower", "kernel-user-lower")
PYFUSE3 = ("pyfuse3", "pyfuse3-user")
PYFUSE3_LOWER = ("pyfuse3-lower", "pyfuse3-user-lower")

# test function -> ((filesystems that fail it, reason), ...)
DIVERGENCES: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {}
